"""What `gradients` promises of whole networks: names, shapes, sums over users, what is zero, what is refused."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.autodiff import TAKEN_AS_ZERO, NoDerivativeError, differentiate
from onnx_reconvene.graph import Source, from_model, load
from onnx_reconvene.precision import in_single_precision
from tests.derivatives.case import Case, case, ints
from tests.derivatives.oracle import Slope, check, run, trainable, weighted

Network = Callable[[str], ModelProto]
Parse = Callable[..., ModelProto]
MLP = """<ir_version: 8, opset_import: ["": 18]> mlp (float[4,3] x) => (float[4,2] y) {
    a = MatMul(x, w1) h = Relu(a) y = MatMul(h, w2) }"""
FREE = """<ir_version: 8, opset_import: ["": 18]> mlp (float[batch,3] x) => (float[batch,2] y) { y = MatMul(x, w) }"""


def names_of_outputs(model: ModelProto) -> list[str]:
    return [output.name for output in model.graph.output]


def evaluate(model: ModelProto, **feeds: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    return dict(zip(names_of_outputs(model), run(model, feeds), strict=True))


@pytest.fixture
def mlp(parsed: Parse) -> ModelProto:
    """A perceptron of two layers."""
    return parsed(MLP, w1=(3, 5), w2=(5, 2))


X = np.random.default_rng(0).standard_normal((4, 3), dtype=np.float32)


def test_outputs_are_those_of_the_model_then_one_gradient_for_each_weight(mlp: ModelProto) -> None:
    result = rc.gradients(mlp)
    assert names_of_outputs(result) == ["y", "w1.grad", "w2.grad"]
    w1, w2 = (numpy_helper.to_array(t) for t in mlp.graph.initializer)
    found = evaluate(result, x=X)
    hidden = np.maximum(X @ w1, 0)
    np.testing.assert_allclose(found["y"], hidden @ w2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["w2.grad"], hidden.T @ np.ones((4, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["w1.grad"], X.T @ ((np.ones((4, 2)) @ w2.T) * (hidden > 0)), rtol=1e-5, atol=1e-6)


def test_model_is_not_modified_and_its_weights_stay(mlp: ModelProto) -> None:
    before = mlp.SerializeToString(deterministic=True)
    result = rc.gradients(mlp)
    assert mlp.SerializeToString(deterministic=True) == before
    assert list(result.graph.initializer) == list(mlp.graph.initializer)
    onnx.checker.check_model(result, full_check=True)


def test_gradients_of_inputs_and_feature_maps(mlp: ModelProto) -> None:
    result = rc.gradients(mlp, ["h", "x", "y"])
    assert names_of_outputs(result) == ["y", "h.grad", "x.grad", "y.grad"]
    w1, w2 = (numpy_helper.to_array(t) for t in mlp.graph.initializer)
    found = evaluate(result, x=X)
    np.testing.assert_array_equal(found["y.grad"], np.ones((4, 2)))
    np.testing.assert_allclose(found["h.grad"], np.ones((4, 2)) @ w2.T, rtol=1e-5)
    np.testing.assert_allclose(found["x.grad"], (found["h.grad"] * (X @ w1 > 0)) @ w1.T, rtol=1e-5, atol=1e-6)


def test_only_what_leads_from_wrt_to_the_loss_is_computed(mlp: ModelProto) -> None:
    forward = len(mlp.graph.node)
    operators = [node.op_type for node in rc.gradients(mlp, ["w2"]).graph.node[forward:]]
    assert operators.count("Gemm") == 1  # h' g, nothing for the layer before
    assert "Greater" not in operators


def test_a_file_is_taken_as_well(mlp: ModelProto, file: Callable[..., object]) -> None:
    assert rc.gradients(file(mlp)) == rc.gradients(mlp)


def test_gradient_of_a_shared_weight_is_the_sum_over_its_users(parsed: Parse) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> net (float[4,3] x) => (float[4,3] y) {{ a = MatMul(x, {}) y = MatMul(a, {}) }}'
    model = parsed(text.format("w", "v"), w=(3, 3), v=(3, 3))
    model.graph.initializer[1].raw_data = model.graph.initializer[0].raw_data
    apart = evaluate(rc.gradients(model), x=X)
    shared = evaluate(rc.gradients(parsed(text.format("w", "w"), w=(3, 3))), x=X)
    np.testing.assert_allclose(shared["w.grad"], apart["w.grad"] + apart["v.grad"], rtol=1e-5)


def test_loss_is_a_scalar_of_the_network(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[4,3] x) => (float[4,2] y) {
        y = MatMul(x, w) s = ReduceMean<keepdims = 0>(y) loss = Mul(s, s) }"""
    model = parsed(text, w=(3, 2))
    found = evaluate(rc.gradients(model, loss="loss"), x=X)
    expected = 2 * found["y"].mean() / 8 * X.T @ np.ones((4, 2))
    np.testing.assert_allclose(found["w.grad"], expected, rtol=1e-4, atol=1e-6)


