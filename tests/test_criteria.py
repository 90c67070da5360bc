"""Criteria against plain numpy: the score of a unit is the sum, over all its sites, of the scores of weights."""

from dataclasses import dataclass

import numpy as np
import pytest
from onnx import TensorProto
from onnx.numpy_helper import from_array, to_array

import onnx_reconvene as rc
from onnx_reconvene.saliency import Context


@dataclass(frozen=True)
class Site:
    """Where the units of a group live: unit u at positions[u] along an axis of a weight; made there, or read."""

    weight: str
    axis: int
    positions: list[list[int]]
    made: bool
    blocks: int = 1  # along axis 0; the positions of each are counted on from those of the one before


@dataclass(frozen=True)
class Net:
    """A small network, the shapes of its weights, and the sites of its groups by hand."""

    body: str
    weights: dict[str, tuple[int, ...]]
    groups: list[list[Site]]
    norms: dict[str, int]  # scales of batch normalizations, and the group each belongs to


def one_to_one(width):
    """Return the positions of units that are one channel each."""
    return [[u] for u in range(width)]


def blocks(width, size):
    """Return the positions of units that are `size` neighbouring elements each."""
    return [list(range(u * size, (u + 1) * size)) for u in range(width)]


def spread(width, groups):
    """Return the positions of units that are one channel of every group each."""
    return [[g * width + u for g in range(groups)] for u in range(width)]


NETS = {
    "chain": Net(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = BatchNormalization (a, s1, o1, m1, v1)
            c = Relu (b)
            d = Conv (c, w2)
            e = BatchNormalization (d, s2, o2, m2, v2)
            y = Conv (e, w3)
        }""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (5, 8, 1, 1), "w3": (4, 5, 1, 1)}
        | dict.fromkeys(("s1", "o1", "m1", "v1"), (8,))
        | dict.fromkeys(("s2", "o2", "m2", "v2"), (5,)),
        [
            [Site("w1", 0, one_to_one(8), True), Site("w2", 1, one_to_one(8), False)],
            [Site("w2", 0, one_to_one(5), True), Site("w3", 1, one_to_one(5), False)],
        ],
        {"s1": 0, "s2": 1},
    ),
    "residual": Net(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
            a = Conv (x, w1)
            b = BatchNormalization (a, s1, o1, m1, v1)
            c = Conv (b, w2)
            d = BatchNormalization (c, s2, o2, m2, v2)
            e = Add (b, d)
            f = Relu (e)
            y = Conv (f, w3)
        }""",
        {"w1": (6, 3, 1, 1), "w2": (6, 6, 1, 1), "w3": (4, 6, 1, 1)}
        | dict.fromkeys(("s1", "o1", "m1", "v1", "s2", "o2", "m2", "v2"), (6,)),
        [
            [
                Site("w1", 0, one_to_one(6), True),
                Site("w2", 0, one_to_one(6), True),
                Site("w2", 1, one_to_one(6), False),
                Site("w3", 1, one_to_one(6), False),
            ]
        ],
        {"s1": 0, "s2": 0},
    ),
    "grouped": Net(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
            a = Conv (x, w1)
            b = Conv <group = 2> (a, w2)
            c = BatchNormalization (b, s1, o1, m1, v1)
            y = Conv (c, w3)
        }""",
        {"w1": (8, 3, 1, 1), "w2": (6, 4, 1, 1), "w3": (4, 6, 1, 1)} | dict.fromkeys(("s1", "o1", "m1", "v1"), (6,)),
        [
            [Site("w1", 0, one_to_one(8), True), Site("w2", 1, one_to_one(8), False, blocks=2)],
            [Site("w2", 0, one_to_one(6), True), Site("w3", 1, one_to_one(6), False)],
        ],
        {"s1": 1},
    ),
    "depthwise": Net(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
            a = Conv (x, w1)
            b = Conv <group = 7, pads = [1, 1, 1, 1]> (a, w2)
            c = BatchNormalization (b, s1, o1, m1, v1)
            y = Conv (c, w3)
        }""",
        {"w1": (7, 3, 1, 1), "w2": (7, 1, 3, 3), "w3": (4, 7, 1, 1)} | dict.fromkeys(("s1", "o1", "m1", "v1"), (7,)),
        [
            [Site("w1", 0, one_to_one(7), True), Site("w2", 0, one_to_one(7), True), Site("w3", 1, one_to_one(7), False)],
        ],
        {"s1": 0},
    ),
    "flattened": Net(
        """(float[1,3,4,2] x) => (float[1,4] y) {
            a = Conv (x, w1)
            b = BatchNormalization (a, s1, o1, m1, v1)
            c = Flatten (b)
            d = Gemm <transB = 1> (c, w2, b2)
            e = Relu (d)
            y = Gemm (e, w3)
        }""",
        {"w1": (5, 3, 1, 1), "w2": (9, 40), "b2": (9,), "w3": (9, 4)} | dict.fromkeys(("s1", "o1", "m1", "v1"), (5,)),
        [
            [Site("w1", 0, one_to_one(5), True), Site("w2", 1, blocks(5, 8), False)],
            [Site("w2", 0, one_to_one(9), True), Site("w3", 0, one_to_one(9), False)],
        ],
        {"s1": 0},
    ),
    "one-output": Net(
        """(float[1,3] x) => (float[1,1] y) {
            a = MatMul (x, w1)
            b = Relu (a)
            y = Gemm <transB = 1> (b, w2)
        }""",
        {"w1": (3, 6), "w2": (1, 6)},
        [[Site("w1", 1, one_to_one(6), True), Site("w2", 1, one_to_one(6), False)]],
        {},
    ),
    "pointwise-depthwise": Net(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
            a = Conv (x, w1)
            b = Conv <group = 7> (a, w2)
            y = Conv (b, w3)
        }""",
        {"w1": (7, 3, 1, 1), "w2": (7, 1, 1, 1), "w3": (4, 7, 1, 1)},
        [[Site("w1", 0, one_to_one(7), True), Site("w2", 0, one_to_one(7), True), Site("w3", 1, one_to_one(7), False)]],
        {},
    ),
}


