"""One small network per operator and variant, as ONNX text, and what must be found in it, by thought alone.

The expected groups are written as "8 w1.0 b1.0 w2.1 | 4 w3.0": eight units that live along axis 0 of w1 and b1 and axis 1 of w2,
and four along axis 0 of w3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from onnx_reconvene.analysis import analyze
from onnx_reconvene.graph import from_model

Groups = Counter[tuple[int, frozenset[tuple[str, int]]]]


@dataclass(frozen=True)
class Net:
    """A network, the groups that it consists of, and for weights whose channels must stay a part of the reason."""

    model: onnx.ModelProto
    groups: Groups
    frozen: Mapping[str, str] = field(default_factory=dict)
    inexact: bool = False
    spare_vectors: bool = True  # False where a vector reads channels, so that it cannot keep its dead elements


def check_groups(net: Net) -> None:
    """Raise AssertionError unless just the expected groups, frozen weights and warnings are found in net."""
    analysis = analyze(from_model(net.model))
    found = Counter((group.width, frozenset((site.tensor, site.axis) for site in group.sites)) for group in analysis.groups)
    assert found == net.groups
    assert any(group.inexact for group in analysis.groups) == net.inexact
    for weight, reason in net.frozen.items():
        assert any(f.tensor == weight and reason in f.reason for f in analysis.frozen), f"'{weight}' is not frozen: {reason}"


def net(
    body: str,
    groups: str,
    inputs: str = "float[2,3,6,6] x",
    outputs: str = "y",
    opset: int = 18,
    constants: str = "",
    frozen: Mapping[str, str] | None = None,
    inexact: bool = False,
    spare_vectors: bool = True,
    **weights: Sequence[int],
) -> Net:
    """Return the network of these nodes; the weights, given by shape, are random."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]> net ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(draw(name, shape), name) for name, shape in weights.items())
    return Net(declare_outputs(model), parse_groups(groups), frozen or {}, inexact, spare_vectors)