def test_several_outputs_are_summed_and_integers_among_them_left_out(parsed: Parse) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[4,3] x) => (float[4,2] y, int64[4,1] best, float[4,2] z) {
        y = MatMul(x, w) best = ArgMax<axis = 1>(y) z = Exp(y) }"""
    found = evaluate(rc.gradients(parsed(text, w=(3, 2))), x=X)
    np.testing.assert_allclose(found["w.grad"], X.T @ (1 + found["z"]), rtol=1e-4)


@pytest.mark.parametrize(
    "nothing",
    [
        "b = ArgMax<axis = 1, keepdims = 0>(a) y = Cast<to = 1>(b)",
        "b = Greater(a, x) y = Cast<to = 1>(b)",
        "b = Shape(a) y = Cast<to = 1>(b)",
        "b = Cast<to = 7>(a) y = Cast<to = 1>(b)",
        "y = Floor(a)",
        "y = Round(a)",
    ],
)
def test_gradient_is_zero_where_nothing_varies(nothing: str) -> None:
    model = case(f"a = Mul(x, w) {nothing}", inputs="float[2,3] x", w=(2, 3)).model
    found = evaluate(rc.gradients(model), x=np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(found["w.grad"], np.zeros((2, 3)))


def test_weight_that_no_output_depends_on_has_gradient_zero(mlp: ModelProto) -> None:
    mlp.graph.initializer.append(numpy_helper.from_array(np.ones((7, 2), np.float32), "idle"))
    np.testing.assert_array_equal(evaluate(rc.gradients(mlp), x=X)["idle.grad"], np.zeros((7, 2)))


@pytest.mark.parametrize(("shape", "batch"), [(None, 1), ({"x": (6, 3)}, 6)])
def test_free_dimensions_are_those_given_or_one(parsed: Parse, shape: dict[str, tuple[int, ...]] | None, batch: int) -> None:
    result = rc.gradients(parsed(FREE, w=(3, 2)), input_shape=shape)
    x = np.ones((batch, 3), np.float32)
    np.testing.assert_array_equal(evaluate(result, x=x)["w.grad"], np.full((3, 2), batch))


def test_gradients_in_a_network_of_gradients_get_longer_names(mlp: ModelProto) -> None:
    again = rc.gradients(rc.gradients(mlp, ["w1"]), ["w1"])
    assert names_of_outputs(again) == ["y", "w1.grad", "w1.grad.grad"]


def test_no_weight_is_copied(file: Callable[..., object]) -> None:
    graph = load(str(file("resnet20")))
    derivative = differentiate(graph)
    assert derivative.source.arrays
    assert all(derivative.source.arrays[name] is array for name, array in graph.source.arrays.items())


def test_half_precision(parsed: Parse) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> net (float16[2,3] x) => (float16[2,3] y) { a = Mul(x, x) y = Sigmoid(a) }'
    model = parsed(text)
    x = np.float16([[0.5, -1, 2], [1, 0, -0.25]])
    found = evaluate(rc.gradients(model, ["x"]), x=x)["x.grad"]
    s = 1 / (1 + np.exp(-(x.astype(np.float64) ** 2)))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, 2 * x * s * (1 - s), atol=2e-3)


# What no rule gives, but the definition of an operator in terms of others.
FUNCTIONS = {
    "CenterCropPad": case("y = CenterCropPad<axes = [1,2]>(x, s)", s=ints(2, 6)),
    "GroupNormalization": case(
        "y = GroupNormalization<num_groups = 2>(x, s, b)",
        inputs="float[2,4,3] x",
        outputs="float[2,4,3] y",
        opset=21,
        s=(4,),
        b=(4,),
    ),
    "MeanVarianceNormalization": case("y = MeanVarianceNormalization(x)", inputs="float[2,4,6,5] x", outputs="float[2,4,6,5] y"),
    "NegativeLogLikelihoodLoss": case(
        'p = LogSoftmax<axis = 1>(x) y = NegativeLogLikelihoodLoss<reduction = "mean">(p, t)', t=np.array([[0, 2, 1, 1]] * 2)
    ),
    "SoftmaxCrossEntropyLoss": case(
        'y = SoftmaxCrossEntropyLoss<reduction = "mean", ignore_index = 1>(x, t)', t=np.array([[0, 2, 1, 1]] * 2)
    ),
    "RotaryEmbedding": case("y = RotaryEmbedding(x, c, s)", inputs="float[1,2,3,4] x", opset=23, c=(1, 3, 2), s=(1, 3, 2)),
    "Attention": case("y = Attention(q, k, v)", inputs="float[1,2,3,4] q, float[1,2,5,4] k, float[1,2,5,4] v", opset=23),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators_defined_by_others_need_no_rule(name: str) -> None:
    model, feeds = FUNCTIONS[name].model, FUNCTIONS[name].feeds()
    check(weighted(model, feeds), feeds, trainable(model), single=True)


def test_local_functions_are_looked_into() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 18, "own": 1]>
        net (float[2,3] x) => (float[2,3] y) { y = own.square(x) }
        <domain: "own", opset_import: ["": 18]> square (a) => (b) { b = Mul(a, a) }""")
    x = np.float32([[1, 2, 3], [-1, 0, 4]])
    np.testing.assert_array_equal(evaluate(rc.gradients(model, ["x"]), x=x)["x.grad"], 2 * x)


