"""Functions of one number, and arithmetic."""

import numpy as np

from tests.derivatives.case import Table, case

PLAIN = ["Abs", "Asinh", "Atan", "Cos", "Cosh", "Elu", "Erf", "Exp", "Identity", "LeakyRelu", "Neg", "Relu", "Selu"]
PLAIN += ["Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh"]
SCALAR = np.float32
FUNCTIONS: Table = {
    **{op: {"": case(f"y = {op}(x)", high=1.4)} for op in PLAIN},
    **{op: {"": case(f"y = {op}(x)", low=0.3, high=2.0)} for op in ("Log", "Reciprocal", "Sqrt")},
    **{op: {"": case(f"y = {op}(x)", low=-0.8, high=0.8)} for op in ("Acos", "Asin", "Atanh")},
    "Acosh": {"": case("y = Acosh(x)", low=1.2, high=3.0)},
    "Cast": {"there and back": case("h = Cast<to = 11>(x) y = Cast<to = 1>(h)")},
    "CastLike": {"": case("h = CastLike(x, x) y = Mul(h, h)")},
    "Celu": {"": case("y = Celu<alpha = 0.7>(x)")},
    "Clip": {
        "": case("y = Clip(x, a, b)", a=SCALAR(-0.5), b=SCALAR(0.7)),
        "above": case("y = Clip(x, , b)", b=SCALAR(0.7)),
        "below": case("y = Clip(x, a)", a=SCALAR(-0.5)),
        "attributes": case("y = Clip<min = -0.5, max = 0.7>(x)", opset=7),
    },
    "Dropout": {
        "": case("y = Dropout(x)"),
        "with a ratio": case("y, m = Dropout(x, r)", r=SCALAR(0.3), zero=["r"]),
        "old": case("y = Dropout<ratio = 0.3>(x)", opset=7),
    },
    "Gelu": {
        "": case("y = Gelu(x)", opset=20),
        "tanh": case('y = Gelu<approximate = "tanh">(x)', opset=20),
    },
    "HardSigmoid": {"": case("y = HardSigmoid<alpha = 0.4, beta = 0.3>(x)", low=-3, high=3)},
    "HardSwish": {"": case("y = HardSwish(x)", low=-5, high=5)},
    "Mish": {"": case("y = Mish(x)")},
    "Shrink": {"": case("y = Shrink<lambd = 0.5, bias = 0.2>(x)")},
    "Swish": {"": case("y = Swish<alpha = 0.7>(x)", opset=24)},
    "ThresholdedRelu": {"": case("y = ThresholdedRelu<alpha = 0.4>(x)")},
}
BROADCAST = ["Add", "Sub", "Mul", "Max", "Min", "Sum"]
ARITHMETIC: Table = {
    **{
        op: {
            "same shape": case(f"y = {op}(x, w)", w=(2, 3, 4)),
            "broadcast": case(f"y = {op}(x, w)", w=(3, 1)),
            "both ways": case(f"y = {op}(x, w)", inputs="float[3,1] x", w=(2, 1, 4)),
            "scalar": case(f"y = {op}(w, x)", w=()),
            "with itself": case(f"y = {op}(x, x)", zero=["x"] if op == "Sub" else []),
        }
        for op in BROADCAST
    },
    "DequantizeLinear": {
        "": case(
            "y = DequantizeLinear(i, p, z)", inputs="", i=np.int8([[3, -5, 7]]), opset=21, single=True, p=(1,), z=np.int8([2])
        ),
        "per channel": case(
            "y = DequantizeLinear<axis = 0>(i, p)", inputs="", opset=21, single=True, i=np.uint8([[3, 5], [7, 1], [2, 9]]), p=(3,)
        ),
    },
    "Div": {
        "": case("y = Div(x, p)", p=(2, 3, 4)),
        "broadcast": case("y = Div(w, x)", low=0.5, w=(3, 1)),
    },
    "Mean": {  # the oracle demands that the first has the shape of the result
        "broadcast": case("y = Mean(x, w, v)", w=(3, 1), v=(4,)),
        "with itself": case("y = Mean(x, x)"),
    },
    "Mod": {"": case("y = Mod<fmod = 1>(x, w)", low=1.0, high=4.0, w=np.float32([0.7, 0.8, 0.9, 1.1]))},
    "PRelu": {
        "one slope": case("y = PRelu(x, w)", w=(1,)),
        "per channel": case("y = PRelu(x, w)", w=(3, 1)),
    },
    "Pow": {
        "": case("y = Pow(x, w)", low=0.5, w=(3, 1)),
        "square": case("e = Constant<value = float {2.0}>() y = Pow(x, e)"),
        "whole exponent": case("y = Pow(x, e)", e=np.int64(3)),
    },
    "Where": {"": case("y = Where(c, x, w)", inputs="float[2,3,4] x, bool[3,1] c", w=(4,))},
}
ARITHMETIC["Max"]["three"] = case("y = Max(x, w, v)", w=(3, 1), v=(4,))
ARITHMETIC["Min"]["three"] = case("y = Min(x, w, v)", w=(3, 1), v=(4,))
CASES: Table = {**FUNCTIONS, **ARITHMETIC}
