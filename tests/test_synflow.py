"""SynFlow against its definition.

The sum of the outputs of a positive network is linear in each site of a unit, so zeroing the site tells what flows through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array, to_array

import onnx_reconvene as rc
from onnx_reconvene.errors import ModelError
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Context
from onnx_reconvene.saliency.criterion import marginals, unit_scores
from onnx_reconvene.synflow.exact import ExactNetwork
from onnx_reconvene.synflow.rules import channel_network
from onnx_reconvene.synflow.schedule import iterated
from tests.nets import ALL
from tests.test_criteria import NETS

Floats = NDArray[np.float64]
Keep = NDArray[np.bool_]
Weights = dict[str, NDArray[np.float32]]


def per_channel(analysis: Analysis, keep: Keep) -> Floats:
    return channel_network(analysis).shares(keep)


def exact(analysis: Analysis, keep: Keep) -> Floats:
    return aggregated(analysis, ExactNetwork(analysis).elements(keep))


def aggregated(analysis: Analysis, elements: dict[str, NDArray[np.floating]]) -> Floats:
    """Sum scores of weights as every criterion of weights does."""
    return unit_scores(analysis, Context(), lambda name, _, shapes: marginals(elements[name], shapes) if name in elements else {})


KINDS = {"float16": np.float16, "float": np.float32, "double": np.float64}
FORMS = {"per channel": per_channel, "exact": exact}


@pytest.fixture(params=NETS)
def model(request: pytest.FixtureRequest, parsed: Callable[..., ModelProto]) -> ModelProto:
    """Small networks with random weights, and variances as positive as they are in fact."""
    net = NETS[request.param]
    result = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {net.body}', seed=3, **net.weights)
    for tensor in result.graph.initializer:
        if tensor.name.startswith("v"):
            tensor.CopyFrom(from_array(np.abs(to_array(tensor)), tensor.name))
    return result


def magnitudes(model: ModelProto) -> Weights:
    """Return the weights of the positive network: no bias, shift or mean."""
    values = {t.name: np.abs(to_array(t)) for t in model.graph.initializer}
    return {name: np.zeros_like(value) if name[0] in "bom" else value for name, value in values.items()}


def flow(model: ModelProto, weights: Weights) -> float:
    """Return the sum of outputs for an input of ones."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(from_array(value, name) for name, value in weights.items())
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    ones = {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()}
    return float(sum(y.sum(dtype=np.float64) for y in session.run(None, ones)))


def sites(analysis: Analysis) -> Iterator[tuple[int, str, NDArray[np.bool_]]]:
    """Yield each unit with each weight that bears it, and where."""
    for group in analysis.groups:
        for site in group.sites:
            if len(analysis.shapes[site.tensor]) > 1:
                for unit in range(group.blocks * group.width):
                    yield group.first + unit, site.tensor, np.broadcast_to(site.units == unit, analysis.shapes[site.tensor])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("removed", [0, 0.4])
def test_a_unit_scores_what_flows_through_its_sites(model: ModelProto, form: str, removed: float) -> None:
    analysis = rc.analyze(model)
    keep = np.random.default_rng(1).random(analysis.width) >= removed
    for group in analysis.groups:
        keep[group.units.start] = True
    weights = magnitudes(model)
    for unit, name, where in sites(analysis):
        if not keep[unit]:
            weights[name] = np.where(where, 0, weights[name])
    whole, wanted = flow(model, weights), np.zeros(analysis.width)
    for unit, name, where in sites(analysis):
        wanted[unit] += 1 - flow(model, {**weights, name: np.where(where, np.float32(0), weights[name])}) / whole
    np.testing.assert_allclose(FORMS[form](analysis, keep)[keep], wanted[keep], rtol=1e-3, atol=1e-6)


