"""Targets: read as written, never missed, never undershot by a step, and counted as the cut model counts."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import helper
from onnx.numpy_helper import from_array, to_array

import onnx_reconvene as rc
from onnx_reconvene.cost import CostModel
from onnx_reconvene.target import parse_target

KINDS = {"channels": None, "params": "params", "macs": "macs", "size": "bytes", "memory": "memory"}  # and their names in the report
NETWORKS = {"resnet20": (1, 3, 32, 32), "mobilenetv2": (1, 3, 224, 224), "detector": (1, 3, 128, 128)}
ALLOCATORS = ["uniform", "global", "flat", "erk", "precrop", "reconvene"]


@pytest.fixture(scope="session")
def costs(network):
    """Return the cost model of a standard network."""
    return cache(lambda name: CostModel(rc.analyze(network(name))))


def prune(model, **options):
    """Prune without verification, which is not the point here."""
    return rc.prune(model, **{"verify": False, "round_to": 1, **options})


def kept(result):
    """Return the width of each group after a run."""
    return np.array([group.kept for group in result.report.groups])


def steps(report, round_to):
    """Return, per group, its next larger width that is a multiple of round_to, or its full width."""
    for group in report.groups:
        if group.kept < group.width:
            yield min(group.width, (group.kept // round_to + 1) * round_to)
        else:
            yield None


def assert_maximal(result, cost, bounds, round_to=1):
    """Every bound holds, and widening any group by one step breaks one."""
    widths = kept(result)
    assert all(cost(kind, widths) <= bound for kind, bound in bounds.items())
    for place, wider in enumerate(steps(result.report, round_to)):
        if wider is not None:
            more = widths.copy()
            more[place] = wider
            assert any(cost(kind, more) > bound for kind, bound in bounds.items()), result.report.groups[place].name


@pytest.mark.parametrize(
    ("name", "allocate"),
    [*product(["resnet20"], ALLOCATORS), ("mobilenetv2", "global"), ("detector", "uniform"), ("detector", "erk")],
)
@pytest.mark.parametrize(
    ("kind", "share"), [("channels", 0.37), ("params", 0.3), ("macs", 1 / 3), ("size", 0.61), ("memory", 0.45)]
)
def test_target_is_hit(network, costs, count, name, allocate, kind, share):
    model, cost = network(name), costs(name)
    before = cost.all(cost.dense)
    result = prune(model, target=f"{kind}={share}", allocate=allocate)
    assert_maximal(result, cost, {kind: share * before[kind]})
    after, size = cost.all(kept(result)), count(result.model, input=NETWORKS[name])
    assert (after["params"], after["macs"], after["size"]) == (size.params, size.macs, size.bytes)
    assert after[kind] > 0.9 * share * before[kind]


@pytest.mark.parametrize("allocate", ALLOCATORS)
def test_all_of_several_targets_hold(network, costs, allocate):
    cost = costs("resnet20")
    bounds = {kind: share * cost(kind, cost.dense) for kind, share in (("channels", 0.8), ("params", 0.45), ("macs", 0.5))}
    targets = ["channels=0.8", "params=0.45", "macs=50%", "size=1MB"]
    result = prune(network("resnet20"), target=targets, allocate=allocate)
    assert_maximal(result, cost, bounds | {"size": 1e6})


@pytest.mark.parametrize(
    "forms",
    [
        ["macs=0.25", "macs=25%", "macs=1/4", "macs=.25", "macs=2.5e-1", "macs=10137760", "macs=10137.76k", "MACS = 10.13776M"],
        ["size=0.5", "size=50%", "size=2/4", "size=542196", "size=542196B", "size=542.196kB", "size=0.542196MB"],
        ["params=1/2", "params=135549", "params=135.549K"],
        ["channels=0.75", "channels=300"],
    ],
)
def test_forms_of_one_target(costs, forms):
    cost = costs("resnet20")
    targets = [parse_target(form) for form in forms]
    first, *others = ((t.kind, math.floor(t.bound(cost(t.kind, cost.dense)))) for t in targets)
    assert all(other == first for other in others)


def test_absolute_target_above_the_network_removes_nothing(network):
    result = prune(network("resnet20"), target=["macs=1T", "size=1GiB"])
    assert all(group.kept == group.width for group in result.report.groups)


@pytest.mark.parametrize(("round_to", "allocate"), list(product((2, 8), ALLOCATORS)))
def test_widths_are_multiples(network, costs, round_to, allocate):
    result = prune(network("resnet20"), target="macs=0.4", round_to=round_to, allocate=allocate)
    assert all(width % round_to == 0 for width in kept(result))
    outputs = [
        t.dims[0] for t in result.model.graph.initializer if t.name.endswith("conv1.weight") or t.name.endswith("conv2.weight")
    ]
    assert any(n % 16 for n in outputs)
    assert all(n % round_to == 0 for n in outputs)
    cost = costs("resnet20")
    assert_maximal(result, cost, {"macs": 0.4 * cost("macs", cost.dense)}, round_to)


def test_widths_that_round_to_tells_apart(parsed):
    """A grouped convolution counts channels, not units: one unit of 4 groups is 4 channels wide."""
    net = """<ir_version: 9, opset_import: ["" : 18]> net (float[1,16,4,4] x) => (float[1,3] y) {
        a = Conv (x, w1)
        b = Conv <group = 4> (a, w2)
        c = GlobalAveragePool (b)
        d = Flatten (c)
        y = Gemm <transB = 1> (d, w3)
    }"""
    model = parsed(net, w1=(16, 16, 1, 1), w2=(32, 4, 1, 1), w3=(3, 32))
    result = prune(model, target="channels=0.5", round_to=8)
    dims = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert {name: shape[0] % 8 for name, shape in dims.items() if name != "w3"} == {"w1": 0, "w2": 0}
    assert dims["w1"][0] < 16


@pytest.mark.parametrize("allocate", ["uniform", "global", "precrop"])  # others leave no group so narrow
def test_min_width(network, allocate):
    free = prune(network("resnet20"), target="channels=0.3", allocate=allocate, criterion="random")
    result = prune(network("resnet20"), target="channels=0.3", min_width=6, allocate=allocate, criterion="random")
    assert kept(free).min() < 6 <= kept(result).min()
    assert kept(result).sum() == math.floor(0.3 * 400)
    assert {group.kept for group in prune(network("resnet20"), target="channels=1", min_width=99).report.groups} == {16, 32, 64}


# --- which layers ----------------------------------------------------------------------------------------------------


def shares(result):
    """Return what share of each group was kept."""
    return {group.name: group.kept / group.width for group in result.report.groups}


@pytest.mark.parametrize("pattern", ["layer1.?.conv1", "layer1.*.conv1.weight", "layer1.[0-9].conv1*"])
def test_ignore(network, pattern):
    result = prune(network("resnet20"), target="channels=0.6", allocate="uniform", ignore=[pattern])
    before = {t.name: list(t.dims) for t in network("resnet20").graph.initializer}
    after = {t.name: list(t.dims) for t in result.model.graph.initializer}
    whole = {name for name, share in shares(result).items() if share == 1}
    assert whole == {f"layer1.{n}.conv1" for n in range(3)}
    assert all(after[f"{name}.weight"][0] == before[f"{name}.weight"][0] for name in whole)
    assert after["layer1.0.conv1.weight"][1] < 16  # ignored are its outputs, not its inputs


def test_only(network):
    result = prune(network("resnet20"), target="channels=0.8", only=["layer3.?.conv1", "layer2.1.conv1.weight"])
    pruned = {name for name, share in shares(result).items() if share < 1}
    assert pruned == {"layer2.1.conv1", *(f"layer3.{n}.conv1" for n in range(3))}


def test_ignore_beats_only_and_keep(network):
    options = {"only": ["layer3.?.conv1"], "ignore": ["layer3.1.conv1"], "keep": {"layer3.1.conv1": 0.5}}
    result = prune(network("resnet20"), target="channels=0.9", **options)
    assert {name for name, share in shares(result).items() if share < 1} == {"layer3.0.conv1", "layer3.2.conv1"}


def test_keep_fixes_a_fraction(network):
    keep = {"layer1.?.conv1": 0.25, "layer3.0.conv1.weight": 0.7}
    result = shares(prune(network("resnet20"), target="channels=0.8", keep=keep))
    fixed = {f"layer1.{n}.conv1": 4 / 16 for n in range(3)} | {"layer3.0.conv1": 44 / 64}
    assert {name: result[name] for name in fixed} == fixed
    assert any(share not in (0.25, 44 / 64, 1) for share in result.values())


def test_keep_holds_where_no_target_asks_for_it(network):
    result = shares(prune(network("resnet20"), target="channels=1.0", keep={"layer1.0.conv1": 0.5}))
    assert {name: share for name, share in result.items() if share < 1} == {"layer1.0.conv1": 0.5}


@pytest.mark.parametrize(
    "weight",
    [
        "m = MatMul (b, w)",
        "[turned] t = Transpose <perm = [1, 0]> (w) m = Gemm <transB = 1> (b, t)",
        "t = Cast <to = 1> (w) m = MatMul (b, t)",
        "q = QuantizeLinear (w, scale) t = DequantizeLinear (q, scale) m = MatMul (b, t)",
        "t = Concat <axis = 0> (w, v) m = Gemm <transB = 1> (b, t)",
    ],
)
def test_a_weight_stands_for_its_layer_whatever_moves_it_there(parsed, weight):
    net = f"""<ir_version: 9, opset_import: ["" : 18]> net (float[1,4] x) => (float[1,3] y) <float scale = {{0.01}}> {{
        a = MatMul (x, w1)
        b = Relu (a)
        {weight}
        c = Relu (m)
        y = MatMul (c, w3)
    }}"""
    own = {"w": (4, 8), "v": (6, 8), "w3": (10, 3)} if "Concat" in weight else {"w": (8, 10), "w3": (10, 3)}
    model = parsed(net, w1=(4, 8), **own)
    only = shares(prune(model, target="channels=0.85", only=["w"], rectify="none"))
    assert {name: share == 1 for name, share in only.items()} == {name: name != "m" for name in only}
    whole = shares(prune(model, target="channels=0.85", ignore=["w"], rectify="none"))
    assert whole["m"] == 1 > whole["a"]


PARTS = """<ir_version: 9, opset_import: ["" : 18]> net (float[1,4] x) => (float[1,3] y) <int64[2] parts = {4, 4}> {
    %s a = MatMul (x, w1)
    b, c = Split <axis = 1> (a, parts)
    d = Relu (b)
    e = MatMul (c, w2)
    f = Add (d, e)
    y = MatMul (f, w3)
}"""
PARTS_WEIGHTS = {"w1": (4, 8), "w2": (4, 4), "w3": (4, 3)}


@pytest.mark.parametrize("node", ["", "[a]", "[stem]"])
def test_a_name_stands_for_all_that_bears_it(parsed, node):
    """What a node makes falls into two groups here; each has a name of its own, too."""
    model, name = parsed(PARTS % node, **PARTS_WEIGHTS), node.strip("[]") or "a"
    groups = [group.name for group in rc.analyze(model).groups]
    assert groups == [name, f"{name}#2"]
    for pattern in (name, f"[{name[0]}]{name[1:]}", "w1"):
        assert set(shares(prune(model, target="channels=1", keep={pattern: 0.5})).values()) == {0.5}
    assert shares(prune(model, target="channels=1", keep={f"{name}#2": 0.5})) == {name: 1, f"{name}#2": 0.5}
    for both in ({name: 0.5, f"{name}#2": 0.75}, {f"{name}#2": 0.75, name: 0.5}):  # a report's names are those of its groups
        assert shares(prune(model, target="channels=1", keep=both)) == both
    assert shares(prune(model, target="channels=0.75", ignore=[f"{name}#2"]))[f"{name}#2"] == 1
    assert shares(prune(model, target="channels=0.75", only=[f"{name}#2"]))[name] == 1


@pytest.mark.parametrize("options", [{"ignore": ["*"]}, {"only": ["layer1.0.conv1"]}, {"keep": {"*": 0.9}}])
def test_what_must_stay_can_put_a_target_out_of_reach(network, options):
    with pytest.raises(rc.TargetError, match="best reachable"):
        prune(network("resnet20"), target="macs=0.5", **options)


# --- the cost model is the cut model ---------------------------------------------------------------------------------

SMALL = {
    "grouped": (
        """(float[N,6,H,W] x) => (float[N,5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        b = Conv <group = 4> (a, w2)
        c = Conv <group = 12, strides = [2, 2]> (b, w3)
        d = GlobalMaxPool (c)
        e = Flatten (d)
        y = Gemm <transB = 1> (e, w4, b4)
        }""",
        {"w1": (8, 6, 3, 3), "b1": (8,), "w2": (12, 2, 1, 1), "w3": (12, 1, 1, 1), "w4": (5, 12), "b4": (5,)},
        (1, 6, 9, 11),
    ),
    "transposed": (
        """(float[N,3,8,8] x) => (float[N,2,20,20] y) {
        a = Conv <strides = [2, 2]> (x, w1)
        b = ConvTranspose <strides = [2, 2]> (a, w2)
        c = Sigmoid (b)
        d = ConvTranspose <group = 2, strides = [3, 3], output_padding = [2, 2]> (c, w3)
        y = Conv (d, w4)
        }""",
        {"w1": (10, 3, 2, 2), "w2": (10, 6, 2, 2), "w3": (6, 4, 1, 1), "w4": (2, 8, 5, 5)},
        (1, 3, 8, 8),
    ),
    "products": (
        """(float[N,7,12] x) => (float[N,7,3] y) {
        a = MatMul (x, w1)
        b = Add (a, b1)
        c = Gelu (b)
        d = MatMul (c, w2)
        e = Add (d, x)
        y = MatMul (e, w3)
        }""",
        {"w1": (12, 20), "b1": (20,), "w2": (20, 12), "w3": (12, 3)},
        (1, 7, 12),
    ),
    "flattened": (
        """(float[N,2,6,5] x) => (float[N,3] y) {
        a = Conv (x, w1)
        b = Flatten (a)
        c = Gemm (b, w2, b2)
        d = Relu (c)
        e = Gemm <transA = 0, transB = 1> (d, w3)
        y = Tanh (e)
        }""",
        {"w1": (9, 2, 3, 3), "w2": (9 * 4 * 3, 14), "b2": (14,), "w3": (3, 14)},
        (1, 2, 6, 5),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_costs_of_random_widths_are_those_of_the_cut_model(parsed, count, name):
    body, weights, shape = SMALL[name]
    model = parsed(f'<ir_version: 9, opset_import: ["" : 20]> net {body}', **weights)
    analysis = rc.analyze(model, input_shape={"x": shape})
    cost = CostModel(analysis)
    rng = np.random.default_rng(1)

    @rc.allocator("dice")
    def dice(analysis, scores, within):
        return np.array([rng.integers(1, group.width + 1) for group in analysis.groups])

    assert cost.dense.size
    for _ in range(5):
        result = rc.prune(model, target="channels=1.0", allocate="dice", round_to=1, input_shape={"x": shape})
        assert result.report.verify.status == "exact"
        found, size = cost.all(kept(result)), count(result.model, x=shape)
        assert (found["params"], found["macs"], found["size"]) == (size.params, size.macs, size.bytes)
        assert found["channels"] == sum(w * group.channels for w, group in zip(kept(result), analysis.groups, strict=True))


LINEAR = """<ir_version: 9, opset_import: ["" : 18]> net (float[1,6] x) => (float[1,5] y) {
    a = MatMul (x, w1)
    b = Relu (a)
    c = MatMul (b, w2)
    y = MatMul (c, w3)
}"""
LINEAR_WEIGHTS = {"w1": (6, 8), "w2": (8, 8), "w3": (8, 5)}


def test_a_sparse_weight_counts_as_if_it_were_dense(parsed):
    model = parsed(LINEAR.replace(": 9", ": 11"), **LINEAR_WEIGHTS, unread=(7,))
    (dense,) = [t for t in model.graph.initializer if t.name == "w3"]
    values, places = from_array(to_array(dense).reshape(-1)[::4], "w3"), from_array(np.arange(0, 40, 4), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, dense.dims))
    model.graph.initializer.remove(dense)
    result = prune(model, target="params=0.7", rectify="none")
    stored = ([*m.graph.initializer, *m.graph.sparse_initializer] for m in (model, result.model))
    before, after = (sum(math.prod(t.dims) for t in tensors) for tensors in stored)
    assert (result.report.before.params, result.report.after.params) == (before, after)
    assert (result.report.before.bytes, result.report.after.bytes) == (4 * before, 4 * after)
    assert 0.6 * before < after <= 0.7 * before


INTEGERS = """<ir_version: 8, opset_import: ["" : 18]> net (uint8[1,6] x) => (int32[1,5] y) {
    a = MatMulInteger (x, w1) b = Cast <to = 2> (a) y = MatMulInteger (b, w2) }"""


@pytest.mark.parametrize("target", ["params=0.5", "params=50"])
def test_what_is_not_counted_cannot_be_saved(parsed, target):
    """No weight here is a float."""
    model = parsed(INTEGERS)
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(
        from_array(rng.integers(0, 99, shape).astype(np.uint8), name) for name, shape in (("w1", (6, 8)), ("w2", (8, 5)))
    )
    with pytest.raises(rc.TargetError, match=r"--target params.*the network stores no floating-point weights"):
        rc.prune(model, target=target, criterion="l1")
    assert rc.prune(model, target="size=0.5", criterion="l1", round_to=1).report.after.bytes <= 44
    assert prune(model, target=["params=1.0", "macs=0.5"]).report.after.macs <= 44


# --- reading targets -------------------------------------------------------------------------------------------------

SHARES = st.floats(1e-6, 1, allow_nan=False)


@given(st.sampled_from(list(KINDS)), SHARES)
def test_fraction_and_percent(kind, share):
    for text, value in ((f"{kind}={share:.9f}", float(f"{share:.9f}")), (f"{kind}={share * 100:.7f}%", share)):
        target = parse_target(text)
        assert (target.kind, target.relative) == (kind, True)
        assert target.value == pytest.approx(value, abs=1e-9)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_ratio(a, b):
    target = parse_target(f"macs={min(a, b)}/{max(a, b)}")
    assert target.relative
    assert target.bound(600) == pytest.approx(600 * min(a, b) / max(a, b))


@given(st.decimals("1.01", 999, places=2), st.sampled_from(["", "k", "K", "m", "M", "g", "G", "T"]))
def test_amount(number, scale):
    target = parse_target(f"params={number}{scale}")
    assert not target.relative
    assert target.bound(1) == pytest.approx(float(number) * 1000 ** " kmgt".index(scale.lower() or " "))


@given(st.decimals("1.01", 999, places=2), st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_bytes(number, unit):
    base = 1024 if "i" in unit else 1000
    assert parse_target(f"size={number} {unit}").value == pytest.approx(float(number) * base ** "BKMG".index(unit[0].upper()))
    for kind in ("macs", "params", "channels"):
        with pytest.raises(rc.UsageError, match=kind):
            parse_target(f"{kind}={number}{unit}")


@given(st.tuples(st.sampled_from([*KINDS, "flops", ""]), st.text("0123456789./%ekmMGBi-+ ", max_size=12)).map("=".join) | st.text())
@example("macs=1/00")
@example("macs=1e999")
@example("macs=1e999k")
@example("macs=" + "9" * 400 + "/1")
@example("macs=1/" + "9" * 400)
@example("macs=" + "9" * 400)
@example("macs=0/5")
@example("macs=1e5%")
def test_any_text_is_a_sensible_target_or_a_usage_error(text):
    try:
        target, complaint = parse_target(text), ""
    except rc.UsageError as error:
        target, complaint = None, str(error)
    if target is None:
        assert "--target" in complaint
    else:
        assert target.kind in KINDS
        assert 0 < target.value < math.inf
        assert target.value <= 1 or not target.relative


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_the_same_where_groups_change_one_by_one(costs, name):
    cost, rng = costs(name), np.random.default_rng(0)
    kinds = ("macs", "params", "size", "channels", "memory")
    tally = cost.tally(cost.dense, kinds)
    for group in rng.integers(len(cost.dense), size=40).tolist():
        found = tally.change(group, int(rng.integers(1, cost.dense[group] + 1)))
        assert found == [cost(kind, tally.widths) for kind in kinds]
    for group, width in enumerate(cost.dense.tolist()):
        found = tally.change(group, width)
    assert found == [cost(kind, cost.dense) for kind in kinds]