def test_pools_whose_shape_onnx_overstates() -> None:
    """Below opset 22 onnx takes ceil((11 + 2 - 2) / 2) + 1 = 7, though the last window would stand in the padding alone."""
    pool = "y = MaxPool<kernel_shape = [2], strides = [2], pads = [1,1], ceil_mode = 1>(x)"
    model = case(pool, inputs="float[1,1,11] x", outputs="float[1,1,n] y").model
    x = np.arange(11, dtype=np.float32).reshape(1, 1, 11)
    found = evaluate(rc.gradients(model, ["x"]), x=x)
    assert found["y"].shape == (1, 1, 6)
    np.testing.assert_array_equal(found["x.grad"].ravel(), [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])


BOUNDED = "a = Constant<value = float {0.0}>() b = Constant<value = float {6.0}>() y = Clip(x, a, b)"
EXTREME = "a = Constant<value = float {-1e-30}>() b = Constant<value = float {1e30}>() y = Clip(x, a, b)"
KINKS = {
    "Relu at 0": ("y = Relu(x)", [0.0, 1.0], [0.0, 1.0]),
    "Relu beside 0 and far": ("y = Relu(x)", [2.0**-126, np.inf], [1.0, 1.0]),
    "Abs at 0": ("y = Abs(x)", [0.0, -2.0], [0.0, -1.0]),
    "Clip at its bounds": (BOUNDED, [0.0, 6.0], [0.0, 0.0]),
    "Clip beside its bounds": (BOUNDED, [2.0**-126, np.nextafter(6, 0, dtype=np.float32)], [1.0, 1.0]),
    "Clip at bounds large and small": (EXTREME, [-1e-30, 1e30], [0.0, 0.0]),
    "Clip beside bounds large and small": (EXTREME, np.nextafter([-1e-30, 1e30], 0, dtype=np.float32), [1.0, 1.0]),
    "ReduceMax among equals": ("y = ReduceMax(x)", [3.0, 3.0], [0.5, 0.5]),
    "Max with itself": ("y = Max(x, x)", [3.0, 1.0], [1.0, 1.0]),
    "ReduceL2 at 0": ("y = ReduceL2(x)", [0.0, 0.0], [0.0, 0.0]),
    "Pow at 0": ("e = Constant<value = float[2] {0.0, 1.0}>() y = Pow(x, e)", [0.0, 0.0], [0.0, 1.0]),
    "LpNormalization at 0": ("y = LpNormalization(x)", [0.0, 0.0], [1.0, 1.0]),
}