def draw(name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return random values away from zero; all positive for a variance, a weight whose name starts with v."""
    rng = np.random.default_rng([*name.encode(), *shape])
    sign = 1 if name.startswith("v") else rng.choice([-1, 1], shape)
    return (sign * rng.uniform(0.5, 1.5, shape)).astype(np.float32)


def declare_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the outputs of model the types that shape inference finds."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
    return model


def parse_groups(text: str) -> Groups:
    """Read groups from their short form."""
    groups: Groups = Counter()
    for group in filter(None, text.split("|")):
        width, *sites = group.split()
        groups[int(width), frozenset((tensor, int(axis)) for tensor, axis in (site.split(".") for site in sites))] += 1
    return groups


CONV, RESIDUAL, MATMUL = "8 w1.0 b1.0 w2.1", "8 w1.0 b1.0 w2.0 b2.0 w3.1", "8 w1.1 b1.0 w2.0"
PAIR = "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 w3.1"  # the two halves of eight channels, each read by a layer of its own
Table = dict[str, dict[str, Net]]


def convs(
    middle: str, groups: str = CONV, read: Sequence[int] = (5, 8, 1, 1), tail: str = "y = Conv(h, w2)", **more: object
) -> Net:
    """Two convolutions, and in the middle what makes h[n,c,...] from a[2,8,6,6]."""
    settings = {"w1": (8, 3, 1, 1), "b1": (8,), "w2": read, **more}
    return net(f"a = Conv(x, w1, b1) {middle} {tail}", groups, **settings)  # type: ignore[arg-type]


def conv_gemm(middle: str, groups: str = "8 w1.0 b1.0 w2.0", read: Sequence[int] = (8, 5), **more: object) -> Net:
    """A convolution, then what makes h[n,c] from a[2,8,6,6], then a matrix product."""
    return convs(middle, groups, read, "y = Gemm(h, w2)", **more)


def residual(middle: str, groups: str = RESIDUAL, **more: object) -> Net:
    """Two convolutions side by side, what makes h from a[2,8,6,6] and b[2,8,6,6], and a third convolution."""
    settings = {"w2": (8, 3, 1, 1), "b2": (8,), "w3": (5, 8, 1, 1), **more}
    return convs(f"b = Conv(x, w2, b2) {middle}", groups, tail="y = Conv(h, w3)", **{"read": (), **settings})


def halves(middle: str, groups: str = PAIR, **more: object) -> Net:
    """One convolution, what makes h[2,4,6,6] and k[2,4,6,6] from its output, and a convolution for each of the two."""
    settings = {"w3": (5, 4, 1, 1), "read": (5, 4, 1, 1), "outputs": "y, z", **more}
    return convs(middle, groups, tail="y = Conv(h, w2) z = Conv(k, w3)", **settings)


def matmuls(
    middle: str, groups: str = MATMUL, read: Sequence[int] = (8, 4), tail: str = "y = MatMul(h, w2)", **more: object
) -> Net:
    """Two matrix products over the last axis, and in the middle what makes h[2,5,c] from a[2,5,8]."""
    settings = {"inputs": "float[2,5,6] x", "w1": (6, 8), "b1": (8,), "w2": read, **more}
    return net(f"p = MatMul(x, w1) a = Add(p, b1) {middle} {tail}", groups, **settings)  # type: ignore[arg-type]


def gemms(middle: str, groups: str = MATMUL, tail: str = "y = Gemm(h, w2)", **more: object) -> Net:
    """Two Gemms, and in the middle what makes h[4,8] from a[4,8]."""
    settings = {"inputs": "float[4,6] x", "w1": (6, 8), "b1": (8,), "w2": (8, 5), **more}
    return net(f"a = Gemm(x, w1, b1) {middle} {tail}", groups, **settings)  # type: ignore[arg-type]


def stays(reason: str, weight: str = "w1", groups: str = "") -> dict[str, object]:
    """What is expected where the channels of a weight freeze."""
    return {"groups": groups, "frozen": {weight: reason}}


CONVOLUTIONS = {
    "pads and strides": convs("h = Relu(a)", tail="y = Conv<pads = [1,1,1,1], strides = [2,2]>(h, w2)", read=(5, 8, 3, 3)),
    "no bias": net("a = Conv(x, w1) y = Conv(a, w2)", "8 w1.0 w2.1", w1=(8, 3, 3, 3), w2=(5, 8, 1, 1)),
    "1D": net("a = Conv(x, w1) y = Conv(a, w2)", "8 w1.0 w2.1", "float[2,3,9] x", w1=(8, 3, 3), w2=(5, 8, 1)),
    "3D": net("a = Conv(x, w1) y = Conv(a, w2)", "8 w1.0 w2.1", "float[1,3,4,4,4] x", w1=(8, 3, 1, 1, 1), w2=(5, 8, 3, 3, 3)),
    "depthwise": convs("h = Conv<group = 8>(a, d, e)", "8 w1.0 b1.0 d.0 e.0 w2.1", d=(8, 1, 3, 3), e=(8,)),
    "depthwise with multiplier": convs(
        "h = Conv<group = 8>(a, d, e)", "8 w1.0 b1.0 d.0 e.0 w2.1", read=(5, 16, 1, 1), d=(16, 1, 3, 3), e=(16,)
    ),
    "grouped": convs("h = Conv<group = 2>(a, d, e)", "4 w1.0 b1.0 d.1 | 4 d.0 e.0 w2.1", d=(8, 4, 1, 1), e=(8,)),
    "grouped, more out than in": convs(
        "h = Conv<group = 2>(a, d)", "4 w1.0 b1.0 d.1 | 6 d.0 w2.1", read=(5, 12, 1, 1), d=(12, 4, 1, 1)
    ),
    "grouped, one channel out of each group": convs(
        "h = Conv<group = 4>(a, d, e)", "4 w1.0 b1.0 d.0 e.0 w2.1", read=(5, 4, 1, 1), d=(4, 2, 3, 3), e=(4,)
    ),
    "input channels stay": convs("h = Relu(a)", **stays("", "w2", CONV)),
    "shared weight": net(
        "a = Conv(x, w1) b = Relu(a) c = Conv(b, w) d = Relu(c) e = Conv(d, w) y = Conv(e, w2)",
        "8 w1.0 w.0 w.1 w2.1",
        w1=(8, 3, 1, 1),
        w=(8, 8, 1, 1),
        w2=(5, 8, 1, 1),
    ),
    "shared bias": net(
        "a = Conv(x, w1, b1) b = Conv(a, w2, b1) y = Conv(b, w3)",
        "8 w1.0 b1.0 w2.0 w2.1 w3.1",
        w1=(8, 3, 1, 1),
        b1=(8,),
        w2=(8, 8, 1, 1),
        w3=(5, 8, 1, 1),
    ),
    "weight through Identity": net(
        "v = Identity(w) a = Conv(x, v) b = Relu(a) u = Identity(w2) y = Conv(b, u)",
        "8 w.0 w2.1",
        w=(8, 3, 1, 1),
        w2=(5, 8, 1, 1),
    ),
    "weight in a Constant node": net(
        "w = Constant<value = float[4,1,1,1] {1.0, -2.0, 3.0, -0.5}>() a = Conv(x, w, b1) y = Conv(a, w2)",
        "4 w.0 b1.0 w2.1",
        "float[2,1,5,5] x",
        b1=(4,),
        w2=(5, 4, 3, 3),
    ),
    "weight of a ConstantOfShape": net(
        "n = Constant<value_ints = [8,3,1,1]>() w = ConstantOfShape<value = float[1] {0.5}>(n) a = Conv(x, w, b1) y = Conv(a, w2)",
        "8 w.0 b1.0 w2.1",
        b1=(8,),
        w2=(5, 8, 1, 1),
    ),
    "squeeze and excite": convs(
        "g = GlobalAveragePool(a) e = Conv(g, w3, b3) f = Relu(e) p = Conv(f, w4, b4) s = Sigmoid(p) h = Mul(a, s)",
        "8 w1.0 b1.0 w4.0 b4.0 w3.1 w2.1 | 4 w3.0 b3.0 w4.1",
        w3=(4, 8, 1, 1),
        b3=(4,),
        w4=(8, 4, 1, 1),
        b4=(8,),
    ),
    "dynamic batch": convs("h = Relu(a)", inputs="float[N,3,6,6] x"),
    "dynamic batch and image": convs("h = Relu(a)", inputs="float[N,3,H,W] x"),
    "fed by the graph input alone": net("y = Conv(x, w)", "", frozen={"w": "graph output"}, w=(8, 3, 1, 1)),
}
TRANSPOSED = {
    "plain": convs(
        "h = ConvTranspose<strides = [2,2]>(a, t, e)", "8 w1.0 b1.0 t.0 | 6 t.1 e.0 w2.1", (5, 6, 1, 1), t=(8, 6, 2, 2), e=(6,)
    ),
    "no bias": convs("h = ConvTranspose(a, t)", "8 w1.0 b1.0 t.0 | 6 t.1 w2.1", (5, 6, 1, 1), t=(8, 6, 2, 2)),
    "grouped": convs(
        "h = ConvTranspose<group = 2>(a, t, e)", "4 w1.0 b1.0 t.0 | 3 t.1 e.0 w2.1", (5, 6, 1, 1), t=(8, 3, 2, 2), e=(6,)
    ),
    "depthwise": convs("h = ConvTranspose<group = 8>(a, t, e)", "8 w1.0 b1.0 t.0 e.0 w2.1", t=(8, 1, 2, 2), e=(8,)),
    "depthwise with multiplier": convs(
        "h = ConvTranspose<group = 8>(a, t, e)", "8 w1.0 b1.0 t.0 e.0 w2.1", (5, 16, 1, 1), t=(8, 2, 2, 2), e=(16,)
    ),
    "grouped, one channel into each output group": convs(
        "h = ConvTranspose<group = 4>(a, t, e)", "4 w1.0 b1.0 t.0 e.0 w2.1", (5, 4, 1, 1), t=(8, 1, 2, 2), e=(4,)
    ),
}
GEMMS = {
    "plain": gemms("h = Relu(a)"),
    "alpha, beta": gemms(
        "h = Gemm<alpha = 0.5, beta = 2.0>(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 e.0 w2.0", d=(8, 7), e=(7,), w2=(7, 5)
    ),
    "transB": gemms("h = Relu(a)", "8 w1.1 b1.0 w2.1", "y = Gemm<transB = 1>(h, w2)", w2=(5, 8)),
    "transA": gemms(
        "t = Gemm<transA = 1>(a, d) h = Relu(t)", "8 w1.1 b1.0 w2.0", "y = Gemm<transA = 1>(h, w2)", d=(4, 7), w2=(8, 5)
    ),
    "C of one row": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 e.1 w2.0", d=(8, 7), e=(1, 7), w2=(7, 5)),
    "C of one column": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", d=(8, 7), e=(4, 1), w2=(7, 5)),
    "C of full size": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 e.1 w2.0", d=(8, 7), e=(4, 7), w2=(7, 5)),
    "C a scalar": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", d=(8, 7), e=(), w2=(7, 5)),
    "C of one element": gemms("h = Gemm(a, d, e)", "8 w1.1 b1.0 d.0 | 7 d.1 w2.0", d=(8, 7), e=(1,), w2=(7, 5)),
    "no C": net("a = Gemm(x, w1) y = Gemm(a, w2)", "8 w1.1 w2.0", "float[4,6] x", w1=(6, 8), w2=(8, 5)),
    "C an activation": gemms("r = Gemm(x, d) h = Gemm(a, f, r)", "8 w1.1 b1.0 f.0 | 7 d.1 f.1 w2.0", d=(6, 7), f=(8, 7), w2=(7, 5)),
}
MATMULS = {
    "weight on the right": matmuls("h = Relu(a)"),
    "weight on the left": net("a = MatMul(w1, x) y = MatMul(w2, a)", "8 w1.0 w2.1", "float[2,5,6] x", w1=(8, 5), w2=(3, 8)),
    "batched weight": net("a = MatMul(x, w1) y = MatMul(a, w2)", "8 w1.2 w2.1", "float[2,5,6] x", w1=(2, 6, 8), w2=(2, 8, 4)),
    "rank 2": net("a = MatMul(x, w1) y = MatMul(a, w2)", MATMUL.replace(" b1.0", ""), "float[5,6] x", w1=(6, 8), w2=(8, 4)),
    "by a vector": net(
        "a = MatMul(x, w1) y = MatMul(a, w2)", "8 w1.1 w2.0", "float[2,5,6] x", spare_vectors=False, w1=(6, 8), w2=(8,)
    ),
    "of a vector": net(
        "a = MatMul(w1, x) y = MatMul(w2, a)", "8 w1.0 w2.0", "float[2,5,6] x", spare_vectors=False, w1=(8, 5), w2=(8,)
    ),
    "attention": net(
        "q = MatMul(x, wq) k = MatMul(x, wk) t = Transpose<perm = [0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) v = MatMul(x, wv) "
        "h = MatMul(p, v) y = MatMul(h, wo)",
        "8 wv.1 wo.0",
        "float[2,5,6] x",
        frozen={"wq": "multiplies activations", "wk": "multiplies activations"},
        wq=(6, 7),
        wk=(6, 7),
        wv=(6, 8),
        wo=(8, 4),
    ),
    "attention of two heads": net(
        "n = Constant<value_ints = [0,0,2,4]>() q1 = MatMul(x, wq) q2 = Reshape(q1, n) q = Transpose<perm = [0,2,1,3]>(q2) "
        "k1 = MatMul(x, wk) k2 = Reshape(k1, n) k = Transpose<perm = [0,2,3,1]>(k2) s = MatMul(q, k) p = Softmax(s) "
        "v1 = MatMul(x, wv) v2 = Reshape(v1, n) v = Transpose<perm = [0,2,1,3]>(v2) h1 = MatMul(p, v) "
        "h2 = Transpose<perm = [0,2,1,3]>(h1) m = Constant<value_ints = [2,5,8]>() h = Reshape(h2, m) y = MatMul(h, wo)",
        "4 wv.1 wo.0",
        "float[2,5,6] x",
        frozen={"wq": "multiplies activations", "wk": "multiplies activations"},
        wq=(6, 8),
        wk=(6, 8),
        wv=(6, 8),
        wo=(8, 4),
    ),
}
WEIGHTS: Table = {"Conv": CONVOLUTIONS, "ConvTranspose": TRANSPOSED, "Gemm": GEMMS, "MatMul": MATMULS}

SIGMOID = ["Acos", "Asin", "Atanh", "Log", "Reciprocal", "Sqrt", "Tan"]  # defined, or tame, between 0 and 1
PLAIN = (
    "Abs Asinh Atan Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu Round "
    "Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Tanh ThresholdedRelu"
).split()
ABOVE_ZERO = "n = Constant<value_float = 0.0>() g = Greater(a, n)"
UNARY: Table = {
    **{op: {"": convs(f"h = {op}(a)")} for op in PLAIN},
    **{op: {"": convs(f"s = Sigmoid(a) h = {op}(s)")} for op in SIGMOID},
    "Acosh": {"": convs("s = Sigmoid(a) t = Exp(s) h = Acosh(t)")},
    "Bernoulli": {"certain": convs(f"{ABOVE_ZERO} p = Cast<to = 1>(g) h = Bernoulli(p)")},
    "Cast": {"to double and back": convs("d = Cast<to = 11>(a) h = Cast<to = 1>(d)")},
    "Gelu": {"": convs("h = Gelu(a)", opset=20)},
    "IsInf": {"": convs("r = Relu(a) l = Log(r) i = IsInf(l) h = Cast<to = 1>(i)")},
    "IsNaN": {"": convs("l = Log(a) i = IsNaN(l) h = Cast<to = 1>(i)")},
    "Not": {"": convs(f"{ABOVE_ZERO} i = Not(g) h = Cast<to = 1>(i)")},
    "Swish": {"": convs("h = Swish(a)", opset=24)},
}
UNARY["Clip"] |= {
    "bounds as attributes": convs("h = Clip<min = 0.0, max = 6.0>(a)", opset=9),
    "bounds as inputs": convs("l = Constant<value_float = -0.5>() u = Constant<value_float = 0.5>() h = Clip(a, l, u)"),
}
UNARY["Dropout"] |= {
    "ratio as an attribute": convs("h = Dropout<ratio = 0.3>(a)", opset=10),
    "mask as an output": convs("h, mask = Dropout(a)", outputs="y, mask", **stays("")),
    "mask read": convs(
        "b, mask = Dropout(a) m = Cast<to = 1>(mask) h = Conv(m, w3)", w3=(8, 8, 1, 1), **stays("", "w1", "8 w3.0 w2.1")
    ),
}

ARITHMETIC = ["Add", "Max", "Mean", "Min", "Mul", "Sub", "Sum"]
COMPARE = ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
LOGIC = ["And", "Or", "Xor"]
BROADCAST: Table = {
    **{op: {"two layers": residual(f"h = {op}(a, b)")} for op in ARITHMETIC},
    **{op: {"two layers": residual(f"i = {op}(a, b) h = Cast<to = 1>(i)")} for op in COMPARE},
    **{op: {"two layers": residual(f"{ABOVE_ZERO} k = Greater(b, n) i = {op}(g, k) h = Cast<to = 1>(i)")} for op in LOGIC},
    "BitShift": {
        "two layers": residual(
            'c = Abs(a) d = Abs(b) u = Cast<to = 2>(c) v = Cast<to = 2>(d) i = BitShift<direction = "LEFT">(u, v) h = Cast<to = 1>(i)'
        )
    },
    "Div": {
        "two layers": residual("s = Sigmoid(b) h = Div(a, s)"),
        "constant": matmuls("h = Div(a, s)", "8 w1.1 b1.0 s.0 w2.0", s=(8,)),
    },
    "Equal": {"two layers": residual("c = Sign(a) d = Sign(b) i = Equal(c, d) h = Cast<to = 1>(i)")},
    "Mod": {"two layers": residual("s = Sigmoid(b) h = Mod<fmod = 1>(a, s)")},
    "Pow": {
        "two layers": residual("s = Sigmoid(a) h = Pow(s, b)"),
        "square": convs("n = Constant<value_float = 2.0>() h = Pow(a, n)"),
    },
    "PRelu": {
        "slope per channel": convs("h = PRelu(a, s)", "8 w1.0 b1.0 s.0 w2.1", s=(8, 1, 1)),
        "one slope": convs("h = PRelu(a, s)", s=(1,)),
        "slope per channel and place": convs("h = PRelu(a, s)", "8 w1.0 b1.0 s.0 w2.1", s=(8, 6, 6)),
    },
    "Where": {
        "three layers": residual(f"{ABOVE_ZERO} h = Where(g, a, b)"),
        "constant": convs(f"{ABOVE_ZERO} h = Where(g, a, s)", "8 w1.0 b1.0 s.1 w2.1", s=(1, 8, 1, 1)),
    },
}
BROADCAST["Add"] |= {
    "constant on the right": convs("h = Add(a, s)", "8 w1.0 b1.0 s.1 w2.1", s=(1, 8, 1, 1)),
    "constant on the left, of lower rank": convs("h = Add(s, a)", "8 w1.0 b1.0 s.0 w2.1", s=(8, 1, 1)),
    "a scalar": convs("h = Add(a, s)", s=()),
    "residual twice": residual(
        "c = Add(a, b) d = Conv(c, w4) h = Add(c, d)", "8 w1.0 b1.0 w2.0 b2.0 w4.0 w4.1 w3.1", w4=(8, 8, 1, 1)
    ),
    "to the graph input": net(
        "a = Conv(x, w1) h = Add(a, x) y = Conv(h, w2)", "", frozen={"w1": "graph input"}, w1=(3, 3, 1, 1), w2=(5, 3, 1, 1)
    ),
    "of one channel": residual("h = Add(a, b)", CONV.replace("w2.1", "w3.1"), w2=(1, 3, 1, 1), b2=(1,)),
    "to a table of positions": matmuls("h = Add(a, s)", "8 w1.1 b1.0 s.1 w2.0", s=(5, 8)),
}
BROADCAST["Mul"] |= {
    "gate of one place": residual("g = GlobalMaxPool(b) s = Sigmoid(g) h = Mul(a, s)"),
    "square": convs("h = Mul(a, a)"),
    "by the number of elements": convs("n = Size(a) f = Cast<to = 1>(n) h = Mul(a, f)"),
    "outer product": net(
        "a = MatMul(x, w1) b = MatMul(x, w2) n = Constant<value_ints = [3]>() c = Unsqueeze(a, n) m = Constant<value_ints = [2]>() "
        "d = Unsqueeze(b, m) o = Mul(c, d) h = ReduceMean<keepdims = 0>(o, n) y = MatMul(h, w3)",
        "8 w1.1 w3.0",
        "float[2,5,6] x",
        frozen={"w2": "ReduceMean"},
        w1=(6, 8),
        w2=(6, 7),
        w3=(8, 4),
    ),
}
for _op in ["Max", "Mean", "Min", "Sum"]:
    BROADCAST[_op]["three layers"] = residual(f"h = {_op}(a, b, x2)", RESIDUAL + " x2.1", x2=(1, 8, 1, 1))
    BROADCAST[_op]["one input"] = convs(f"h = {_op}(a)")

NORM = {"s": (8,), "o": (8,)}
NORMALIZATIONS: Table = {
    "BatchNormalization": {
        "": convs("h = BatchNormalization(a, s, o, m, v)", "8 w1.0 b1.0 s.0 o.0 m.0 v.0 w2.1", m=(8,), v=(8,), **NORM),
        "rank 2": gemms("h = BatchNormalization(a, s, o, m, v)", MATMUL + " s.0 o.0 m.0 v.0", m=(8,), v=(8,), **NORM),
        "statistics as outputs": convs(
            "h, mean, var = BatchNormalization<training_mode = 1>(a, s, o, m, v)",
            outputs="y, mean",
            m=(8,),
            v=(8,),
            **NORM,
            **stays("graph output"),
        ),
    },
    "InstanceNormalization": {"": convs("h = InstanceNormalization(a, s, o)", "8 w1.0 b1.0 s.0 o.0 w2.1", **NORM)},
    "LayerNormalization": {
        "over channels": matmuls("h = LayerNormalization(a, s, o)", MATMUL + " s.0 o.0", inexact=True, **NORM),
        "over channels, no bias": matmuls("h = LayerNormalization(a, s)", MATMUL + " s.0", inexact=True, s=(8,)),
        "over tokens and channels": matmuls(
            "h = LayerNormalization<axis = 1>(a, s, o)", MATMUL + " s.1 o.1", inexact=True, s=(5, 8), o=(5, 8)
        ),
        "over places": convs("h = LayerNormalization<axis = 2>(a, s, o)", s=(6, 6), o=(6, 6)),
        "mean of each channel as an output": convs(
            "h, mean = LayerNormalization<axis = 2>(a, s)", s=(6, 6), outputs="y, mean", **stays("")
        ),
    },
    "LRN": {"": convs("h = LRN<size = 3>(a)", inexact=True)},
}
POOLS: Table = {
    "AveragePool": {
        "": convs("h = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a)"),
        "padded": convs("h = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>(a)"),
    },
    "GlobalAveragePool": {"": convs("h = GlobalAveragePool(a)")},
    "GlobalLpPool": {"": convs("h = GlobalLpPool<p = 2>(a)")},
    "GlobalMaxPool": {"": convs("h = GlobalMaxPool(a)")},
    "LpPool": {"": convs("h = LpPool<kernel_shape = [2,2], p = 2>(a)")},
    "MaxPool": {
        "": convs("h = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)"),
        "ceil": convs("h = MaxPool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(a)"),
        "indices as an output": convs("h, i = MaxPool<kernel_shape = [2,2]>(a)", outputs="y, i", **stays("")),
    },
}
TWICE = "f = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()"
RESIZES: Table = {
    "Resize": {
        "scales": convs(f'{TWICE} h = Resize<mode = "nearest">(a, , f)', opset=13),
        "linear scales": convs(f'{TWICE} h = Resize<mode = "linear">(a, , f)', opset=11 + 2),
        "sizes": convs('n = Constant<value_ints = [2,8,9,9]>() h = Resize<mode = "nearest">(a, , , n)', opset=13),
        "sizes of some axes": convs('n = Constant<value_ints = [9,9]>() h = Resize<mode = "nearest", axes = [2,3]>(a, , , n)'),
        "sizes of all axes, named": convs(
            'n = Constant<value_ints = [2,8,9,9]>() h = Resize<mode = "nearest", axes = [0,1,2,3]>(a, , , n)'
        ),
        "sizes from Shape": convs(
            "s = Shape(a) z = Constant<value_ints = [0]>() t = Constant<value_ints = [2]>() k = Slice(s, z, t) "
            'm = Constant<value_ints = [9,9]>() n = Concat<axis = 0>(k, m) h = Resize<mode = "nearest">(a, , , n)',
            opset=13,
            inputs="float[N,3,6,6] x",
        ),
        "sizes of another layer": residual(
            's = Shape(a) p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(b) u = Resize<mode = "nearest">(p, , , s) h = Add(a, u)'
        ),
        "more channels": convs(
            'f = Constant<value = float[4] {1.0, 2.0, 1.0, 1.0}>() h = Resize<mode = "nearest">(a, , f)',
            read=(5, 16, 1, 1),
            **stays("Resize"),
        ),
    },
    "Upsample": {
        "": convs(f'{TWICE} h = Upsample<mode = "nearest">(a, f)', opset=9),
        "scales as an attribute": convs('h = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]>(a)', opset=7),
    },
}


def softmax(op: str) -> dict[str, Net]:
    """The variants of Softmax: from opset 13 on it mixes one axis, before that all axes from that one on."""
    return {
        "over places": convs(f"h = {op}<axis = -1>(a)"),
        "over channels": convs(f"h = {op}<axis = 1>(a)", **stays(op)),
        "by default, last axis": matmuls(f"h = {op}(a)", **stays(op)),
        "over rows and columns, opset 11": convs(f"h = {op}<axis = 2>(a)", opset=11),
        "by default, opset 11": convs(f"h = {op}(a)", opset=11, **stays(op)),
    }


def reduction(op: str) -> dict[str, Net]:
    """The variants of a reduction, whose axes are an attribute in old opsets and an input in new ones."""
    old, new = (11, 13) if op == "ReduceSum" else (13, 18)
    places = "s = Sigmoid(a) n = Constant<value_ints = [-1,2]>()"
    return {
        "attribute": convs(f"s = Sigmoid(a) h = {op}<axes = [2,3]>(s)", opset=old),
        "attribute, negative": convs(f"s = Sigmoid(a) h = {op}<axes = [-1]>(s)", opset=old),
        "attribute, axes dropped": conv_gemm(f"s = Sigmoid(a) h = {op}<axes = [2,3], keepdims = 0>(s)", opset=old),
        "input": convs(f"{places} h = {op}(s, n)", opset=new),
        "input, axes dropped": conv_gemm(f"{places} h = {op}<keepdims = 0>(s, n)", opset=new),
        "over channels": convs(f"s = Sigmoid(a) h = {op}<axes = [1]>(s)", read=(5, 1, 1, 1), opset=old, **stays(op)),
        "over the batch, dropped": matmuls(
            f"s = Sigmoid(a) n = Constant<value_ints = [0]>() h = {op}<keepdims = 0>(s, n)", opset=new
        ),
        "over all axes": convs(f"s = Sigmoid(a) h = {op}(s)", read=(5, 1, 1, 1), opset=new, **stays(op)),
        "over no axes": convs(
            f"s = Sigmoid(a) n = Constant<value = int64[0] {{}}>() h = {op}<noop_with_empty_axes = 1>(s, n)", opset=new
        ),
    }


REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split()
CHANNELWISE: Table = {
    **NORMALIZATIONS,
    **POOLS,
    **RESIZES,
    **{op: softmax(op) for op in ["LogSoftmax", "Softmax"]},
    **{op: reduction(op) for op in REDUCTIONS},
}


def sizes(name: str, *values: int) -> str:
    """A Constant node of integers."""
    return f"{name} = Constant<value_ints = [{', '.join(map(str, values))}]>()"


FAR = 2**63 - 1  # as an end, however long the axis
CONCATS = {
    "channels": residual(
        "h = Concat<axis = 1>(a, b)", "8 w1.0 b1.0 w3.1 | 7 w2.0 b2.0 w3.1", w2=(7, 3, 1, 1), b2=(7,), w3=(5, 15, 1, 1)
    ),
    "channels, counted from the end": residual(
        "h = Concat<axis = -3>(b, a)", "8 w1.0 b1.0 w3.1 | 7 w2.0 b2.0 w3.1", w2=(7, 3, 1, 1), b2=(7,), w3=(5, 15, 1, 1)
    ),
    "rows": residual("h = Concat<axis = 2>(a, b)"),
    "with the graph input": convs("h = Concat<axis = 1>(x, a)", read=(5, 11, 1, 1)),
    "twice the same": convs("h = Concat<axis = 1>(a, a)", read=(5, 16, 1, 1)),
    "dense block": convs(
        "c = Concat<axis = 1>(a, x) b = Conv(c, w3) h = Concat<axis = 1>(c, b)",
        "8 w1.0 b1.0 w3.1 w2.1 | 4 w3.0 w2.1",
        read=(5, 15, 1, 1),
        w3=(4, 11, 1, 1),
    ),
    "weights": net(
        "w = Concat<axis = 0>(u, v) a = Conv(x, w) y = Conv(a, w2)",
        "4 u.0 w2.1 | 4 v.0 w2.1",
        u=(4, 3, 1, 1),
        v=(4, 3, 1, 1),
        w2=(5, 8, 1, 1),
    ),
}
SPLITS = {
    "attribute": halves("h, k = Split<axis = 1, split = [4,4]>(a)", opset=11),
    "attribute left out": halves("h, k = Split<axis = 1>(a)", opset=11),
    "input": halves(f"{sizes('n', 4, 4)} h, k = Split<axis = 1>(a, n)", opset=13),
    "input left out": halves("h, k = Split<axis = 1>(a)", opset=13),
    "number of outputs": halves("h, k = Split<axis = 1, num_outputs = 2>(a)"),
    "number of outputs, counted from the end": halves("h, k = Split<axis = -3, num_outputs = 2>(a)"),
    "odd number of channels": halves(
        "h, k = Split<axis = 1, num_outputs = 2>(a)",
        "4 w1.0 b1.0 w2.1 | 3 w1.0 b1.0 w3.1",
        w1=(7, 3, 1, 1),
        b1=(7,),
        w3=(5, 3, 1, 1),
    ),
    "unequal": halves(
        f"{sizes('n', 6, 2)} h, k = Split<axis = 1>(a, n)",
        "6 w1.0 b1.0 w2.1 | 2 w1.0 b1.0 w3.1",
        read=(5, 6, 1, 1),
        w3=(5, 2, 1, 1),
    ),
    "sizes shared by two nodes": halves(
        "b = Conv(x, w4) h, p = Split<axis = 1>(a, n) q, k = Split<axis = 1>(b, n)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 | 4 w4.0 | 4 w4.0 w3.1",
        constants="int64[2] n = {4, 4}",
        w4=(8, 3, 1, 1),
    ),
    "of rows": halves("h, k = Split<axis = 2, num_outputs = 2>(a)", "8 w1.0 b1.0 w2.1 w3.1", read=(5, 8, 1, 1), w3=(5, 8, 1, 1)),
    "gated": convs(
        "p, q = Split<axis = 1, num_outputs = 2>(a) s = Sigmoid(q) h = Mul(p, s)", "4 w1.0 b1.0 w2.1", read=(5, 4, 1, 1)
    ),
    "three parts, the middle one an output": halves(
        "h, m, k = Split<axis = 1, num_outputs = 3>(a)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 w3.1",
        outputs="y, z, m",
        w1=(12, 3, 1, 1),
        b1=(12,),
    ),
}
CHUNK = (
    f"s = Shape(a) {sizes('one', 1)} c = Gather(s, one) {sizes('two', 2)} m = Div(c, two) {sizes('zero', 0)} "
    "h = Slice(a, zero, m, one) k = Slice(a, m, c, one)"
)
SLICES = {
    "attributes": halves(
        "h = Slice<axes = [1], starts = [0], ends = [4]>(a) k = Slice<axes = [1], starts = [4], ends = [8]>(a)", opset=9
    ),
    "inputs": halves(
        f"{sizes('n', 0)} {sizes('m', 4)} {sizes('e', FAR)} {sizes('c', 1)} h = Slice(a, n, m, c) k = Slice(a, m, e, c)"
    ),
    "counted from the end": halves(
        f"{sizes('n', -8)} {sizes('m', -4)} {sizes('e', FAR)} {sizes('c', -3)} h = Slice(a, n, m, c) k = Slice(a, m, e, c)"
    ),
    "without axes": halves(
        f"{sizes('n', 0, 0)} {sizes('m', 2, 4)} {sizes('o', 0, 4)} {sizes('e', FAR, FAR)} h = Slice(a, n, m) k = Slice(a, o, e)"
    ),
    "middle": convs(
        f"{sizes('n', 2)} {sizes('m', 6)} {sizes('c', 1)} h = Slice(a, n, m, c)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0",
        read=(5, 4, 1, 1),
    ),
    "overlapping": halves(
        f"{sizes('n', 0)} {sizes('m', 5)} {sizes('o', 3)} {sizes('e', 8)} {sizes('c', 1)} h = Slice(a, n, m, c) k = Slice(a, o, e, c)",
        "3 w1.0 b1.0 w2.1 | 2 w1.0 b1.0 w2.1 w3.1 | 3 w1.0 b1.0 w3.1",
        read=(5, 5, 1, 1),
        w3=(5, 5, 1, 1),
    ),
    "backwards": convs(f"{sizes('n', -1)} {sizes('m', -FAR)} {sizes('c', 1)} {sizes('d', -1)} h = Slice(a, n, m, c, d)"),
    "part, backwards": convs(
        f"{sizes('n', 5)} {sizes('m', 1)} {sizes('c', 1)} {sizes('d', -1)} h = Slice(a, n, m, c, d)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0",
        read=(5, 4, 1, 1),
    ),
    "every other channel": convs(
        f"{sizes('n', 0)} {sizes('m', 8)} {sizes('c', 1)} {sizes('d', 2)} h = Slice(a, n, m, c, d)",
        read=(5, 4, 1, 1),
        **stays("takes every so many", groups=""),
    ),
    "rows and columns, strided": convs(
        f"{sizes('n', 0, 1)} {sizes('m', FAR, FAR)} {sizes('c', 2, 3)} {sizes('d', 2, 2)} h = Slice(a, n, m, c, d)"
    ),
    "bounds computed from Shape": halves(CHUNK),
    "bounds computed from Shape, dynamic batch": halves(CHUNK, inputs="float[N,3,6,6] x"),
    "bounds computed from data": convs(
        f"{sizes('n', 0)} {sizes('c', 1)} h = Slice(a, n, i, c)",
        inputs="float[2,3,6,6] x, int64[1] i",
        outputs="float[2,5,6,6] y",
        **stays("run time"),
    ),
}
GATHERS = {
    "reorder": convs(f"{sizes('i', 3, 1, 0, 7, 2, 6, 5, 4)} h = Gather<axis = 1>(a, i)"),
    "counted from the end": convs(
        f"{sizes('i', -1, 0, -3)} h = Gather<axis = 1>(a, i)", "3 w1.0 b1.0 w2.1 | 5 w1.0 b1.0", read=(5, 3, 1, 1)
    ),
    "repeated": convs(
        f"{sizes('i', 0, 0, 1, 1, 2, 2)} h = Gather<axis = -3>(a, i)", "3 w1.0 b1.0 w2.1 | 5 w1.0 b1.0", read=(5, 6, 1, 1)
    ),
    "indices shared by two nodes": halves(
        "b = Conv(x, w4) h = Gather<axis = 1>(a, i) k = Gather<axis = 1>(b, i)",
        "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 | 4 w4.0 | 4 w4.0 w3.1",
        constants="int64[4] i = {6, 0, 2, 4}",
        w4=(8, 3, 1, 1),
    ),
    "one channel": convs(
        "i = Constant<value_int = 5>() h = Gather<axis = 1>(a, i)",
        "7 w1.0 b1.0",
        read=(5, 2, 1),
        frozen={"w1": "picks single ones"},
        inputs="float[2,3,6,6] x",
    ),
    "table of indices": convs(
        "i = Constant<value = int64[2,2] {5, 0, 2, -1}>() g = Gather<axis = 1>(a, i) h = ReduceMean<axes = [2], keepdims = 0>(g)",
        "4 w1.0 b1.0",
        read=(5, 2, 1, 1),
        frozen={"w1": "picks single ones"},
        opset=13,
    ),
    "rows": convs(f"{sizes('i', 3, 0)} h = Gather<axis = 2>(a, i)"),
    "at run time": convs(
        "h = Gather<axis = 1>(a, i)", inputs="float[2,3,6,6] x, int64[3] i", read=(5, 3, 1, 1), **stays("at run time")
    ),
    "embedding": net("e = Gather(w1, i) y = MatMul(e, w2)", "8 w1.1 w2.0", "int64[2,5] i", w1=(10, 8), w2=(8, 4)),
    "tied embedding": net(
        "e = Gather(w, i) h = MatMul(e, u) r = Relu(h) t = Transpose(w) y = MatMul(r, t)",
        "8 w.1 u.0 u.1",
        "int64[2,5] i",
        w=(10, 8),
        u=(8, 8),
    ),
    "of weights": net(
        f"{sizes('i', 2, 0, 1, 3)} w = Gather(u, i) a = Conv(x, w) y = Conv(a, w2)", "4 u.0 w2.1", u=(4, 3, 1, 1), w2=(5, 4, 1, 1)
    ),
}
OPTION_A = "4 w1.0 b1.0 w2.0 b2.0 w3.1 | 4 w2.0 b2.0 w3.1"  # the channels of b of which a lacks some
NARROW = {"w1": (4, 3, 1, 1), "b1": (4,)}
PADS = {
    "rows and columns": convs(f"{sizes('n', 0, 0, 1, 2, 0, 0, 1, 2)} h = Pad(a, n)"),
    "rows and columns, attribute": convs("h = Pad<pads = [0,0,1,1,0,0,1,1]>(a)", opset=9),
    "channels on both sides": residual(f"{sizes('n', 0, 2, 0, 0, 0, 2, 0, 0)} p = Pad(a, n) h = Add(p, b)", OPTION_A, **NARROW),
    "channels in front": residual(f"{sizes('n', 0, 4, 0, 0, 0, 0, 0, 0)} p = Pad(a, n) h = Add(p, b)", OPTION_A, **NARROW),
    "channels behind": residual(f"{sizes('n', 0, 0, 0, 0, 0, 4, 0, 0)} p = Pad(a, n) h = Add(p, b)", OPTION_A, **NARROW),
    "channels, attribute": residual("p = Pad<pads = [0,3,0,0,0,1,0,0]>(a) h = Add(p, b)", OPTION_A, opset=9, **NARROW),
    "channels, named axis": residual(f"{sizes('n', 1, 3)} {sizes('c', -3)} p = Pad(a, n, , c) h = Add(p, b)", OPTION_A, **NARROW),
    "channels of another value": convs(
        f"{sizes('n', 0, 1, 0, 0, 0, 2, 0, 0)} f = Constant<value_float = 1.5>() h = Pad(a, n, f)",
        "8 w1.0 b1.0 w2.1 | 3 w2.1",
        read=(5, 11, 1, 1),
    ),
    "option A": residual(
        f"{sizes('s', 0, 0)} {sizes('e', FAR, FAR)} {sizes('c', 2, 3)} {sizes('t', 2, 2)} g = Slice(a, s, e, c, t) "
        f"{sizes('n', 0, 2, 0, 0, 0, 2, 0, 0)} p = Pad(g, n) m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(b) h = Add(p, m)",
        OPTION_A,
        **NARROW,
    ),
    "of the graph input": residual(
        f"{sizes('n', 0, 2, 0, 0, 0, 3, 0, 0)} p = Pad(x, n) h = Add(p, b)", "", frozen={"w2": ""}, w1=(1, 3, 1, 1), b1=(1,)
    ),
    "reflected rows": convs(f'{sizes("n", 0, 0, 1, 1, 0, 0, 1, 1)} h = Pad<mode = "reflect">(a, n)'),
    "reflected channels": convs(
        f'{sizes("n", 0, 2, 0, 0, 0, 2, 0, 0)} h = Pad<mode = "reflect">(a, n)', read=(5, 12, 1, 1), **stays("repeats or crops")
    ),
    "cropped channels": convs(
        f"{sizes('n', 0, -1, 0, 0, 0, -3, 0, 0)} h = Pad(a, n)", read=(5, 4, 1, 1), **stays("repeats or crops")
    ),
}
FLAT = {"read": (32, 5), "inputs": "float[2,3,2,2] x"}  # a[2,8,2,2] in one row of 32
SHUFFLE = (
    f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) q = Transpose<perm = [0,2,1,3,4]>(p) {sizes('m', 2, 8, 6, 6)} h = Reshape(q, m)"
)
RESHAPES = {
    "flatten": conv_gemm(f"{sizes('n', 2, 32)} h = Reshape(a, n)", **FLAT),
    "flatten, rows copied, rest inferred": conv_gemm(f"{sizes('n', 0, -1)} h = Reshape(a, n)", **FLAT),
    "flatten, rows inferred": conv_gemm(f"{sizes('n', -1, 32)} h = Reshape(a, n)", **FLAT),
    "flatten, channels last": conv_gemm(f"t = Transpose<perm = [0,2,3,1]>(a) {sizes('n', 2, -1)} h = Reshape(t, n)", **FLAT),
    "flatten, target from Shape": conv_gemm(
        f"s = Shape(a) z = Constant<value_int = 0>() b = Gather(s, z) {sizes('u', 0)} r = Unsqueeze(b, u) {sizes('m', -1)} "
        "n = Concat<axis = 0>(r, m) h = Reshape(a, n)",
        read=(32, 5),
        inputs="float[N,3,2,2] x",
    ),
    "flatten, all of the target from Shape": conv_gemm(
        f"s = Shape(a) {sizes('z', 0)} {sizes('o', 1)} {sizes('e', 4)} r = Slice(s, z, o) c = Slice(s, o, e) p = ReduceProd(c) "
        "n = Concat<axis = 0>(r, p) h = Reshape(a, n)",
        read=(32, 5),
        inputs="float[N,3,2,2] x",
    ),
    "channels copied, places merged": convs(f"{sizes('n', 0, 0, -1)} h = Reshape(a, n)", read=(5, 8, 1)),
    "channels named, places merged": convs(f"{sizes('n', 2, 8, 36)} h = Reshape(a, n)", read=(5, 8, 1)),
    "zero allowed": convs(f"{sizes('n', -1, 8, 36)} h = Reshape<allowzero = 1>(a, n)", read=(5, 8, 1)),
    "shuffle": convs(SHUFFLE),
    "shuffle in three parts of four": convs(
        f"{sizes('n', 2, 3, 4, 6, 6)} p = Reshape(a, n) q = Transpose<perm = [0,2,1,3,4]>(p) {sizes('m', 0, -1, 6, 6)} h = Reshape(q, m)",
        "12 w1.0 b1.0 w2.1",
        read=(5, 12, 1, 1),
        w1=(12, 3, 1, 1),
        b1=(12,),
    ),
    "shuffle over a residual": residual(SHUFFLE.replace("h = Reshape", "c = Reshape") + " h = Add(c, b)"),
    "there and back": convs(f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) {sizes('m', 2, 8, 6, 6)} h = Reshape(p, m)"),
    "mean over the outer part": convs(
        f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) h = ReduceMean<axes = [1], keepdims = 0>(p)",
        "4 w1.0 b1.0 w2.1",
        read=(5, 4, 1, 1),
        opset=13,
    ),
    "mean over the inner part": convs(
        f"{sizes('n', 0, 2, 4, 6, 6)} p = Reshape(a, n) h = ReduceMean<axes = [2], keepdims = 0>(p)",
        "2 w1.0 b1.0 w2.1",
        read=(5, 2, 1, 1),
        opset=13,
    ),
    "scale of a weight": convs(f"{sizes('n', 1, 8, 1, 1)} t = Reshape(s, n) h = Mul(a, t)", "8 w1.0 b1.0 s.0 w2.1", s=(8,)),
    "channels merged with the batch": convs(
        f"{sizes('n', 16, 1, 6, 6)} r = Reshape(a, n) {sizes('m', 2, 8, 6, 6)} h = Reshape(r, m)", **stays("")
    ),
}
SIZED = "g = GlobalAveragePool(a)"
MOVEMENT: Table = {
    "Concat": CONCATS,
    "Split": SPLITS,
    "Slice": SLICES,
    "Gather": GATHERS,
    "Pad": PADS,
    "Reshape": RESHAPES,
    "Flatten": {
        "pooled": conv_gemm(f"{SIZED} h = Flatten(g)"),
        "four places per channel": conv_gemm("h = Flatten<axis = 1>(a)", **FLAT),
        "axis counted from the end": conv_gemm("h = Flatten<axis = -3>(a)", **FLAT),
        "two layers side by side": conv_gemm(
            "b = Conv(x, w3) c = Concat<axis = 1>(a, b) h = Flatten(c)",
            "8 w1.0 b1.0 w2.0 | 4 w3.0 w2.0",
            read=(48, 5),
            inputs="float[2,3,2,2] x",
            w3=(4, 3, 1, 1),
        ),
    },
    "Squeeze": {
        "attribute": conv_gemm(f"{SIZED} h = Squeeze<axes = [2,3]>(g)", opset=11),
        "input": conv_gemm(f"{SIZED} {sizes('n', 2, -1)} h = Squeeze(g, n)"),
        "all axes of size 1": conv_gemm(f"{SIZED} h = Squeeze(g)"),
    },
    "Unsqueeze": {
        "attribute": matmuls("b = Unsqueeze<axes = [1]>(a) h = Relu(b)", opset=11),
        "input": matmuls(f"{sizes('n', 1, -1)} b = Unsqueeze(a, n) {sizes('m', -1)} h = Squeeze(b, m)"),
        "of a weight": convs(f"{sizes('n', 1, 2)} t = Unsqueeze(s, n) h = Mul(a, t)", "8 w1.0 b1.0 s.0 w2.1", s=(8,)),
    },
    "Expand": {
        "places": convs(f"{SIZED} {sizes('n', 2, 8, 6, 6)} h = Expand(g, n)"),
        "places, channels left out": convs(f"{SIZED} {sizes('n', 1, 1, 6, 6)} h = Expand(g, n)"),
        "lower rank": convs(f"{SIZED} {sizes('n', 6, 6)} h = Expand(g, n)"),
        "to the shape of another": residual("g = GlobalAveragePool(b) s = Shape(a) e = Expand(g, s) h = Add(a, e)"),
        "to the shape of another, dynamic": residual(
            "g = GlobalAveragePool(b) s = Shape(a) e = Expand(g, s) h = Add(a, e)", inputs="float[N,3,6,6] x"
        ),
        "new axes in front": matmuls(f"{sizes('n', 3, 2, 5, 8)} h = Expand(a, n)"),
        "of a weight": convs(f"{sizes('n', 8, 6, 6)} e = Expand(s, n) h = Mul(a, e)", "8 w1.0 b1.0 s.0 w2.1", s=(8, 1, 1)),
        "of one channel": convs(
            f"{sizes('n', 2, 8, 6, 6)} e = Expand(a, n) b = Conv(x, w3) h = Add(e, b)",
            "8 w3.0 w2.1",
            w1=(1, 3, 1, 1),
            b1=(1,),
            w3=(8, 3, 1, 1),
        ),
    },
    "Tile": {
        "places": convs(f"{sizes('n', 1, 1, 2, 3)} h = Tile(a, n)"),
        "channels": convs(f"{sizes('n', 1, 2, 1, 1)} h = Tile(a, n)", read=(5, 16, 1, 1)),
        "pooled places": convs(f"{SIZED} {sizes('n', 1, 1, 6, 6)} h = Tile(g, n)"),
        "of one channel": convs(
            f"{sizes('n', 1, 8, 1, 1)} e = Tile(a, n) b = Conv(x, w3) h = Add(e, b)",
            "",
            frozen={"w3": ""},
            w1=(1, 3, 1, 1),
            b1=(1,),
            w3=(8, 3, 1, 1),
        ),
    },
    "Transpose": {
        "channels last and back": convs("p = Transpose<perm = [0,2,3,1]>(a) q = Relu(p) h = Transpose<perm = [0,3,1,2]>(q)"),
        "channels last into MatMul": convs("h = Transpose<perm = [0,2,3,1]>(a)", "8 w1.0 b1.0 w2.0", (8, 5), "y = MatMul(h, w2)"),
        "reversed": gemms("t = Transpose(a) h = Relu(t)", "8 w1.1 b1.0 w2.0", "y = Gemm<transA = 1>(h, w2)"),
        "of a weight": gemms("h = Relu(a)", "8 w1.1 b1.0 w2.1", "t = Transpose(w2) y = Gemm(h, t)", w2=(5, 8)),
    },
    "DepthToSpace": {
        mode: convs(
            f'h = DepthToSpace<blocksize = 2, mode = "{mode}">(a)',
            "4 w1.0 b1.0 w2.1",
            read=(5, 4, 1, 1),
            w1=(16, 3, 1, 1),
            b1=(16,),
        )
        for mode in ["DCR", "CRD"]
    },
    "SpaceToDepth": {"": convs("h = SpaceToDepth<blocksize = 2>(a)", read=(5, 32, 1, 1))},
    "Shape": {
        "a count of channels in arithmetic on data": convs(
            f"s = Shape(a) {sizes('n', 1)} c = Gather(s, n) f = Cast<to = 1>(c) h = Div(a, f)"
        ),
        "of part of the axes": convs(
            "s = Shape<start = 1, end = 2>(a) f = Cast<to = 1>(s) h = Mul(a, f)", inputs="float[N,3,6,6] x"
        ),
        "of a run-time size": convs(
            f"{sizes('z', 0)} {sizes('c', 2)} r = Slice(a, z, i, c) s = Shape(r) f = Cast<to = 1>(s) m = ReduceSum(f) h = Div(a, m)",
            CONV,
            inputs="float[2,3,6,6] x, int64[1] i",
        ),
    },
    "Size": {
        "": convs("s = Size(a) f = Cast<to = 1>(s) h = Div(a, f)"),
        "of a run-time size": convs(
            f"{sizes('z', 0)} {sizes('c', 2)} r = Slice(a, z, i, c) s = Size(r) f = Cast<to = 1>(s) e = Exp(f) h = Mul(a, e)",
            "",
            inputs="float[2,3,6,6] x, int64[1] i",
        ),
    },
}
NETS: Table = {**WEIGHTS, **UNARY, **BROADCAST, **CHANNELWISE, **MOVEMENT}
ALL = {f"{op}: {variant}" if variant else op: net for op, variants in NETS.items() for variant, net in variants.items()}
