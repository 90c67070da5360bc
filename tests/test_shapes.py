"""Integers that networks compute from shapes are what onnxruntime computes; free input sizes are ordinary ones."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.graph import from_model
from onnx_reconvene.inference import infer
from onnx_reconvene.sizes import input_sizes, origins_of, small_sizes
from tests.nets.net import FAR, net, sizes
from tests.oracle import check, run

A, B = sizes("a", -7, 0, 5, 9), sizes("b", 2, -3, 2, -4)
MATRIX = "a = Constant<value = int64[2,3] {3, -1, 4, 1, -5, 9}>()"
LOGICAL = f"{A} {B} p = Greater(a, b) z = Constant<value_int = 0>() q = Less(a, z)"
REAL = "a = Constant<value_floats = [-1.5, 2.5, 0.25]>()"
POSITIVE = "a = Constant<value_floats = [1.5, 2.5, 0.25]>()"

BODIES = {
    "Abs": [f"{A} y = Abs(a)"],
    "Add": [f"{A} {B} y = Add(a, b)"],
    "And": [f"{LOGICAL} y = And(p, q)"],
    "Cast": [f"{REAL} y = Cast<to = 7>(a)", f"{A} y = Cast<to = 1>(a)", f"{A} y = Cast<to = 9>(a)"],
    "Ceil": [f"{REAL} y = Ceil(a)"],
    "Concat": [f"{A} {B} y = Concat<axis = 0>(a, b)", f"{MATRIX} y = Concat<axis = -1>(a, a)"],
    "ConstantOfShape": [
        f"{sizes('n', 2, 3)} y = ConstantOfShape<value = int64[1] {{-4}}>(n)",
        f"{sizes('n', 2)} y = ConstantOfShape(n)",
    ],
    "Div": [f"{A} {B} y = Div(a, b)", f"{REAL} b = Constant<value_float = -0.3>() y = Div(a, b)"],
    "Equal": [f"{A} {B} c = Abs(b) y = Equal(c, b)"],
    "Expand": [f"{A} {sizes('n', 3, 1)} y = Expand(a, n)"],
    "Floor": [f"{REAL} y = Floor(a)"],
    "Gather": [
        f"{A} {sizes('i', 1, -1, 1)} y = Gather(a, i)",
        f"{A} i = Constant<value_int = 2>() y = Gather(a, i)",
        f"{MATRIX} {sizes('i', -1, 0)} y = Gather<axis = 1>(a, i)",
    ],
    "Greater": [f"{A} {B} y = Greater(a, b)"],
    "GreaterOrEqual": [f"{A} {A.replace('a =', 'b =')} y = GreaterOrEqual(a, b)", f"{A} {B} y = GreaterOrEqual(a, b)"],
    "Identity": [f"{A} y = Identity(a)"],
    "Less": [f"{A} {B} y = Less(a, b)"],
    "LessOrEqual": [f"{A} {A.replace('a =', 'b =')} y = LessOrEqual(a, b)", f"{A} {B} y = LessOrEqual(a, b)"],
    "Max": [f"{A} {B} y = Max(a, b)", f"{A} y = Max(a)", f"{A} z = Constant<value_int = 1>() y = Max(a, z)"],
    "Min": [f"{A} {B} y = Min(a, b)", f"{A} {B} z = Constant<value_int = 1>() y = Min(a, z, b)"],
    "Mod": [f"{A} {B} y = Mod(a, b)", f"{A} {B} y = Mod<fmod = 1>(a, b)"],
    "Mul": [f"{A} {B} y = Mul(a, b)"],
    "Neg": [f"{A} y = Neg(a)"],
    "Not": [f"{LOGICAL} y = Not(p)"],
    "Or": [f"{LOGICAL} y = Or(p, q)"],
    "Pow": [f"{POSITIVE} b = Constant<value_float = 0.5>() y = Pow(a, b)", f"{A} b = Constant<value_float = 2.0>() y = Pow(a, b)"],
    "Round": [f"{REAL} y = Round(a)"],
    "Range": [
        "s = Constant<value_int = 1>() e = Constant<value_int = 9>() d = Constant<value_int = 3>() y = Range(s, e, d)",
        "s = Constant<value_int = 3>() e = Constant<value_int = -2>() d = Constant<value_int = -2>() y = Range(s, e, d)",
    ],
    **{
        op: [
            f"{MATRIX} {sizes('n', -1)} y = {op}(a, n)",
            f"{MATRIX} {sizes('n', 0)} y = {op}<keepdims = 0>(a, n)",
            f"{MATRIX} y = {op}(a)",
            f"{MATRIX} n = Constant<value = int64[0] {{}}>() y = {op}(a, n)",
            f"{MATRIX} n = Constant<value = int64[0] {{}}>() y = {op}<noop_with_empty_axes = 1>(a, n)",
        ]
        for op in ["ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"]
    },
    "Reshape": [
        f"{MATRIX} {sizes('n', 0, -1, 1)} y = Reshape(a, n)",
        f"{MATRIX} {sizes('n', -1)} y = Reshape(a, n)",
        f"a = Constant<value = int64[0,3] {{}}>() {sizes('n', 3, 0)} y = Reshape<allowzero = 1>(a, n)",
    ],
    "Slice": [
        f"{A} {sizes('s', 1)} {sizes('e', FAR)} y = Slice(a, s, e)",
        f"{A} {sizes('s', -1)} {sizes('e', -FAR)} {sizes('d', 0)} {sizes('t', -2)} y = Slice(a, s, e, d, t)",
        f"{MATRIX} {sizes('s', 1, -1)} {sizes('e', 2, -3)} {sizes('d', 0, -1)} {sizes('t', 1, -1)} y = Slice(a, s, e, d, t)",
    ],
    "Sqrt": [f"{POSITIVE} y = Sqrt(a)"],
    "Squeeze": [
        f"{A} {sizes('n', 1, 4, 1)} b = Reshape(a, n) {sizes('i', 0, -1)} y = Squeeze(b, i)",
        f"{A} {sizes('n', 1, 4, 1)} b = Reshape(a, n) y = Squeeze(b)",
    ],
    "Sub": [f"{A} {B} y = Sub(a, b)"],
    "Transpose": [f"{MATRIX} y = Transpose(a)", f"{MATRIX} y = Transpose<perm = [0,1]>(a)"],
    "Unsqueeze": [f"{A} {sizes('n', 0, -1)} y = Unsqueeze(a, n)"],
    "Where": [f"{LOGICAL} y = Where(p, a, b)"],
}
INITIAL = "a = Constant<value = int64[4] {-7, 0, 5, 9}>()"
OLD = {
    "Slice": (9, f"{INITIAL} y = Slice<axes = [0], starts = [-3], ends = [9]>(a)"),
    "Squeeze": (11, f"{INITIAL} b = Unsqueeze<axes = [0,2]>(a) y = Squeeze<axes = [0]>(b)"),
    "ReduceSum": (11, f"{MATRIX} y = ReduceSum<axes = [1], keepdims = 0>(a)"),
}
READING = {
    "Shape": "y = Shape(x)",
    "Shape, in part": "y = Shape<start = -3, end = -1>(x)",
    "Size": "y = Size(x)",
    "Constant": "y = Constant<value_ints = [3, -1]>()",
    "through floats": (
        "s = Shape(x) f = Cast<to = 1>(s) c = Constant<value_float = 0.4>() g = Mul(f, c) h = Ceil(g) y = Cast<to = 7>(h)"
    ),
    "float range": (
        f"s = Shape(x) {sizes('i', 2)} n = Gather(s, i) z = Constant<value_float = 0.0>() o = Constant<value_float = 1.0>() "
        "q = Squeeze(n) e = Cast<to = 1>(q) y = Range(z, e, o)"
    ),
    "parts of a shape": (
        f"s = Shape(x) {sizes('n', 1, 2)} a, b = Split<axis = 0>(s, n) c = ReduceMax<keepdims = 0>(b) f = Cast<to = 1>(c) "
        "g = Log(f) h = Floor(g) i = HardSwish(h) y = Clip(i)"
    ),
    "of a computed size": f"s = Shape(x) {sizes('i', 2)} n = Gather(s, i) z = ConstantOfShape(n) y = Shape(z)",
}


def compare(model: onnx.ModelProto, feeds: dict[str, object]) -> None:
    """Raise AssertionError where y of model is not what onnxruntime makes it, in value, shape or type."""
    _, integers = infer(from_model(model), {})
    (expected,) = run(model, feeds)
    found = integers["y"]
    assert (found.dtype, found.shape, found.tolist()) == (expected.dtype, expected.shape, expected.tolist())


@pytest.mark.parametrize("op", BODIES)
def test_integers_are_those_of_onnxruntime(op: str) -> None:
    assert BODIES[op]
    for body in BODIES[op]:
        compare(net(body, "", inputs="").model, {})


@pytest.mark.parametrize(("opset", "body"), OLD.values(), ids=OLD.keys())
def test_integers_of_old_opsets_are_those_of_onnxruntime(opset: int, body: str) -> None:
    compare(net(body, "", inputs="", opset=opset).model, {})


@pytest.mark.parametrize("body", READING.values(), ids=READING.keys())
def test_shapes_are_read_as_onnxruntime_reads_them(body: str) -> None:
    compare(net(body, "", inputs="float[2,3,5] x").model, {"x": np.zeros((2, 3, 5), np.float32)})


BOUND = st.one_of(st.integers(-9, 9), st.sampled_from([FAR, -FAR]))


@given(BOUND, BOUND, st.integers(-3, 3).filter(bool))
@settings(max_examples=200, deadline=None)
def test_slices_are_those_of_onnxruntime(start: int, end: int, step: int) -> None:
    assume(step > 0 or end != FAR)  # which onnxruntime, unlike ONNX, takes for the other end
    body = f"{sizes('a', 0, 1, 2, 3, 4)} {sizes('s', start)} {sizes('e', end)} {sizes('d', 0)} {sizes('t', step)}"
    compare(net(f"{body} y = Slice(a, s, e, d, t)", "", inputs="").model, {})


@given(st.integers(-20, 20), st.integers(-20, 20).filter(bool), st.sampled_from(["Div", "Mod", "Mod<fmod = 1>"]))
@settings(max_examples=60, deadline=None)
def test_division_rounds_as_that_of_onnxruntime(a: int, b: int, op: str) -> None:
    compare(net(f"{sizes('a', a)} {sizes('b', b)} y = {op}(a, b)", "", inputs="").model, {})


def test_what_depends_on_data_has_no_value() -> None:
    model = net("s = Shape(x) c = Cast<to = 7>(x) y = Concat<axis = 0>(s, c)", "", inputs="float[3] x").model
    _, integers = infer(from_model(model), {})
    assert "s" in integers
    assert "c" not in integers
    assert "y" not in integers


def test_large_tensors_are_data() -> None:
    body = (
        f"{sizes('n', 2**40)} z = ConstantOfShape(n) s = Shape(x) t = Expand(s, n) i = Constant<value_int = 0>() "
        "o = Constant<value_int = 1>() m = Squeeze(n) y = Range(i, m, o)"
    )
    _, integers = infer(from_model(net(body, "", inputs="float[1] x").model), {})
    assert not {"z", "t", "y"} & {name for name in ("s", "z", "t", "y") if name in integers}
    assert "s" in integers


def free(inputs: str, body: str = "y = Relu(x)", outputs: str = "y", **weights: tuple[int, ...] | np.ndarray) -> gs.Graph:
    """Return the graph of a network whose inputs may have free dimensions."""
    return from_model(net(body, "", inputs=inputs, outputs=outputs, **weights).model)


def test_symbols_that_are_sums_of_others_follow_them() -> None:
    """As those of a mask over what was read before and is read now."""
    inputs = "float[batch,steps,4] x, float[batch,past,4] z, float[batch,total] m"
    graph = free(inputs, "c = Concat<axis = 1>(z, x) r = ReduceSum<keepdims = 0>(c, i) y = Add(r, m)", i=np.asarray([2]))
    graph.inputs[2].shape = ["batch", "past + steps"]
    assert input_sizes(graph, {}) == {"x": (1, 128, 4), "z": (1, 128, 4), "m": (1, 256)}
    assert input_sizes(graph, {"z": (2, 5, 4)})["m"] == (2, 133)


POOLED = (
    "a = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x) b = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a) y = Conv(b, w)"
)

CROPPED = f"a = Conv(x, w) {sizes('s', 1)} {sizes('e', 9)} {sizes('c', 2)} y = Slice(a, s, e, c)"
UNSHUFFLED = (
    f"t = Shape(x) {sizes('i', 2)} {sizes('j', 3)} {sizes('two', 2)} "
    "g = Gather(t, i) r = Div(g, two) k = Gather(t, j) q = Div(k, two) "
    f"{sizes('b', -1, 3)} n = Concat<axis = 0>(b, r, two, q, two) a = Reshape(x, n) "
    f"p = Transpose<perm = [0,1,3,5,2,4]>(a) {sizes('d', -1, 12)} m = Concat<axis = 0>(d, r, q) u = Reshape(p, m) y = Conv(u, w)"
)


STATEFUL = (
    "z = Constant<value_int = 0>() g = Gather<axis = 0>(h, z) "
    f"{sizes('a', 0)} u = Unsqueeze(g, a) o, n, y = LSTM<hidden_size = 4>(x, w, r, , , u)"
)
UNTAKEN = (
    f"c = Conv(x, w) s = Shape(c) {sizes('i', 2)} k = Gather(s, i) {sizes('one', 1)} q = Equal(k, one) b = Squeeze(q) y = If(b) "
    f"<then_branch = one () => (float t) {{ t = Squeeze(c, i) }}, else_branch = other () => (float e) {{ e = Relu(c) }}>"
)
PATCHES = f"{sizes('n', 0, 3, -1, 16)} y = Reshape(x, n)"


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (free("float[2,3,5] x"), {"x": (2, 3, 5)}),
        (free("float[N,3,5] x"), {"x": (1, 3, 5)}),
        (free("float[N,3,H,W] x", POOLED, w=(4, 3, 3, 3)), {"x": (1, 3, 224, 224)}),
        (free("float[N,H,W,C] x", "t = Transpose<perm = [0,3,1,2]>(x) y = Conv(t, w)", w=(4, 3, 5, 5)), {"x": (1, 224, 224, 3)}),
        (free("float[3,H,W] x", f"{sizes('a', 0)} u = Unsqueeze(x, a) y = Conv(u, w)", w=(4, 3, 5, 5)), {"x": (3, 224, 224)}),
        (free("float[N,C,H,W] x", "a = Cast<to = 1>(x) y = Conv<group = 2>(a, w)", w=(4, 3, 1, 1)), {"x": (1, 6, 224, 224)}),
        (free("float[N,3,H,W] x", PATCHES), {"x": (1, 3, 224, 224)}),
        (free("float[N,3,T] x", "y = Conv(x, w)", w=(4, 3, 5)), {"x": (1, 3, 128)}),
        (free("float[N,3,D,H,W] x", "y = Conv(x, w)", w=(4, 3, 5, 5, 5)), {"x": (1, 3, 64, 64, 64)}),
        (free("int64[batch,seq] x", "y = Gather(w, x)", w=(9, 4)), {"x": (1, 128)}),
        (free("float[N,F] x", "y = Gemm<transB = 1>(x, w)", w=(4, 7)), {"x": (1, 7)}),
        (free("float[seq,batch,5] x, float[2,batch,5] z", "y = Add(x, x)"), {"x": (128, 1, 5), "z": (2, 1, 5)}),
        (free("float[N,3,H,W] x, float[N,P,3] z", "y = Conv(x, w)", w=(4, 3, 1, 1)), {"x": (1, 3, 224, 224), "z": (1, 128, 3)}),
        (free("float[2,3,H] x, float[2,3,4] z", "y = Add(x, z)"), {"x": (2, 3, 4), "z": (2, 3, 4)}),
        (
            free(
                "float[N,3,H,W] x",
                f"p = MaxPool<kernel_shape = [16,1], strides = [16,1]>(x) {sizes('a', 2)} q = Squeeze(p, a) y = Conv(q, w)",
                w=(4, 3, 5),
            ),
            {"x": (1, 3, 28, 28)},
        ),
        (free("float[1,1,H,W] x", "f = Flatten(x) y = Gemm(f, w)", "float[1,4] y", w=(784, 4)), {"x": (1, 1, 28, 28)}),
        (
            free("float[N,3,H,W] x", f"{POOLED} {sizes('n', 16, 9)} z = Reshape(y, n)", "z", w=(4, 3, 3, 3)),
            {"x": (1, 3, 32, 32)},
        ),
        (
            free(
                "int64[batch,seq] x",
                f"s = Shape(x) {sizes('o', 1)} k = Gather(s, o) q = Squeeze(k) z = Constant<value_int = 0>() "
                "d = Constant<value_int = 1>() r = Range(z, q, d) y = Gather(w, r)",
                w=(64, 4),
            ),
            {"x": (1, 64)},
        ),
        (
            free(
                "int64[batch,seq] x",
                f"s = Shape(x) {sizes('one', 1)} e = Gather(s, one) {sizes('z', 0)} p = Slice(w, z, e) "
                "g = Gather(v, x) y = Add(g, p)",
                w=(32, 4),
                v=(9, 4),
            ),
            {"x": (1, 32)},
        ),
        (free("float[T,2,5] x, float[2,B,4] h", STATEFUL, w=(1, 16, 5), r=(1, 16, 4)), {"x": (128, 2, 5), "h": (2, 1, 4)}),
        (free("float[N,3,T] x", UNTAKEN, "y", w=(4, 3, 5)), {"x": (1, 3, 128)}),
        (free("float[N,3,6,6] x", f"{sizes('n', -1, 4, 3, 6, 6)} y = Reshape(x, n)"), {"x": (4, 3, 6, 6)}),
        (free("float[N,3,H,W] x", f"{sizes('s', 0)} {sizes('c', 1)} y = Slice(x, s, s, c)"), {"x": (1, 3, 224, 224)}),
    ],
    ids=[
        "fixed",
        "free batch",
        "image",
        "image, channels last",
        "image without a batch",
        "channels that the groups of a convolution read",
        "image in patches",
        "steps of a sequence",
        "volume",
        "integer ids",
        "features that a Gemm reads",
        "sequence before batch",
        "image beside a sequence",
        "nearest legal to an ordinary sequence",
        "lines of text",
        "nearest legal to an ordinary image, where a shape is fixed inside",
        "no longer than the table of positions",
        "no longer than the table that is sliced",
        "batch that a recurrent layer reads",
        "branch that is not taken",
        "nearest legal to an ordinary image",
        "batch of four frames",
        "empty at any size",
    ],
)
def test_free_sizes_are_ordinary_ones(graph: gs.Graph, expected: dict[str, tuple[int, ...]]) -> None:
    assert input_sizes(graph, {}) == expected


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (free("float[N,3,H,W] x", POOLED, w=(4, 3, 3, 3)), {"x": (1, 3, 16, 16)}),
        (
            free(
                "float[N,3,H,W] x",
                f"v = AveragePool<kernel_shape = [9,9], strides = [9,9]>(x) {UNSHUFFLED.replace('(x', '(v')}",
                w=(4, 12, 1, 1),
            ),
            {"x": (1, 3, 96, 96)},
        ),
        (free("float[N,3,H,W] x", CROPPED, w=(4, 3, 3, 3)), {"x": (1, 3, 16, 16)}),
        (free("float[2,3,H] x, float[2,3,4] z", "y = Add(x, z)"), {"x": (2, 3, 4), "z": (2, 3, 4)}),
    ],
    ids=["image", "larger image", "cropped image", "sequence"],
)
def test_sizes_to_check_at_are_small(graph: gs.Graph, expected: dict[str, tuple[int, ...]]) -> None:
    sizes = input_sizes(graph, {})
    assert small_sizes(graph, sizes, origins_of(graph, {}, {})) == expected
    assert small_sizes(graph, sizes, origins_of(graph, sizes, {})) == sizes


def test_given_shapes_are_taken() -> None:
    graph = free("float[N,3,H,W] x, float[N,3,H,W] z", "y = Add(x, z)")
    given = {"x": (4, 3, 7, 9), "z": (4, 3, 7, 9)}
    assert input_sizes(graph, given) == given
    shapes, _ = infer(graph, given)
    assert shapes["y"] == (4, 3, 7, 9)


def test_a_free_input_takes_the_size_that_fits_the_given_one() -> None:
    graph = free("float[1,3,H] x, float[1,3,W] z", "y = Concat<axis = 1>(x, z)")
    assert input_sizes(graph, {"x": (1, 3, 8)}) == {"x": (1, 3, 8), "z": (1, 3, 8)}


@pytest.mark.parametrize(
    ("given", "text"),
    [({"z": (1,)}, "no such input"), ({"x": (1, 4, 5)}, "1x4x5 does not fit"), ({"x": (1, 3)}, "1x3 does not fit")],
)
def test_given_shapes_that_do_not_fit_are_refused(given: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        input_sizes(free("float[N,3,5] x"), given)


def test_input_without_a_shape_has_to_be_given_one() -> None:
    graph = free("float[2,3] x")
    graph.inputs[0].shape = None
    with pytest.raises(ModelError, match="'x' declares no shape"):
        input_sizes(graph, {})
    assert input_sizes(graph, {"x": (2, 3)}) == {"x": (2, 3)}


def test_it_is_an_error_where_no_size_is_legal() -> None:
    flat = "f = Flatten(x) y = Gemm(f, w)"
    graph = free("float[N,1,H,W] x", flat, "float[N,4] y", w=(49, 4))
    with pytest.raises(ModelError, match="--input-shape"):
        input_sizes(graph, {})
    assert input_sizes(graph, {"x": (1, 1, 7, 7)}) == {"x": (1, 1, 7, 7)}


def test_channels_that_no_size_fits_are_an_error() -> None:
    body = "r = Relu(x) t = Transpose<perm = [0,3,1,2]>(r) y = Conv(t, w)"
    graph = free("float[N,H,W,C] x", body, w=(4, 3, 5, 5))
    with pytest.raises(ModelError, match=r"with a weight for 3\); give one with --input-shape x=1,"):
        input_sizes(graph, {})
    assert input_sizes(graph, {"x": (1, 7, 7, 3)}) == {"x": (1, 7, 7, 3)}


def test_what_does_not_fit_in_a_branch_that_is_not_taken_is_no_error() -> None:
    body = (
        f"s = Shape(x) {sizes('i', 2)} k = Gather(s, i) {sizes('one', 1)} q = Equal(k, one) b = Squeeze(q) {sizes('z', 0)} "
        "h = If(b) <then_branch = one () => (float t) { t = Squeeze(x, i) }, else_branch = other () => (float e) { e = Relu(x) }> "
        "p = Slice(h, z, one, z) y = Conv(p, w)"
    )
    graph = free("float[N,3,T] x", body, "float[N,4,T] y", w=(4, 3, 5))
    assert infer(graph, {"x": (1, 3, 8)})[0]["e"] == (1, 3, 8)


def test_a_window_larger_than_its_input_is_an_error() -> None:
    graph = free("float[1,3,H,W] x", CROPPED, w=(4, 3, 5, 5))
    with pytest.raises(ModelError, match="the window of Conv"):
        infer(graph, {"x": (1, 3, 2, 2)})


def test_illegal_shapes_are_an_error() -> None:
    graph = free("float[1,3,H] x, float[1,3,W] z", "y = Concat<axis = 1>(x, z)")
    with pytest.raises(ModelError, match="shapes do not fit"):
        infer(graph, {"x": (1, 3, 4), "z": (1, 3, 5)})


def test_channels_that_stay_for_many_reasons_are_split_over_axes(parsed) -> None:
    model = parsed(
        """<ir_version: 8, opset_import: ["" : 9]> net (float[1,1,4,4] x) => (float[1,2,1,1] y)
        <int64[5] apart = {1, 2, 2, 1, 1}, int64[4] together = {1, 4, 1, 1}> {
            a = Conv(x, w) b = ReduceMean<axes = [2, 3], keepdims = 1>(a)
            c, d, e = Split<axis = 1, split = [1, 1, 2]>(b) f = Concat<axis = 1>(c, d, e)
            g = Reshape(f, apart) h = Reshape(g, together) y = Conv(h, v)
        }""",
        w=(4, 1, 1, 1),
        v=(2, 4, 1, 1),
    )
    check(model)