@pytest.mark.parametrize("name", KINKS)
def test_slope_at_a_kink(name: str) -> None:
    body, x, expected = KINKS[name]
    model = case(body, inputs="float[2] x").model
    np.testing.assert_array_equal(evaluate(rc.gradients(model, ["x"]), x=np.float32(x))["x.grad"], expected)


@pytest.mark.parametrize("bounded", ["Relu(x)", "Clip(x, a, b)"])
def test_where_a_slope_jumps_second_derivatives_are_those_beside(bounded: str) -> None:
    scalars = "a = Constant<value = float {0.0}>() b = Constant<value = float {6.0}>() c = Constant<value = float {1024.0}>()"
    model = case(f"{scalars} h = {bounded} s = Mul(h, c) y = Mul(s, s)", inputs="float[3] x").model
    twice = rc.gradients(rc.gradients(model, ["x"]), ["x"])  # of the sum of y = (c h)^2 and its gradient
    x = np.array([-1, 0, 2], np.float32)
    np.testing.assert_array_equal(evaluate(twice, x=x)["x.grad.grad"], 1024**2 * np.array([0, 0, 2 * 2 + 2]))


def test_powers_of_0_have_a_slope_for_base_and_exponent_twice_over() -> None:
    model = case("y = Pow(x, e)", inputs="float[4] x, float[4] e").model
    twice = rc.gradients(rc.gradients(model, ["x", "e"]), ["x", "e"])
    found = evaluate(twice, x=np.zeros(4, np.float32), e=np.array([0, 1, 2, 3], np.float32))
    np.testing.assert_array_equal(found["x.grad"], [0, 1, 0, 0])
    np.testing.assert_array_equal(found["e.grad"], np.zeros(4))
    assert all(np.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("kernel", [1, 3])
def test_statistics_of_another_type_than_the_features(kernel: int) -> None:
    pads = f"pads = [{kernel // 2},{kernel // 2},{kernel // 2},{kernel // 2}]"
    body = f"c = Conv<{pads}>(x, w) n = BatchNormalization(c, s, b, m, p) r = Relu(n) f = Cast<to = 1>(r) y = Identity(f)"
    weights = {"w": (3, 2, kernel, kernel), **dict.fromkeys("sbmp", (3,))}
    whole = case(body.replace("Cast<to = 1>", "Identity"), inputs="float[1,2,5,5] x", **weights).model
    mixed = ModelProto()
    mixed.CopyFrom(case(body, inputs="float16[1,2,5,5] x", **weights).model)
    for model in (whole, mixed):
        half = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
        kind = np.float16 if model is mixed else np.float32
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(half.astype(kind), "w"))
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float16)
    expected, found = evaluate(rc.gradients(whole), x=x.astype(np.float32)), evaluate(rc.gradients(mixed), x=x)
    for name in ("w.grad", "s.grad", "b.grad", "m.grad", "p.grad"):
        assert found[name].dtype == (np.float16 if name == "w.grad" else np.float32)
        np.testing.assert_allclose(found[name], expected[name], rtol=0.03, atol=0.05)