def test_scores_of_weights_add_up_to_those_of_units(model: ModelProto) -> None:
    analysis = rc.analyze(model)
    network, whole = channel_network(analysis), np.ones(analysis.width, bool)
    found, wanted = network.elements(), ExactNetwork(analysis).elements(whole)
    np.testing.assert_allclose(aggregated(analysis, found), network.shares(whole), rtol=1e-5)
    for name, scores in wanted.items():
        np.testing.assert_allclose(found[name], scores, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_half_the_flow_goes_through_a_gate(parsed: Callable[..., ModelProto], form: str) -> None:
    body = """(float[1,3,6,6] x) => (float[1,4,6,6] y) {
        a = Conv (x, w1)
        p = GlobalAveragePool (a)
        q = Conv (p, w2)
        r = Relu (q)
        s = Conv (r, w3)
        g = Sigmoid (s)
        h = Mul (a, g)
        y = Conv (h, w4)
    }"""
    shapes = {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1), "w3": (8, 5, 1, 1), "w4": (4, 8, 1, 1)}
    analysis = rc.analyze(parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {body}', **shapes))
    whole = np.ones(analysis.width, bool)
    elements = channel_network(analysis).elements() if form == "per channel" else ExactNetwork(analysis).elements(whole)
    assert {name: pytest.approx(float(scores.sum()), rel=1e-4) for name, scores in elements.items()} == {
        "w1": 1,
        "w2": 0.5,
        "w3": 0.5,
        "w4": 1,
    }


def test_it_is_the_same_whatever_says_swish(parsed: Callable[..., ModelProto]) -> None:
    """x * sigmoid(x) passes the flow like any activation."""
    found = []
    for middle in ("c = Relu (a)", "b = Sigmoid (a) c = Mul (a, b)"):
        body = f"(float[1,3,6,6] x) => (float[1,4,4,4] y) {{ a = Conv (x, w1) {middle} y = Conv (c, w2) }}"
        model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {body}', w1=(8, 3, 1, 1), w2=(4, 8, 3, 3))
        analysis = rc.analyze(model)
        found += [form(analysis, np.ones(8, bool)) for form in FORMS.values()]
    for scores in found[1:]:
        np.testing.assert_allclose(scores, found[0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_the_exact_form_takes_any_precision(kind: str, parsed: Callable[..., ModelProto]) -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]> net (KIND[1,3,6,6] x) => (KIND[1,4] y) {
        a = Conv (x, w1, b1) b = Relu (a) c = Cast <to = 1> (b) d = CastLike (c, x) e = GlobalAveragePool (d) f = Flatten (e)
        y = Gemm <transB = 1> (f, w2, b2) }"""
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8), "b2": (4,)}
    found = []
    for name in ("float", kind):
        model = parsed(text.replace("KIND", name), **shapes)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(from_array(to_array(tensor).astype(np.float16).astype(KINDS[name]), tensor.name))
        analysis = rc.analyze(model)
        found.append(ExactNetwork(analysis).elements(np.ones(analysis.width, bool)))
    for weight in ("w1", "w2"):
        np.testing.assert_array_equal(found[1][weight], found[0][weight])


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 7), (3, 9), (4, 10)])
def test_the_exact_form_takes_old_models(ir_version: int, opset: int, parsed: Callable[..., ModelProto]) -> None:
    """In which every initializer is an input, too, and no Gemm goes without its bias."""
    text = """<ir_version: IR, opset_import: ["" : OPSET]> net (float[1,3,6,6] x, float[8,3,3,3] w1, float[8] n) => (float[1,4] y) {
        a = Conv (x, w1) b = BatchNormalization (a, n, n, n, n) c = Relu (b) d = GlobalAveragePool (c) e = Add (d, b)
        f = GlobalAveragePool (e) g = Flatten (f) y = Gemm <transB = 1> (g, w2, b2) }"""
    found = []
    for ir, version in ((9, 18), (ir_version, opset)):
        model = parsed(text.replace("IR", str(ir)).replace("OPSET", str(version)), w1=(8, 3, 3, 3), w2=(4, 8), b2=(4,))
        model.graph.initializer.append(from_array(np.linspace(0.5, 2, 8, dtype=np.float32), "n"))
        if ir < 4:
            stored = [t for t in model.graph.initializer if t.name not in ("w1", "n")]
            model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored)
        else:
            del model.graph.input[1:]
        onnx.checker.check_model(model)
        analysis = rc.analyze(model)
        found.append(ExactNetwork(analysis).elements(np.ones(analysis.width, bool)))
    for weight in ("w1", "w2"):
        np.testing.assert_allclose(found[1][weight], found[0][weight], rtol=1e-6)


AVERAGED = {
    "Attention",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "CausalConvWithState",
    "DynamicQuantizeLinear",
    "Einsum",
    "EmbedLayerNormalization",
    "GroupQueryAttention",
    "MatMulNBits",
    "QAttention",
}
AVERAGED |= {"CenterCropPad", "Conv", "GatherND", "If", "Loop", "Mod", "Range", "Resize", "Scan", "Slice"}  # in some of their forms
NOT_FOLLOWED = {
    "If: layers in a row inside": "u",
    "If: weights around, read in both branches": "u",
    "Loop: two layers inside": "p1",
}
KERNELS_WITH_UNITS = {"Conv: of words"}  # whose units have shares at a kernel, too


@pytest.mark.parametrize("name", [name for name, net in ALL.items() if net.groups])
def test_every_operator_passes_the_flow(name: str) -> None:
    analysis = rc.analyze(ALL[name].model)
    if name in NOT_FOLLOWED:
        with pytest.warns(UserWarning, match=f"can be followed through.* '{NOT_FOLLOWED[name]}'"):
            scores = rc.criteria["synflow"].score(analysis, Context())
        assert (scores > 0).all()
        with pytest.raises(ModelError, match=f"^node '{NOT_FOLLOWED[name]}': synflow-exact has no rule"):
            ExactNetwork(analysis)
        return
    network = channel_network(analysis)
    assert {node.split()[0] for node in network.averaged} <= AVERAGED
    shares = network.shares(np.ones(analysis.width, bool))
    assert np.isfinite(shares).all()
    assert (shares >= 0).all()
    if name not in KERNELS_WITH_UNITS:
        np.testing.assert_allclose(aggregated(analysis, network.elements()), shares, rtol=1e-4, atol=1e-6)


def test_what_no_rule_knows_is_named() -> None:
    analysis = rc.analyze(ALL["GatherND: channels last"].model)
    with pytest.warns(UserWarning, match="no rule for GatherND 'h'"):
        rc.criteria["synflow"].score(analysis, Context())


def test_layers_that_read_constants_alone_go_by_magnitude(parsed: Callable[..., ModelProto]) -> None:
    """Learned queries: what is computed from them before they meet data is no part of the flow."""
    model = parsed(
        """<ir_version: 9, opset_import: ["" : 18]> net (float[1,6,8] x) => (float[n,t,c] y) {
            e = MatMul (x, w1) k = Transpose <perm = [0, 2, 1]> (e) q = MatMul (queries, w2) s = MatMul (q, k) a = Softmax (s)
            v = MatMul (e, w3) o = MatMul (a, v) y = MatMul (o, w4) }""",
        w1=(8, 16),
        queries=(5, 16),
        w2=(16, 16),
        w3=(16, 12),
        w4=(12, 3),
    )
    for allocate in ("uniform", "reconvene"):
        cut = rc.prune(model, target="channels=0.5", criterion="synflow", allocate=allocate, round_to=1)
        assert cut.report.verify.status == "exact"
        assert min(group.kept / group.width for group in cut.report.groups) > 0.2


def test_a_matrix_product_with_the_weight_in_front_is_no_error(parsed: Callable[..., ModelProto]) -> None:
    model = parsed(
        """<ir_version: 9, opset_import: ["" : 18]> net (float[5,6] x) => (float[n,c] y) {
            a = MatMul (x, w1) b = Relu (a) c = Gemm (front, b, bias) d = Relu (c) y = MatMul (d, w2) }""",
        w1=(6, 8),
        front=(7, 5),
        bias=(7, 1),
        w2=(8, 3),
    )
    with pytest.warns(UserWarning, match="no rule for Gemm"):
        cut = rc.prune(model, target="channels=0.5", criterion="synflow", allocate="uniform", round_to=1)
    assert [group.kept for group in cut.report.groups] == [4]


def deep(layers: int) -> ModelProto:
    """Return a chain of convolutions, one in ten with a connection around it, whose positive network is beyond double precision."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for k in range(layers):
        weights.append(from_array(rng.normal(0, 50, (4, 4, 3, 3)).astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [x, f"w{k}"], [f"c{k}"], f"conv{k}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"]))
        if k % 10 == 9:
            nodes.append(helper.make_node("Add", [f"r{k}", x], [f"s{k}"]))
        x = nodes[-1].output[0]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 5, 5]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_depth_does_not_overflow() -> None:
    analysis = rc.analyze(deep(200))
    network, whole = channel_network(analysis), np.ones(analysis.width, bool)
    assert network.levels(whole).max() > np.finfo(np.float64).maxexp
    for elements in (network.elements(), ExactNetwork(analysis).elements(whole)):
        sums = [float(elements[f"w{k}"].sum()) for k in range(200)]
        assert sums == pytest.approx([1] * 200, rel=1e-2)  # what goes around a layer is far below what goes through
    scores = rc.criteria["synflow"].score(analysis, Context())
    assert np.isfinite(scores).all()


