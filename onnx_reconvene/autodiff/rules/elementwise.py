"""Functions of one number. In the formulas x is the input, y the output, g = dL/dy."""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_reconvene.autodiff.builder import Tensor, where
from onnx_reconvene.autodiff.node import Node, Rule

Gradients = tuple[Tensor | None, ...]
STEEP = 2.0**100  # a slope on which no number lies beside a bound of ordinary size
STEEPEST = 2.0**126  # on which no number but the subnormal ones lies beside 0


def above(x: Tensor, bound: Tensor | float) -> Tensor:
    """Return 1 where x > bound, 0 elsewhere, in the type of x; see `step`."""
    found = step(x, bound, 1)
    return (x > bound).cast(x) if found is None else found


def below(x: Tensor, bound: Tensor | float) -> Tensor:
    """Return 1 where x < bound, 0 elsewhere, in the type of x; see `step`."""
    found = step(x, bound, -1)
    return (x < bound).cast(x) if found is None else found


def step(x: Tensor, bound: Tensor | float, sign: int) -> Tensor | None:
    """Return 1 where sign * x > sign * bound, 0 elsewhere, as a HardSigmoid too steep for any number to lie on its slope; None
    where there is no such. Unlike a comparison, onnxruntime computes it in the layout of its convolutions, and in one pass."""
    found = x.builder.fixed(bound.name) if isinstance(bound, Tensor) else bound
    value = math.nan if found is None else float(found)
    if x.dtype != np.float32 or not (value == 0 or 2**-76 <= abs(value) <= 2**26):
        return None
    slope = sign * (STEEP if value else STEEPEST)
    return x.apply("HardSigmoid", alpha=slope, beta=-slope * value)


def is_step(node: onnx.NodeProto) -> bool:
    """Return True if a node is one that `step` makes, whose derivative is zero."""
    return node.op_type == "HardSigmoid" and any(a.name == "alpha" and abs(a.f) >= STEEP for a in node.attribute)


def only(condition: Tensor, g: Tensor) -> Tensor:
    """Return g where condition holds, 0 elsewhere."""
    return g * condition.cast(g)


def identity(node: Node, g: Tensor) -> Gradients:
    """y = x: dx = g"""
    return (g,)


def cast(node: Node, g: Tensor) -> Gradients:
    """y = x in another floating-point type: dx = g in the type of x"""
    return (g.cast(node[0]), *(None for _ in node.inputs[1:]))


def dropout(node: Node, g: Tensor, *_: None) -> Gradients:
    """y = x m / (1 - p): dx = g m / (1 - p), in inference m = 1 and p = 0"""
    training = node.optional(2)
    if training is None or not training.value:
        return (g, *(None for _ in node.inputs[1:]))
    ratio = node.optional(1)
    kept = only(node.output(1), g)
    return (kept / (1.0 - ratio.cast(g)) if ratio is not None else kept * 2.0, None, None)


def absolute(node: Node, g: Tensor) -> Gradients:
    """y = |x|: dx = g sign(x)"""
    return (g * node[0].apply("Sign"),)


def negative(node: Node, g: Tensor) -> Gradients:
    """y = -x: dx = -g"""
    return (-g,)


def reciprocal(node: Node, g: Tensor) -> Gradients:
    """y = 1/x: dx = -g y^2"""
    return (-(g * (node.y * node.y)),)


def sqrt(node: Node, g: Tensor) -> Gradients:
    """y = sqrt(x): dx = g / (2y)"""
    return (g / (node.y * 2.0),)


def exp(node: Node, g: Tensor) -> Gradients:
    """y = e^x: dx = g y"""
    return (g * node.y,)


def log(node: Node, g: Tensor) -> Gradients:
    """y = log x: dx = g / x"""
    return (g / node[0],)


def sin(node: Node, g: Tensor) -> Gradients:
    """y = sin x: dx = g cos x"""
    return (g * node[0].apply("Cos"),)


def cos(node: Node, g: Tensor) -> Gradients:
    """y = cos x: dx = -g sin x"""
    return (-(g * node[0].apply("Sin")),)