def test_max_pool_gives_all_to_the_first_among_equals() -> None:
    model = case("y = MaxPool<kernel_shape = [2,2]>(x)", inputs="float[1,1,2,2] x").model
    found = evaluate(rc.gradients(model, ["x"]), x=np.ones((1, 1, 2, 2), np.float32))
    np.testing.assert_array_equal(found["x.grad"].ravel(), [1, 0, 0, 0])


NORMALIZED = "a = Conv<pads = [1,1,1,1]>(x, w, c) h = BatchNormalization<epsilon = 0.1>(a, s, b, m, p) y = Sigmoid(h)"
LARGER = "float[2,3,6,5] x"  # than the kernel: the maps are

BRANCHES = """z = If (t) <then_branch = then () => (float[2,4,6,5] e) { e = Exp(a) },
                         else_branch = other () => (float[2,4,6,5] f) { f = Neg(a) }>"""


def normalized(body: str = NORMALIZED, inputs: str = LARGER, outputs: str = "y") -> Case:
    return case(body, inputs=inputs, outputs=outputs, w=(4, 3, 3, 3), **dict.fromkeys("csbmp", (4,)))


@pytest.mark.parametrize("body", [NORMALIZED, NORMALIZED.replace(", c)", ")")])
def test_convolution_takes_in_the_normalization_after_it(body: str) -> None:
    model, feeds = normalized(body).model, normalized(body).feeds()
    check(weighted(model, feeds), feeds, [name for name in trainable(model) if name in body])
    operators = [node.op_type for node in rc.gradients(model).graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Conv") == 2  # there and, for the kernel, back


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        (normalized(), {"wrt": ["w", "a"]}),
        (normalized(outputs="y, a"), {}),
        (normalized(NORMALIZED + " z = Exp(a)"), {}),
        (normalized(inputs="float[1,3,2,2] x"), {}),
        (normalized(NORMALIZED.replace("<epsilon", "<training_mode = 1, epsilon").replace("h = ", "h, q, r = ")), {}),
        (normalized(NORMALIZED + BRANCHES, LARGER + ", bool t", "y, z"), {"missing": "zero"}),
    ],
    ids=["gradient asked for", "output", "read twice", "kernel larger", "training", "read inside a branch"],
)
def test_convolution_stays_apart_from_the_normalization_where_it_is_needed(changed: Case, options: dict[str, Any]) -> None:
    operators = [node.op_type for node in rc.gradients(changed.model, **options).graph.node]
    assert operators.count("BatchNormalization") == 1


def test_factors_of_zero_leave_the_others_their_slope() -> None:
    body = 'y = ScatterElements<axis = 0, reduction = "mul">(x, i, w)'
    model = case(body, inputs="float[3] x", i=ints(0, 0, 1, 1, 2), w=np.float32([0, 2, 0, 0, 3])).model
    found = evaluate(rc.gradients(model, ["x", "w"]), x=np.float32([5, 7, 11]))
    np.testing.assert_array_equal(found["x.grad"], [0, 0, 3])
    np.testing.assert_array_equal(found["w.grad"], [5 * 2, 0, 0, 0, 11])


OF_OPSET = {"bilinear": 16, "linear": 20}


def test_sampling_of_older_opsets_is_that_of_newer_ones() -> None:
    inputs = {"x": np.float32([[[[1, 2], [3, 5]]]]), "grid": np.float32([[[[0.1, -0.3]]]])}
    text = 'y = GridSample<mode = "{}">(x, grid)'
    old, new = (case(text.format(mode), "float[1,1,2,2] x, float[1,1,1,2] grid", opset=n).model for mode, n in OF_OPSET.items())
    for gradient in ("x.grad", "grid.grad"):
        found, wanted = (evaluate(rc.gradients(model, ["x", "grid"]), **inputs)[gradient] for model in (old, new))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("mode", "opset"), [("bicubic", 16), ("cubic", 20)])
def test_sampling_by_cubes_is_an_error(mode: str, opset: int) -> None:
    model = case(f'y = GridSample<mode = "{mode}">(x, grid)', "float[1,1,2,2] x, float[1,1,1,2] grid", opset=opset).model
    with pytest.raises(NoDerivativeError, match=f"operator GridSample with mode {mode}$"):
        rc.gradients(model, ["x"])