def blocked(parsed: Callable[..., ModelProto]) -> Analysis:
    net = NETS["grouped"]
    model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {net.body}', **net.weights)
    return rc.analyze(model)


def test_no_group_loses_its_last_unit(parsed: Callable[..., ModelProto]) -> None:
    analysis = blocked(parsed)
    worst = np.zeros(analysis.width)
    worst[analysis.groups[0].units] = 1  # all others have nothing to say for themselves
    kept: list[Keep] = []

    def score(keep: Keep) -> Floats:
        kept.append(keep)
        return worst

    found = iterated(analysis, score, rounds=10, density=1e-3)
    assert len(kept) == 11
    for before, after in itertools.pairwise(kept):
        assert not (after & ~before).any()
    for keep in kept:
        for group in analysis.groups:
            left = group.by_block(keep).sum(1)
            assert (left == left[0]).all()
            assert left[0] >= 1
    assert kept[-1].sum() == sum(group.blocks for group in analysis.groups)
    for keep in kept:
        assert found[keep].min() >= found[~keep].max(initial=0)


def test_rounds_follow_the_exponential_schedule(network: Callable[[str], ModelProto]) -> None:
    analysis = rc.analyze(network("resnet20"))
    kept: list[int] = []
    fixed = np.random.default_rng(0).random(analysis.width)

    def score(keep: Keep) -> Floats:
        kept.append(int(keep.sum()))
        return fixed

    found = iterated(analysis, score, rounds=4, density=0.25)
    assert kept == [round(analysis.width * 0.25 ** (k / 4)) for k in range(5)]
    for group in analysis.groups:
        assert (np.argsort(found[group.units]) == np.argsort(fixed[group.units])).all()  # what does not change keeps its order