def tan(node: Node, g: Tensor) -> Gradients:
    """y = tan x: dx = g (1 + y^2)"""
    return (g * (node.y * node.y + 1.0),)


def asin(node: Node, g: Tensor) -> Gradients:
    """y = asin x: dx = g / sqrt(1 - x^2)"""
    return (g / (1.0 - node[0] * node[0]).apply("Sqrt"),)


def acos(node: Node, g: Tensor) -> Gradients:
    """y = acos x: dx = -g / sqrt(1 - x^2)"""
    return (-(g / (1.0 - node[0] * node[0]).apply("Sqrt")),)


def atan(node: Node, g: Tensor) -> Gradients:
    """y = atan x: dx = g / (1 + x^2)"""
    return (g / (node[0] * node[0] + 1.0),)


def sinh(node: Node, g: Tensor) -> Gradients:
    """y = sinh x: dx = g cosh x"""
    return (g * node[0].apply("Cosh"),)


def cosh(node: Node, g: Tensor) -> Gradients:
    """y = cosh x: dx = g sinh x"""
    return (g * node[0].apply("Sinh"),)


def tanh(node: Node, g: Tensor) -> Gradients:
    """y = tanh x: dx = g (1 - y^2)"""
    return (g * (1.0 - node.y * node.y),)


def asinh(node: Node, g: Tensor) -> Gradients:
    """y = asinh x: dx = g / sqrt(x^2 + 1)"""
    return (g / (node[0] * node[0] + 1.0).apply("Sqrt"),)


def acosh(node: Node, g: Tensor) -> Gradients:
    """y = acosh x: dx = g / sqrt(x^2 - 1)"""
    return (g / (node[0] * node[0] - 1.0).apply("Sqrt"),)


def atanh(node: Node, g: Tensor) -> Gradients:
    """y = atanh x: dx = g / (1 - x^2)"""
    return (g / (1.0 - node[0] * node[0]),)


def erf(node: Node, g: Tensor) -> Gradients:
    """y = erf x: dx = g 2/sqrt(pi) e^(-x^2)"""
    return (g * ((-(node[0] * node[0])).apply("Exp") * (2 / math.sqrt(math.pi))),)


def sigmoid(node: Node, g: Tensor) -> Gradients:
    """y = s(x): dx = g y (1 - y)"""
    return (g * (node.y * (1.0 - node.y)),)


def softplus(node: Node, g: Tensor) -> Gradients:
    """y = log(1 + e^x): dx = g s(x)"""
    return (g * node[0].apply("Sigmoid"),)


def softsign(node: Node, g: Tensor) -> Gradients:
    """y = x / (1 + |x|): dx = g / (1 + |x|)^2"""
    below = node[0].apply("Abs") + 1.0
    return (g / (below * below),)


def relu(node: Node, g: Tensor) -> Gradients:
    """y = max(x, 0): dx = g [y > 0]"""
    return (g * above(node.y, 0.0),)


def leaky_relu(node: Node, g: Tensor) -> Gradients:
    """y = x if x > 0 else a x: dx = g if x > 0 else a g"""
    return (where(node[0] > 0.0, g, g * node.attribute("alpha")),)


def thresholded_relu(node: Node, g: Tensor) -> Gradients:
    """y = x if x > a else 0: dx = g [x > a]"""
    return (only(node[0] > node.attribute("alpha"), g),)


def elu(node: Node, g: Tensor) -> Gradients:
    """y = x if x > 0 else a (e^x - 1): dx = g if x > 0 else g (y + a)"""
    return (where(node[0] > 0.0, g, g * (node.y + node.attribute("alpha"))),)


def selu(node: Node, g: Tensor) -> Gradients:
    """y = c x if x > 0 else c a (e^x - 1): dx = g c if x > 0 else g (y + c a)"""
    alpha, gamma = node.attribute("alpha"), node.attribute("gamma")
    return (where(node[0] > 0.0, g * gamma, g * (node.y + alpha * gamma)),)


def celu(node: Node, g: Tensor) -> Gradients:
    """y = x if x > 0 else a (e^(x/a) - 1): dx = g if x > 0 else g (y/a + 1)"""
    return (where(node[0] > 0.0, g, g * (node.y / node.attribute("alpha") + 1.0)),)


