"""Quantized weights count as what they stand for."""

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array, to_array

import onnx_reconvene as rc
from onnx_reconvene.analysis import analyze
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.errors import UsageError, VerificationError
from onnx_reconvene.graph import from_model
from onnx_reconvene.reference import reference
from onnx_reconvene.rounding import leave_out
from onnx_reconvene.saliency import Context
from onnx_reconvene.target import parse_target
from onnx_reconvene.verify import verify
from tests.nets import ALL
from tests.oracle import run

HEAD = '< ir_version: 9, opset_import: ["" : 18] > g (float[n,4,6,6] x) => (float[n,5,6,6] y)'
TAIL = "b = Relu (a) y = Conv (b, w2) }"
QUANTIZED = f"""{HEAD} {{
    w = DequantizeLinear<axis = 0> (q, s, z)
    a = Conv <pads = [1,1,1,1]> (x, w)
    {TAIL}"""
FLOAT = f"{HEAD} {{ a = Conv <pads = [1,1,1,1]> (x, w) {TAIL}"


@pytest.fixture
def pair(parsed) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a network with a weight quantized per channel, and the same with the numbers that this stands for."""
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (12, 4, 3, 3)).astype(np.uint8)
    s, z = rng.uniform(0.01, 0.1, 12).astype(np.float32), rng.integers(60, 200, 12).astype(np.uint8)
    w = (q.astype(np.float32) - z.reshape(-1, 1, 1, 1)) * s.reshape(-1, 1, 1, 1)
    w2 = rng.normal(size=(5, 12, 1, 1)).astype(np.float32)
    models = parsed(QUANTIZED), parsed(FLOAT)
    for model, values in zip(models, ({"q": q, "s": s, "z": z, "w2": w2}, {"w": w, "w2": w2}), strict=True):
        model.graph.initializer.extend(from_array(array, name) for name, array in values.items())
    return models


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "fpgm", "synflow"])
def test_scores_are_those_of_the_numbers_that_weights_stand_for(pair, criterion):
    quantized, real = (rc.criteria[criterion].score(rc.analyze(model), Context()) for model in pair)
    assert quantized.size == 12
    np.testing.assert_allclose(quantized, real, rtol=1e-5)


def test_single_weights_are_set_to_what_stands_for_zero(pair):
    before, after = ({t.name: to_array(t) for t in model.graph.initializer} for model in (pair[0], sparse(pair[0])))
    gone = np.abs(before["q"].astype(int) - before["z"].reshape(-1, 1, 1, 1)) * before["s"].reshape(-1, 1, 1, 1)
    zero = after["q"] == before["z"].reshape(-1, 1, 1, 1)
    assert zero.mean() > 0.3
    assert gone[zero].max() <= gone[~zero].min()
    assert np.array_equal(after["q"][~zero], before["q"][~zero])


def sparse(model: onnx.ModelProto) -> onnx.ModelProto:
    return rc.prune(model, target="macs=0.5", criterion="l1", granularity="weight").model


def test_params_are_floating_point_numbers_alone(pair):
    """12 scales and 60 weights, of which 20 are one by one the smallest at most."""
    report = rc.prune(pair[0], target="params=0.7", criterion="l1", granularity="weight").report
    weights = {t.name: to_array(t) for t in sparse(pair[0]).graph.initializer}
    assert report.before.params == 12 + 60 == weights["s"].size + weights["w2"].size
    assert report.after.params <= 0.7 * 72


INTEGERS = f"""{HEAD} <float one = {{1}}, uint8 zero = {{0}}> {{
    i = QuantizeLinear (x, one, zero)
    a = QLinearConv <pads = [1,1,1,1]> (i, one, zero, q, s, z, one, zero, bias)
    d = DequantizeLinear (a, one, zero)
    b = Relu (d) y = Conv (b, w2) }}"""
ROUNDED = f"""{HEAD} <float one = {{1}}, uint8 zero = {{0}}> {{
    w = DequantizeLinear<axis = 0> (q, s, z)
    c = DequantizeLinear<axis = 0> (bias, s)
    a = Conv <pads = [1,1,1,1]> (x, w, c)
    {TAIL}"""


def nbytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all initializers."""
    return sum(to_array(t).nbytes for t in model.graph.initializer)


@pytest.mark.parametrize("text", [QUANTIZED, INTEGERS, ROUNDED])
@pytest.mark.parametrize("target", ["size=0.5", "size=450", "memory=0.7"])
def test_bytes_are_those_of_quantized_weights_too(pair, parsed, text, target):
    model = parsed(text)
    model.graph.initializer.extend(pair[0].graph.initializer)
    if "bias" in text:
        model.graph.initializer.append(from_array(np.arange(12, dtype=np.int32), "bias"))
    result = rc.prune(model, target=target, criterion="l1", round_to=1, rectify="none")
    before, after = result.report.before, result.report.after
    assert (before.bytes, after.bytes) == (nbytes(model), nbytes(result.model))
    bound = parse_target(target).bound(before.memory or before.bytes)
    assert 0.8 * bound < (after.memory or after.bytes) <= bound


def test_bytes_of_short_numbers_and_of_none(parsed):
    """Of four bits, two to a byte; sizes, masks and integers that nothing dequantizes are no weights."""
    model = parsed(QUANTIZED.replace(": 18", ": 21"))
    for name, kind, values in (
        ("four", onnx.TensorProto.INT4, range(6)),
        ("sizes", onnx.TensorProto.INT32, range(5)),
        ("mask", onnx.TensorProto.BOOL, [True] * 3),
        ("q", onnx.TensorProto.UINT8, [7] * 432),
        ("s", onnx.TensorProto.FLOAT, [0.5] * 12),
        ("z", onnx.TensorProto.UINT8, [3] * 12),
        ("w2", onnx.TensorProto.FLOAT, [0.1] * 60),
    ):
        dims = {"q": (12, 4, 3, 3), "w2": (5, 12, 1, 1)}.get(name, (len(values),))
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, dims, values))
    cost = CostModel(rc.analyze(model))
    assert cost("size", cost.dense) == 3 + 432 + 4 * 12 + 12 + 4 * 60


