"""Reductions and scans along axes. With keepdims=0 the gradient first gets its axes of size 1 back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_reconvene.autodiff.builder import Tensor, where
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients


def axes_of(node: Node) -> list[int]:
    """Return the axes over which node reduces."""
    axes, rank = node.optional(1), node[0].rank
    if axes is not None and axes.value.size:
        return [int(axis) % rank for axis in axes.value.reshape(-1)]
    return [] if node.attribute("noop_with_empty_axes") else list(range(rank))


def kept(node: Node, tensor: Tensor) -> Tensor:
    """Return the result of node, or what has its shape, with the reduced axes kept as axes of size 1."""
    axes = axes_of(node)
    return tensor.reshape(*(1 if axis in axes else size for axis, size in enumerate(node[0].shape)))


def reduction(derivative: Callable[[Node, Tensor, Tensor, Tensor], Tensor]) -> Callable[[Node, Tensor], Gradients]:
    """Return the rule for a reduction, given dx as a function of node, x, y and g, the last two with their axes kept."""

    def rule(node: Node, g: Tensor) -> Gradients:
        dx = derivative(node, node[0], kept(node, node.y), kept(node, g))
        return (dx, *(None for _ in node.inputs[1:]))

    rule.__doc__ = derivative.__doc__
    return rule


@reduction
def reduce_sum(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = sum x: dx = g"""
    return g


@reduction
def reduce_mean(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = sum x / n: dx = g / n"""
    return g / float(np.prod([x.shape[axis] for axis in axes_of(node)]))


@reduction
def reduce_extremum(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = max x or min x: dx = g [x = y] / (how many equal y)"""
    chosen = x.equals(y).cast(g)
    return chosen * (g / chosen.sum(axes_of(node)))


@reduction
def reduce_l1(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = sum |x|: dx = g sign(x)"""
    return g * x.apply("Sign")


@reduction
def reduce_l2(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = sqrt(sum x^2): dx = g x / y, 0 where y = 0"""
    return x * (g / where(y > 0.0, y, y.beside(1.0)))


@reduction
def reduce_sum_square(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = sum x^2: dx = 2 g x"""
    return x * (g * 2.0)


@reduction
def reduce_log_sum(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = log(sum x): dx = g / e^y"""
    return g / y.apply("Exp")


@reduction
def reduce_log_sum_exp(node: Node, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """y = log(sum e^x): dx = g e^(x - y)"""
    return g * (x - y).apply("Exp")


def reduce_prod(node: Node, g: Tensor) -> Gradients:
    """y = prod x: dxi = g prod of all xj but xi"""
    x, axes = node[0], axes_of(node)
    perm = [axis for axis in range(x.rank) if axis not in axes] + axes
    size = int(np.prod([x.shape[axis] for axis in axes]))
    rows = x.transpose(*perm).reshape(-1, 1, size)
    eye = x.builder.constant(np.eye(size, dtype=bool))
    others = where(eye, x.beside(1.0), rows).reduce("ReduceProd", [2], keepdims=False)
    back = others.reshape(*(x.shape[axis] for axis in perm)).transpose(*np.argsort(perm).tolist())
    return (back * kept(node, g), *(None for _ in node.inputs[1:]))


def cumulative_sum(node: Node, g: Tensor) -> Gradients:
    """y = running sum of x: dx = running sum of g from the other end"""
    back = {"exclusive": node.attribute("exclusive"), "reverse": 1 - node.attribute("reverse")}
    return (g.apply("CumSum", node[1], **back), None)


def softmax(node: Node, g: Tensor) -> Gradients:
    """y = e^x / sum e^x: dx = y (g - sum g y)"""
    weighted = g * node.y
    return (weighted - node.y * weighted.sum([node.axis]),)


def log_softmax(node: Node, g: Tensor) -> Gradients:
    """y = x - log sum e^x: dx = g - e^y sum g"""
    return (g - node.y.apply("Exp") * g.sum([node.axis]),)


def top_k(node: Node, g: Tensor, *_: None) -> Gradients:
    """y, i = the k largest of x and where they were: dx[i] = g"""
    return (node[0].zeros().apply("ScatterElements", node.output(1), g, axis=node.axis), None)


RULES: dict[str, Rule] = {
    "CumSum": cumulative_sum,
    "LogSoftmax": log_softmax,
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceMax": reduce_extremum,
    "ReduceMean": reduce_mean,
    "ReduceMin": reduce_extremum,
    "ReduceProd": reduce_prod,
    "ReduceSum": reduce_sum,
    "ReduceSumSquare": reduce_sum_square,
    "Softmax": softmax,
    "TopK": top_k,
}