def hard_sigmoid(node: Node, g: Tensor) -> Gradients:
    """y = min(max(a x + b, 0), 1): dx = g a [0 < y < 1]"""
    inside = (node.y > 0.0).apply("And", node.y < 1.0)
    return (only(inside, g * node.attribute("alpha")),)


def hard_swish(node: Node, g: Tensor) -> Gradients:
    """y = x h, h = min(max(x/6 + 1/2, 0), 1): dx = g (h + x/6 [0 < h < 1])"""
    x = node[0]
    h = x.apply("HardSigmoid", alpha=1 / 6, beta=0.5)
    inside = (h > 0.0).apply("And", h < 1.0)
    return (g * (h + only(inside, x * (1 / 6))),)


def swish(node: Node, g: Tensor) -> Gradients:
    """y = x s(a x): dx = g (s + a y (1 - s))"""
    alpha = node.attribute("alpha")
    s = (node[0] * alpha).apply("Sigmoid")
    return (g * (s + node.y * (1.0 - s) * alpha),)


def mish(node: Node, g: Tensor) -> Gradients:
    """y = x t, t = tanh(log(1 + e^x)): dx = g (t + x (1 - t^2) s(x))"""
    x = node[0]
    t = x.apply("Softplus").apply("Tanh")
    return (g * (t + x * (1.0 - t * t) * x.apply("Sigmoid")),)


def gelu(node: Node, g: Tensor) -> Gradients:
    """y = x P(x), P the normal distribution function: dx = g (P(x) + x p(x)); or, by approximation, with u = c (x + a x^3),
    y = x (1 + tanh u) / 2: dx = g ((1 + t) / 2 + x (1 - t^2) u' / 2), t = tanh u"""
    x = node[0]
    if node.attribute("approximate") == "tanh":
        c, a = math.sqrt(2 / math.pi), 0.044715
        square = x * x
        t = (x * (square * (c * a) + c)).apply("Tanh")
        return (g * ((t + 1.0) * 0.5 + x * (1.0 - t * t) * (square * (1.5 * c * a) + 0.5 * c)),)
    distribution = (x * math.sqrt(0.5)).apply("Erf") * 0.5 + 0.5
    density = (x * x * -0.5).apply("Exp") * (1 / math.sqrt(2 * math.pi))
    return (g * (distribution + x * density),)


def clip(node: Node, g: Tensor) -> Gradients:
    """y = min(max(x, a), b): dx = g [a < y < b], da = g [y <= a, y < b], db = g [y >= b]; as Relu's, the slope at a bound is 0"""
    low, high = node.optional(1), node.optional(2)
    unbounded = g if high is None else g * below(node.y, high)
    dx = unbounded if low is None else unbounded * above(node.y, low)
    return (dx, unbounded - dx, g - unbounded)[: len(node.inputs)]


def shrink(node: Node, g: Tensor) -> Gradients:
    """y = x - b if x > l, x + b if x < -l, else 0: dx = g [|x| > l]"""
    return (only(node[0].apply("Abs") > node.attribute("lambd"), g),)


RULES: dict[str, Rule] = {
    "Abs": absolute,
    "Acos": acos,
    "Acosh": acosh,
    "Asin": asin,
    "Asinh": asinh,
    "Atan": atan,
    "Atanh": atanh,
    "Cast": cast,
    "CastLike": cast,
    "Celu": celu,
    "Clip": clip,
    "Cos": cos,
    "Cosh": cosh,
    "Dropout": dropout,
    "Elu": elu,
    "Erf": erf,
    "Exp": exp,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "Log": log,
    "Mish": mish,
    "Neg": negative,
    "Reciprocal": reciprocal,
    "Relu": relu,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": sigmoid,
    "Sin": sin,
    "Sinh": sinh,
    "Softplus": softplus,
    "Softsign": softsign,
    "Sqrt": sqrt,
    "Swish": swish,
    "Tan": tan,
    "Tanh": tanh,
    "ThresholdedRelu": thresholded_relu,
}