@pytest.mark.parametrize("criterion", ["synflow-exact", "snip", "grasp", "hutchinson"])
def test_what_has_no_gradient_is_named(pair, criterion):
    data = {"data": {"x": np.ones((4, 4, 6, 6), np.float32)}} if rc.criteria[criterion].needs_data else {}
    with pytest.raises(UsageError, match="'q' is quantized and has no gradient"):
        rc.prune(pair[0], criterion=criterion, **data)


@pytest.mark.parametrize("gradients", ["ort", "torch"])
def test_layers_of_integers_have_no_gradient(gradients):
    if gradients == "torch":
        pytest.importorskip("torch")
    model = ALL["ConvInteger"].model
    data = {
        value.name: np.zeros([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32) for value in model.graph.input
    }
    with pytest.raises(UsageError, match="is quantized and has no gradient: choose a --criterion without"):
        rc.prune(model, criterion="taylor", data=data, gradients=gradients)


def test_four_bits_stand_for_what_onnxruntime_makes_of_them(parsed):
    """Single ones cannot be set."""
    text = """< ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1] > g (float[32,32] x) => (float[32,4] y) {
        a = com.microsoft.MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16> (x, q, s, z) y = MatMul (a, w) }"""
    rng = np.random.default_rng(0)
    stored = {
        "q": rng.integers(0, 256, (6, 2, 8)).astype(np.uint8),
        "s": rng.uniform(0.1, 0.2, (6, 2)).astype(np.float32),
        "z": rng.integers(0, 256, (6, 1)).astype(np.uint8),
        "w": rng.normal(size=(6, 4)).astype(np.float32),
    }
    model = parsed(text)
    model.graph.initializer.extend(from_array(array, name) for name, array in stored.items())
    real = rc.analyze(model).flow.quantized["q"].real(stored["q"]).reshape(6, 32)
    (y,) = run(model, {"x": np.eye(32, dtype=np.float32)})
    np.testing.assert_allclose(real.T @ stored["w"], y, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="'q' packs several numbers in each byte"):
        sparse(model)


STEPS = f"""{HEAD} <float s0 = {{0.02}}, uint8 z0 = {{128}}, float s1 = {{0.04}}> {{
    w = DequantizeLinear<axis = 0> (q, s, z)
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = QuantizeLinear (a, s0, z0)
    c = DequantizeLinear (b, s0, z0)
    d = QuantizeLinear (c, s0, z0)
    e = DequantizeLinear (d, s1, z0)
    y = Conv (e, w2) }}"""


def test_rounding_is_left_out_where_values_keep_what_they_stand_for(pair, parsed):
    model = parsed(STEPS)
    assert leave_out(model.graph)
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 2
    assert model.graph.node[3].op_type == "Identity"
    assert list(model.graph.node[3].input) == ["a"]
    assert not leave_out(parsed(QUANTIZED).graph)


def test_a_wrong_cut_fails_without_rounding_too(pair, parsed):
    model = parsed(STEPS)
    model.graph.initializer.extend(pair[0].graph.initializer)
    graph = from_model(model)
    analysis = analyze(graph)
    keep = np.arange(analysis.width) % 3 > 0
    against = reference(analysis, keep)
    cut(analysis, keep)
    assert verify(graph, against).status == "exact"
    weight = graph.tensors()["w2"]
    weight.values = weight.values[:, ::-1].copy()
    with pytest.raises(VerificationError, match="off by"):
        verify(graph, against)


def test_a_recurrent_network_of_any_batch_is_verified(parsed):
    """Its initial state is a constant whose shape depends on the batch."""
    text = """< ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1] > g (float[7,n,6] x) => (float[7,n,4] y)
        <int64[1] one = {1}, int64[1] six = {6}, int64[1] axis = {1}, float[1] s = {0.02}, int8[1] z = {0}> {
        shape = Shape <start = 1, end = 2> (x) sizes = Concat <axis = 0> (one, shape, six) state = ConstantOfShape (sizes)
        q, l, c = com.microsoft.DynamicQuantizeLSTM <hidden_size = 6> (x, w, r, , , state, state, , s, z, s, z)
        h = Squeeze (q, axis) y = MatMul (h, w2) }"""
    model = parsed(text, w2=(6, 4))
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(from_array(rng.integers(-99, 99, (1, 6, 24)).astype(np.int8), name) for name in "wr")
    report = rc.prune(model, target="channels=0.5", criterion="l2", round_to=1).report
    assert report.verify.status == "shape-only"
    assert [(group.width, group.kept) for group in report.groups] == [(6, 3)]
