"""Operators that treat each element alone."""

from tests.nets.net import CONV, RESIDUAL, Table, convs, matmuls, net, residual, stays

SIGMOID = ["Acos", "Asin", "Atanh", "Log", "Reciprocal", "Sqrt", "Tan"]  # defined, or tame, between 0 and 1
PLAIN = [
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
]
ABOVE_ZERO = "n = Constant<value_float = 0.0>() g = Greater(a, n)"
BYTES = "c = Abs(a) u = Cast<to = 2>(c)"
UNARY: Table = {
    **{op: {"": convs(f"h = {op}(a)")} for op in PLAIN},
    **{op: {"": convs(f"s = Sigmoid(a) h = {op}(s)")} for op in SIGMOID},
    "Acosh": {"": convs("s = Sigmoid(a) t = Exp(s) h = Acosh(t)")},
    "BitCast": {"there and back": convs("i = BitCast<to = 6>(a) h = BitCast<to = 1>(i)", opset=26)},
    "BitwiseNot": {"": convs(f"{BYTES} i = BitwiseNot(u) h = Cast<to = 1>(i)")},
    "CastLike": {"": convs("n = Constant<value_float = 0.0>() g = Greater(a, n) h = CastLike(g, n)")},
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
            "c = Abs(a) d = Abs(b) u = Cast<to = 2>(c) v = Cast<to = 2>(d) "
            'i = BitShift<direction = "LEFT">(u, v) h = Cast<to = 1>(i)'
        )
    },
    **{
        op: {"two layers": residual(f"{BYTES} d = Abs(b) v = Cast<to = 2>(d) i = {op}(u, v) h = Cast<to = 1>(i)")}
        for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]
    },
    "SwiGLU": {"two layers": residual("h = SwiGLU(a, b)", opset=28)},
    "Div": {
        "two layers": residual("s = Sigmoid(b) h = Div(a, s)"),
        "constant": matmuls("e = Exp(a) h = Div(s, e)", "8 w1.1 b1.0 s.0 w2.0", s=(8,)),
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
        "condition on a constant": convs(
            "z = Constant<value_float = 0.0>() g = Less(s, z) h = Where(g, a, s)", "8 w1.0 b1.0 s.1 w2.1", s=(1, 8, 1, 1)
        ),
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
        "8 w1.1 w3.0 | 7 w2.1",
        "float[2,5,6] x",
        inexact=True,
        w1=(6, 8),
        w2=(6, 7),
        w3=(8, 4),
    ),
}
NETS: Table = {**UNARY, **BROADCAST}
for _op in ["Max", "Mean", "Min", "Sum"]:
    NETS[_op]["three layers"] = residual(f"h = {_op}(a, b, x2)", RESIDUAL + " x2.1", x2=(1, 8, 1, 1))
    NETS[_op]["one input"] = convs(f"h = {_op}(a)")