@pytest.fixture(params=NETS)
def net(request):
    """Return each network in turn."""
    return NETS[request.param]


@pytest.fixture
def model(net, parsed):
    """Return the network with random weights."""
    return parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {net.body}', seed=3, **net.weights)


@pytest.fixture
def values(model):
    """Return the weights of the network by name."""

    return {tensor.name: to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}


def scores(model, criterion, seed=0):
    """Return what a criterion says of the units of each group."""
    analysis = rc.analyze(model)
    found = rc.criteria[criterion].score(analysis, Context(np.random.default_rng(seed)))
    return [found[group.units] for group in analysis.groups]


def summed(groups, per_position):
    """Return, per group, the sum over sites of per_position(site)[positions of the unit]; None where a site has no say."""
    result = []
    for sites in groups:
        said = [(site, per_position(site)) for site in sites]
        result.append(sum(along[np.array(site.positions)].sum(1) for site, along in said if along is not None))
    return result


def marginal(elements, site):
    """Return the sum of elements at each position of an axis, block by block."""
    parts = np.split(elements, site.blocks)
    return np.array([part.take(i, site.axis).sum() for part in parts for i in range(part.shape[site.axis])])


def assert_close(found, wanted, rtol=1e-5):
    """Two lists of scores are the same to float rounding."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)


def places(site):
    """Return, per unit, the positions that bear it, block by block."""
    rows = np.moveaxis(site.units, site.axis, -1)
    blocks = [rows] if site.units.size == rows.shape[-1] else np.unique(rows.reshape(-1, rows.shape[-1]), axis=0)
    units = np.concatenate([block.ravel() for block in blocks])
    return tuple(tuple(np.flatnonzero(units == unit).tolist()) for unit in range(units.max() + 1))


def test_groups_are_as_written(net, model):
    found = [{(s.tensor, s.axis, places(s)) for s in group.sites} for group in rc.analyze(model).groups]
    for group, sites in zip(found, net.groups, strict=True):
        assert {(s.weight, s.axis, tuple(map(tuple, s.positions))) for s in sites} <= group
        others = {name for name, *_ in group} - {s.weight for s in sites}
        assert all(len(net.weights[name]) == 1 for name in others)  # biases and normalizations


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude(net, model, values, criterion, power):
    wanted = summed(net.groups, lambda site: marginal(np.abs(values[site.weight]) ** power, site))
    assert_close(scores(model, criterion), wanted)


def test_lamp(net, model, values):
    def lamp(weights):
        squares = weights**2
        return np.array([s / squares[squares >= s].sum() for s in squares.flat]).reshape(weights.shape)

    wanted = summed(net.groups, lambda site: marginal(lamp(values[site.weight]), site))
    assert_close(scores(model, "lamp"), wanted)


def test_fpgm(net, model, values):
    def distances(site):
        if not site.made:
            return None
        filters = [values[site.weight].take(i, site.axis).ravel() for i in range(values[site.weight].shape[site.axis])]
        return np.array([sum(np.linalg.norm(a - b) for b in filters) for a in filters])

    assert_close(scores(model, "fpgm"), summed(net.groups, distances), rtol=1e-3)


def distances(filters):
    """Return the sum of distances of each of filters [filters, elements] to all."""
    return np.linalg.norm(filters[:, None] - filters, axis=-1).sum(1)


def test_fpgm_of_transposed_groups(parsed):
    """Whose output channels have no axis of their own in the weight."""
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[1,8,6,6] x) => (float[1,4,7,7] y)'
    body = "{ a = ConvTranspose <group = 4> (x, w) b = Relu (a) y = Conv (b, v) }"
    model = parsed(f"{head} {body}", w=(8, 6, 2, 2), v=(4, 24, 1, 1))
    (found,) = scores(model, "fpgm")
    weight = to_array(model.graph.initializer[0]).reshape(4, 2, 6, 4)
    np.testing.assert_allclose(found, distances(weight.swapaxes(1, 2).reshape(24, 8)), rtol=1e-5)


@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_fpgm_of_hidden_units(parsed, op, gates):
    """Which are made by all of their gates, from what a layer reads and from each other."""
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[4,1,6] x) => (float[4,1,1,3] y)'
    body = f"{{ s = {op} <hidden_size = 5> (x, w, r) y = MatMul (s, v) }}"
    model = parsed(f"{head} {body}", w=(1, 5 * gates, 6), r=(1, 5 * gates, 5), v=(5, 3))
    (found,) = scores(model, "fpgm")
    weights = [to_array(tensor) for tensor in model.graph.initializer[:2]]
    wanted = sum(distances(weight.reshape(gates, 5, -1).swapaxes(0, 1).reshape(5, -1)) for weight in weights)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_bn_scale(net, model, values):
    if not net.norms:
        pytest.skip("no batch normalization")
    wanted = []
    for g, sites in enumerate(net.groups):
        scales = [np.abs(values[name]) for name, owner in net.norms.items() if owner == g]
        positions = np.array(next(site.positions for site in sites if site.made))
        wanted.append(sum(scales)[positions].sum(1) if scales else np.zeros(len(positions)))
    assert_close(scores(model, "bn-scale"), wanted)


def test_random(net, model):
    found = np.concatenate(scores(model, "random", seed=7))
    assert ((found > 0) & (found < 1)).all()
    assert len(set(found.tolist())) == found.size
    assert np.array_equal(found, np.concatenate(scores(model, "random", seed=7)))
    assert not np.array_equal(found, np.concatenate(scores(model, "random", seed=8)))


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "fpgm", "bn-scale"])
def test_the_best_scored_units_stay(network, criterion):
    model = network("resnet20")
    rng = np.random.default_rng(0)

    for tensor in model.graph.initializer:
        if ".bn1.weight" in tensor.name:  # freshly initialized ones are all equal
            tensor.CopyFrom(from_array(rng.uniform(0.5, 1.5, tensor.dims).astype(np.float32), tensor.name))
    analysis = rc.analyze(model)
    (group,) = [g for g in analysis.groups if g.name == "layer3.1.conv1"]
    own = rc.criteria[criterion].score(analysis, Context(rng))[group.units]
    best = np.sort(np.argsort(-own)[:20])
    result = rc.prune(model, target="channels=1.0", criterion=criterion, keep={group.name: 20 / 64})
    before, after = ({t.name: to_array(t) for t in m.graph.initializer} for m in (model, result.model))
    assert np.array_equal(after["layer3.1.conv1.weight"], before["layer3.1.conv1.weight"][best])
    assert np.array_equal(after["layer3.1.conv2.weight"], before["layer3.1.conv2.weight"][:, best])
    assert np.array_equal(after["layer3.1.bn1.weight"], before["layer3.1.bn1.weight"][best])


def test_ties_go_to_the_first(network):
    keep = {"layer3.1.conv1": 0.5}
    result = rc.prune(network("resnet20"), target="channels=1.0", criterion="bn-scale", keep=keep, rectify="none")

    before = {t.name: to_array(t) for t in network("resnet20").graph.initializer}["layer3.1.conv1.weight"]
    after = {t.name: to_array(t) for t in result.model.graph.initializer}["layer3.1.conv1.weight"]
    assert np.array_equal(after, before[:32])


def test_half_precision_is_scored_in_full(parsed):
    """Squares of small float16 weights vanish, sums of large ones overflow."""

    body = "(float16[1,64] x) => (float16[1,4] y) { a = MatMul (x, w1) y = MatMul (a, w2) }"
    model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {body}')
    rng = np.random.default_rng(0)
    w1 = (rng.uniform(1, 2, (64, 6)) * np.array([1e-4, 2e-4, 1.0, 2.0, 3e3, 6e3])).astype(np.float16)
    model.graph.initializer.extend([from_array(w1, "w1"), from_array(np.zeros((6, 4), np.float16), "w2")])
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    (found,) = scores(model, "l2")
    np.testing.assert_allclose(found, (w1.astype(np.float64) ** 2).sum(0), rtol=1e-4)