def test_few_rounds_take_what_many_take(network: Callable[[str], ModelProto]) -> None:
    """Where a group conserves what its units share, removing all at once is as good as one by one."""
    analysis = rc.analyze(network("resnet20"))
    fixed = np.random.default_rng(0).uniform(0.9, 1.1, analysis.width)

    def score(keep: Keep) -> Floats:
        left = fixed * keep
        for group in analysis.groups:
            left[group.units] /= left[group.units].sum()
        return left

    order = [np.argsort(-iterated(analysis, score, rounds, density=0.25)) for rounds in (2, 2000)]
    for density in (0.75, 0.5, 0.25):
        first, second = (np.isin(np.arange(analysis.width), o[: round(density * analysis.width)]) for o in order)
        assert (first == second).all()


def test_nothing_flows_to_what_lost_its_readers(parsed: Callable[..., ModelProto]) -> None:
    body = "(float[1,2] x) => (float[1,2] y) { a = MatMul (x, w1) b = MatMul (a, w2) y = MatMul (b, w3) }"
    model = parsed(f'<ir_version: 9, opset_import: ["" : 18]> net {body}', w1=(2, 6), w3=(5, 2))
    second = np.ones((6, 5), np.float32)
    second[0, 1:] = second[1:, 0] = 0  # the first unit is read by the first unit of the next layer alone
    model.graph.initializer.append(from_array(second, "w2"))
    analysis = rc.analyze(model)
    keep = np.ones(analysis.width, bool)
    for form in FORMS.values():
        assert (form(analysis, keep) > 0).all()
        without = keep.copy()
        without[analysis.groups[1].units.start] = False
        assert (form(analysis, without) == 0).nonzero()[0].tolist() == [0, analysis.groups[1].units.start]


def test_a_pruned_network_is_verified_and_the_same_every_time(network: Callable[[str], ModelProto]) -> None:
    first, again = (rc.prune(network("resnet20"), target="macs=0.5", criterion="synflow", allocate="global") for _ in range(2))
    assert first.model == again.model
    assert first.report.verify.status == "exact"
    assert len({group.kept / group.width for group in first.report.groups}) > 2


def test_both_forms_keep_the_same_widths(network: Callable[[str], ModelProto]) -> None:
    analysis = rc.analyze(network("resnet20"))
    own, exact = (rc.criteria[criterion].score(analysis, Context()) for criterion in ("synflow", "synflow-exact"))
    for density in (0.5, 0.25):
        kept = [scores >= np.quantile(scores, 1 - density) for scores in (own, exact)]
        for group in analysis.groups:
            first, second = (int(group.by_block(keep).sum()) for keep in kept)
            assert abs(first - second) <= max(group.blocks, 0.02 * group.blocks * group.width)
