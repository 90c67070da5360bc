"""Arithmetic on tensors that broadcast together. Each gradient has the shape of the result; what was broadcast is summed later."""

from __future__ import annotations

from onnx_reconvene.autodiff.builder import Tensor, total, where
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients


def add(node: Node, g: Tensor) -> Gradients:
    """y = a + b: da = g, db = g"""
    return (g, g)


def subtract(node: Node, g: Tensor) -> Gradients:
    """y = a - b: da = g, db = -g"""
    return (g, -g)


def multiply(node: Node, g: Tensor) -> Gradients:
    """y = a b: da = g b, db = g a"""
    return (g * node[1], g * node[0])


def divide(node: Node, g: Tensor) -> Gradients:
    """y = a / b: da = g / b, db = -g y / b"""
    da = g / node[1]
    return (da, -(da * node.y))


def modulo(node: Node, g: Tensor) -> Gradients:
    """y = a - b trunc(a / b): da = g, db = -g trunc(a / b)"""
    return (g, g * ((node.y - node[0]) / node[1]))


def power(node: Node, g: Tensor) -> Gradients:
    """y = a^b: da = g b a^(b - 1), 0 where b = 0, as torch has it; db = g y log a, 0 where a <= 0"""
    a, b = node[0], node[1].cast(node[0])
    positive, fixed = a > 0.0, a.builder.fixed(node[1].name)
    never_zero = b if fixed is not None and fixed.all() else where(b.equals(0.0), b.beside(1.0), b)
    logarithm = where(positive, a, a.beside(1.0)).apply("Log")
    db = where(positive, g * node.y * logarithm, g.beside(0.0))
    return (g * b * a ** (never_zero - 1.0), db.cast(node[1]))


def prelu(node: Node, g: Tensor) -> Gradients:
    """y = x if x > 0 else a x: dx = g if x > 0 else g a, da = 0 if x > 0 else g x"""
    x, slope = node[0], node[1]
    positive = x > 0.0
    return (where(positive, g, g * slope), where(positive, g.beside(0.0), g * x))


def extremum(node: Node, g: Tensor) -> Gradients:
    """y = max(x1, x2, ...) or min: dxi = g [xi = y] / (how many equal y)"""
    chosen = [x.equals(node.y).cast(g) for x in node.inputs if x is not None]
    share = g / total(chosen)
    return tuple(share * one for one in chosen)


def sum_of_all(node: Node, g: Tensor) -> Gradients:
    """y = x1 + x2 + ...: dxi = g"""
    return (g,) * len(node.inputs)


def mean_of_all(node: Node, g: Tensor) -> Gradients:
    """y = (x1 + ... + xn) / n: dxi = g / n"""
    return (g / float(len(node.inputs)),) * len(node.inputs)


def select(node: Node, g: Tensor) -> Gradients:
    """y = a if c else b: da = g if c else 0, db = 0 if c else g"""
    zero = g.beside(0.0)
    return (None, where(node[0], g, zero), where(node[0], zero, g))


def dequantize(node: Node, g: Tensor) -> Gradients:
    """y = (x - z) s, x and z integers: ds = sum g y / s over all that s scales"""
    scale, shape = node[1], node[0].shape
    if node.attribute("block_size"):
        raise node.no_derivative("block_size")
    axes = list(range(len(shape)))
    if scale.rank and scale.shape[0] > 1:
        axes.remove(node.axis)
    along = scale.reshape(*(1 if axis in axes else size for axis, size in enumerate(shape)))
    return (None, (g * node.y / along).sum(axes).reshape(*scale.shape), None)[: len(node.inputs)]


RULES: dict[str, Rule] = {
    "Add": add,
    "DequantizeLinear": dequantize,
    "Div": divide,
    "Max": extremum,
    "Mean": mean_of_all,
    "Min": extremum,
    "Mod": modulo,
    "Mul": multiply,
    "PRelu": prelu,
    "Pow": power,
    "Sub": subtract,
    "Sum": sum_of_all,
    "Where": select,
}
