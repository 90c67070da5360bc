"""Pooling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.autodiff.builder import Tensor, where
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.convolution import to_input
from onnx_reconvene.autodiff.rules.elementwise import Gradients
from onnx_reconvene.autodiff.rules.window import Window, window


def sliding(node: Node) -> Window:
    """Return the window of a pooling node."""
    return window(node, node[0].shape[2:], node.y.shape[2:], node.attribute("kernel_shape"))


def to_windows(g: Tensor, slide: Window) -> Tensor:
    """Return, for each element of the input, the sum of g over the windows that see it."""
    batch, channels = g.shape[:2]
    ones = g.builder.full([1, 1, *slide.kernel], 1, g.dtype)
    planes = to_input(g.reshape(batch * channels, 1, *g.shape[2:]), ones, slide, 1)
    return planes.reshape(batch, channels, *planes.shape[2:])


def max_pool(node: Node, g: Tensor, *_: None) -> Gradients:
    """y, i = the largest of each window and where it was: dx[i] += g"""
    x, indices = node[0], node.output(1)
    positions, flat = indices.reshape(-1), g.reshape(-1)
    if node.attribute("storage_order"):
        raise node.no_derivative("storage_order 1")
    zeros = x.builder.full([math.prod(x.shape)], 0, x.dtype)
    return (zeros.apply("ScatterElements", positions, flat, axis=0, reduction="add").reshape(*x.shape),)


def average_pool(node: Node, g: Tensor) -> Gradients:
    """y = the sum of each window / n: dx = the sum of g / n over the windows that see x"""
    slide = sliding(node)
    return (to_windows(g / window_counts(node, slide), slide),)


def window_counts(node: Node, slide: Window) -> NDArray[np.float32]:
    """Return by what each window of an AveragePool is divided: the elements of the input that it sees, and those of the declared
    padding if they count."""
    counts = np.ones((1, 1), np.float32)
    ends = (node.attribute("pads") or [0] * 2 * len(slide.size))[len(slide.size) :]
    for axis, (size, steps) in enumerate(zip(slide.size, slide.steps, strict=True)):
        first = np.arange(steps) * slide.strides[axis] - slide.before[axis]
        seen = first[:, None] + np.arange(slide.kernel[axis]) * slide.dilations[axis]
        low, high = 0, size
        if node.attribute("count_include_pad"):
            after = ends[axis] if node.attribute("auto_pad") == "NOTSET" else max(slide.after[axis], 0)
            low, high = -slide.before[axis], size + after
        inside = ((seen >= low) & (seen < high)).sum(1)
        counts = counts[..., None] * inside.astype(np.float32)
    return counts


def lp_pool(node: Node, g: Tensor) -> Gradients:
    """y = (sum |x|^p)^(1/p) over each window: dx = sign(x) |x|^(p-1) times the sum of g y^(1-p) over the windows that see x"""
    x, p = node[0], float(node.attribute("p"))
    return (lp_slope(x, p) * to_windows(g * lp_gain(node.y, p), sliding(node)),)


def global_lp_pool(node: Node, g: Tensor) -> Gradients:
    """y = (sum |x|^p)^(1/p) over space: dx = sign(x) |x|^(p-1) g y^(1-p)"""
    x, p = node[0], float(node.attribute("p"))
    return (lp_slope(x, p) * (g * lp_gain(node.y, p)),)


def lp_slope(x: Tensor, p: float) -> Tensor:
    """Return sign(x) |x|^(p-1)."""
    if p == 2:
        return x
    return x.apply("Sign") if p == 1 else x.apply("Sign") * x.apply("Abs") ** (p - 1)


def lp_gain(y: Tensor, p: float) -> Tensor:
    """Return y^(1-p), 1 where y is 0."""
    return where(y > 0.0, y, y.beside(1.0)) ** (1 - p)


def global_average_pool(node: Node, g: Tensor) -> Gradients:
    """y = sum x / n over space: dx = g / n"""
    positions = math.prod(node[0].shape[2:])
    shares = g.builder.full([1, positions], 1 / positions, g.dtype)
    return ((g.reshape(-1, 1) @ shares).reshape(*node[0].shape),)  # as a product, faster than Expand


def global_max_pool(node: Node, g: Tensor) -> Gradients:
    """y = max x over space: dx = g [x = y] / (how many equal y)"""
    chosen = node[0].equals(node.y).cast(g)
    return (chosen * (g / chosen.sum(range(2, chosen.rank))),)


RULES: dict[str, Rule] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