PRODUCTS = {
    "": ("y = Conv<pads = [1,1,1,1]>(x, w)", (6, 4, 3, 3)),
    "bias": ("h = Conv<pads = [0,1,1,1], strides = [1,2]>(x, w, b) y = Sigmoid(h)", (6, 4, 2, 3)),
    "groups": ("h = Conv<group = 2, pads = [1,0,2,1], dilations = [2,1]>(x, w, b) y = Sigmoid(h)", (6, 2, 3, 2)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_convolution_of_small_maps_is_a_product_of_matrices(name: str) -> None:
    body, shape = PRODUCTS[name]
    small = case(body, inputs="float[8,4,2,2] x", w=shape, b=(6,))
    check(weighted(small.model, small.feeds()), small.feeds(), ["x"])
    assert "Conv" not in [node.op_type for node in rc.gradients(small.model, ["x"]).graph.node]


@pytest.mark.parametrize("name", PRODUCTS)
def test_nodes_appended_to_a_product_have_names_of_their_own(name: str) -> None:
    body, shape = PRODUCTS[name]
    model = case(body, inputs="float[8,4,2,2] x", w=shape, b=(6,)).model
    names = [node.name for node in rc.gradients(rc.gradients(model, ["x"]), ["x"]).graph.node if node.name]
    assert len(names) == len(set(names))


UNKNOWN = """<ir_version: 8, opset_import: ["": 18]> net (float[4,4] x) => (float y) {
    a = MatMul(x, w) [inversion] d = Det(a) s = ReduceSum<keepdims = 0>(a) y = Add(d, s) }"""


def test_missing_rule_is_an_error_that_names_node_and_operator(parsed: Parse) -> None:
    with pytest.raises(NoDerivativeError, match=r"node 'inversion': no derivative rule for operator Det$"):
        rc.gradients(parsed(UNKNOWN, w=(4, 4)))


def test_missing_rule_off_the_path_is_none(parsed: Parse) -> None:
    model = parsed(UNKNOWN, w=(4, 4))
    found = evaluate(rc.gradients(model, loss="s"), x=np.eye(4, dtype=np.float32))
    np.testing.assert_array_equal(found["w.grad"], np.ones((4, 4)))


def test_missing_rule_counts_as_zero_where_asked_for_and_is_reported(parsed: Parse) -> None:
    result = rc.gradients(parsed(UNKNOWN, w=(4, 4)), missing="zero")
    found = evaluate(result, x=np.eye(4, dtype=np.float32))
    np.testing.assert_array_equal(found["w.grad"], np.ones((4, 4)))
    (entry,) = [p.value for p in result.metadata_props if p.key == TAKEN_AS_ZERO]
    assert entry == "node 'inversion': no derivative rule for operator Det"


def test_operator_of_another_domain_is_named_with_it() -> None:
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]> net (float[2] x) => (float[2] y) {
        y = com.microsoft.QuickGelu(x) }"""
    with pytest.raises(NoDerivativeError, match=r"operator com\.microsoft\.QuickGelu"):
        rc.gradients(onnx.parser.parse_model(text), ["x"])


BYTES = {"s": np.float32(0.1), "z": np.uint8(128)}
QUANTIZED = {
    "QuantizeLinear": ("a = MatMul(x, w) q = QuantizeLinear(a, s, z) r = Transpose<perm = [0,1]>(q)", "s"),
    "DynamicQuantizeLinear": ("a = MatMul(x, w) q, t, u = DynamicQuantizeLinear(a) r = Transpose<perm = [0,1]>(q)", "t"),
    "QLinearMatMul": ("p = QuantizeLinear(x, s, z) t = ReduceMax<keepdims = 0>(w) r = QLinearMatMul(p, t, z, k, s, z, s, z)", "s"),
}


def quantized(op: str) -> ModelProto:
    """Return a network whose weight w stands before a quantizer, and v behind it."""
    before, scale = QUANTIZED[op]
    body = f"{before} h = DequantizeLinear(r, {scale}, z) y = MatMul(h, v)"
    return case(body, inputs="float[2,3] x", w=(3, 4), v=(4, 2), k=np.full((3, 4), 130, np.uint8), **BYTES).model


@pytest.mark.parametrize("op", QUANTIZED)
def test_gradients_end_at_what_quantizes(op: str) -> None:
    model, x = quantized(op), X[:2]
    error = rf"node '[qr]': no derivative rule for operator {op}, which rounds"
    with pytest.raises(NoDerivativeError, match=error):
        rc.gradients(model, ["w", "v"])
    behind = evaluate(rc.gradients(model, ["v", "h"]), x=x)["v.grad"]
    result = rc.gradients(model, ["w", "v"], missing="zero")
    (entry,) = [p.value for p in result.metadata_props if p.key == TAKEN_AS_ZERO]
    assert re.match(error, entry)
    assert behind.any()
    np.testing.assert_array_equal(evaluate(result, x=x)["v.grad"], behind)
    np.testing.assert_array_equal(evaluate(result, x=x)["w.grad"], np.zeros((3, 4)))


def test_what_quantizes_beside_the_path_is_none() -> None:
    """The scale and the shape that the quantized branch reads depend on the weight by its shape alone."""
    body = """a = MatMul(x, w) q = QuantizeLinear(x, s, z) b = DequantizeLinear(q, s, z) n = Shape(a) c = Reshape(v, n)
        d = QuantizeLinear(c, s, z) e = DequantizeLinear(d, s, z) y = Sum(a, b, e)"""
    model = case(body, inputs="float[2,3] x", w=(3, 3), v=(3, 2), **BYTES).model
    np.testing.assert_allclose(evaluate(rc.gradients(model, ["w"]), x=X[:2])["w.grad"], X[:2].T @ np.ones((2, 3)), rtol=1e-5)


def test_shapes_behind_control_flow_are_known() -> None:
    """Beside it gradients pass, and its result counts as it is."""
    text = """<ir_version: 8, opset_import: ["": 18]> net (bool c, float[n,2] x) => (float[n,2] y) <float[2] w = {3, 5}> {
        p = If (c) <then_branch = then () => (float[n,2] a) { a = Mul(x, x) },
                    else_branch = other () => (float[n,2] b) { b = Neg(x) }>
        s = Identity (p) y = Mul(s, w) }"""
    model = rc.gradients(onnx.parser.parse_model(text), ["w"])
    for condition, expected in ((True, [4, 9]), (False, [-2, -3])):
        feeds = {"c": np.array(condition), "x": np.array([[2, 3]], np.float32)}
        np.testing.assert_allclose(evaluate(model, **feeds)["w.grad"], expected)


def test_loop_that_reads_a_weight_is_an_error() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = then () => (float[2] p) { p = Mul(x, x) },
                    else_branch = other () => (float[2] q) { q = Neg(x) }> }"""
    with pytest.raises(NoDerivativeError, match="operator If"):
        rc.gradients(onnx.parser.parse_model(text), ["x"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrt": ["w9"]}, "no tensor 'w9'"),
        ({"wrt": ["best"]}, "'best' holds no floating-point numbers"),
        ({"loss": "l"}, "no tensor 'l'"),
        ({"loss": "y"}, r"'y' of shape \[4, 2\] is no floating-point scalar"),
        ({"missing": "ignore"}, "neither 'error' nor 'zero'"),
        ({"input_shape": {"z": (1,)}}, "no such input"),
    ],
)
def test_wrong_arguments(parsed: Parse, options: dict[str, object], message: str) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[4,3] x) => (float[4,2] y, int64[4,1] best) {
        y = MatMul(x, w) best = ArgMax<axis = 1>(y) }"""
    with pytest.raises(rc.UsageError, match=message):
        rc.gradients(parsed(text, w=(3, 2)), **options)  # type: ignore[arg-type]


def test_shape_that_depends_on_data_is_an_error_that_names_the_tensor() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[4] x) => (float[n] y) {
        c = NonZero(x) i = Squeeze(c, a) g = Gather(x, i) y = Mul(g, g) } """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(ints(0), "a"))
    with pytest.raises(rc.ModelError, match="tensor 'y': its shape is not known"):
        rc.gradients(model, ["x"])


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15])
def test_old_opsets_are_converted(opset: int, parsed: Parse) -> None:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> net (float[2,3,6,6] x) => (float[2,5] y) {{
        a = Conv(x, w) b = Relu(a) c = MaxPool<kernel_shape = [2,2]>(b) d = Flatten(c) e = Gemm(d, v, z) y = Softmax(e) }}"""
    model = parsed(text, w=(4, 3, 3, 3), v=(36, 5), z=(5,))
    feeds = {"x": np.random.default_rng(5).standard_normal((2, 3, 6, 6), dtype=np.float32)}
    check(weighted(model, feeds), feeds, ["x", "w", "v", "z"], single=True)


@pytest.mark.parametrize("name", ["resnet20", "unet"])
def test_slope_of_a_network_as_all_its_weights_move(name: str, network: Network) -> None:
    model = network(name)
    feeds = {"input": np.random.default_rng(6).standard_normal((1, 3, 32, 32), dtype=np.float32)}
    names = trainable(model)[1:]
    model.graph.input[0].type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, (1, 3, 32, 32)).tensor_type.shape)
    found = evaluate(rc.gradients(weighted(model, feeds), names, "loss"), **feeds)
    rng = np.random.default_rng(7)
    directions = {name: rng.standard_normal(found[f"{name}.grad"].shape) for name in names}
    claimed = sum(float((found[f"{name}.grad"] * direction).sum()) for name, direction in directions.items())
    measured = Slope(weighted(model, feeds), feeds, "loss", single=False).along(directions)
    assert abs(claimed - measured) < 1e-3 * abs(measured)


@pytest.mark.parametrize("name", ["crnn", "densenet121__dynamo", "levit_128s", "swin_t", "yolo_c2f__bn"])
def test_every_weight_of_a_real_architecture_gets_a_gradient(name: str, zoo: Network) -> None:
    model = zoo(name)
    derivative = differentiate(from_model(model))
    assert not derivative.taken_as_zero
    producers = {output: node for node in derivative.source.model.graph.node for output in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}  # scales of Resize stand in Constant nodes
    gradients = [gradient for name, gradient in derivative.outputs.items() if name in weights]
    sources = [producers[producers[gradient].input[0]] for gradient in gradients]
    assert sources
    assert all(node.op_type != "ConstantOfShape" for node in sources)


def test_metadata_of_an_older_network_are_kept_once(parsed: Callable[..., ModelProto]) -> None:
    model = parsed('<ir_version: 8, opset_import: ["" : 13]> net (float[1,4] x) => (float[n,m] y) { y = MatMul (x, w) }', w=(4, 3))
    model.metadata_props.add(key="author", value="someone")
    made = rc.gradients(model)
    assert [(entry.key, entry.value) for entry in made.metadata_props].count(("author", "someone")) == 1
    onnx.checker.check_model(made, full_check=True)


def test_half_precision_is_computed_in_single_in_bodies_too(parsed: Parse) -> None:
    branches = """then_branch = yes () => (float16[2] a) <float16[2] two = {16384, 16384}> { a = Mul(x, two) },
                  else_branch = no () => (float16[2] b) { b = Identity(x) }"""
    model = parsed(
        f'<ir_version: 8, opset_import: ["": 17]> g (float16[2] x, bool c) => (float16[2] y) {{ y = If(c)<{branches}> }}'
    )
    single = in_single_precision(Source(model, {})).model
    onnx.checker.check_model(single, full_check=True)
    x = np.array([1, 3], np.float32)
    np.testing.assert_array_equal(evaluate(single, x=x, c=np.array(True))["y"], 2 * x)
