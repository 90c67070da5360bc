"""Normalizations. In the formulas m and v are mean and variance, r = 1 / sqrt(v + e), n = (x - m) r."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_reconvene.autodiff.builder import Tensor, where
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients
from onnx_reconvene.autodiff.rules.resampling import along


def standardized(x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    """Return n and r over axes."""
    centred = x - x.mean(axes)
    r = ((centred * centred).mean(axes) + epsilon).apply("Sqrt").apply("Reciprocal")
    return centred * r, r


def through_statistics(g: Tensor, n: Tensor, r: Tensor, axes: Sequence[int]) -> Tensor:
    """Return dx = r (g - mean g - n mean(g n)) for the gradient g of n."""
    return r * (g - g.mean(axes) - n * (g * n).mean(axes))


def per_channel(vector: Tensor, rank: int) -> Tensor:
    """Return a vector over channels so that it broadcasts to a tensor of rank axes, the second of which are channels."""
    return vector.reshape(-1, *[1] * (rank - 2))


def batch_normalization(node: Node, g: Tensor | None, *running: Tensor | None) -> Gradients:
    """y = n s + b: ds = sum g n, db = sum g, and with given m and v dx = g s r, dm = -sum g s r, dv = -sum g n s r^2 / 2;
    in training m and v are those of x; s, b, m and v may be of another type than x"""
    if g is None or any(running):
        raise node.no_derivative("running statistics that are differentiated")
    x, rank = node[0], node[0].rank
    axes, epsilon = [0, *range(2, rank)], node.attribute("epsilon")
    gamma, _, mean, variance = (tensor.cast(x) for tensor in (node[1], node[2], node[3], node[4]))
    scale = per_channel(gamma, rank)
    if node.attribute("training_mode"):
        n, r = standardized(x, axes, epsilon)
        dscale, dbias = (g * n).sum(axes, keepdims=False), g.sum(axes, keepdims=False)
        return (through_statistics(g * scale, n, r, axes), dscale, dbias, None, None)
    r = (variance + epsilon).apply("Sqrt").apply("Reciprocal")
    gain = gamma * r
    dbias = g.sum(axes, keepdims=False)
    dscale = ((g * x).sum(axes, keepdims=False) - mean * dbias) * r
    return (g * per_channel(gain, rank), dscale, dbias, -(gain * dbias), dscale * gain * r * -0.5)


def instance_normalization(node: Node, g: Tensor) -> Gradients:
    """y = n s + b, m and v over space: dx by statistics from g s, ds = sum g n, db = sum g"""
    x, space = node[0], list(range(2, node[0].rank))
    axes = [0, *space]
    n, r = standardized(x, space, node.attribute("epsilon"))
    dx = through_statistics(g * per_channel(node[1], x.rank), n, r, space)
    return (dx, (g * n).sum(axes, keepdims=False), g.sum(axes, keepdims=False))


def layer_normalization(node: Node, g: Tensor | None, *statistics: Tensor | None) -> Gradients:
    """y = n s + b, m and v over the last axes: dx by statistics from g s, ds = sum g n, db = sum g"""
    if g is None or any(statistics):
        raise node.no_derivative("statistics that are differentiated")
    axes = list(range(node.axis, node[0].rank))
    n, r = standardized(node[0], axes, node.attribute("epsilon"))
    return (through_statistics(g * node[1], n, r, axes), g * n, g)[: len(node.inputs)]


def rms_normalization(node: Node, g: Tensor) -> Gradients:
    """y = n s, n = x r, r = 1 / sqrt(mean x^2 + e): dx = r (g s - n mean(g s n)), ds = sum g n"""
    x, axes = node[0], list(range(node.axis, node[0].rank))
    r = ((x * x).mean(axes) + node.attribute("epsilon")).apply("Sqrt").apply("Reciprocal")
    n, gn = x * r, g * node[1]
    return (r * (gn - n * (gn * n).mean(axes)), g * n)


def lp_normalization(node: Node, g: Tensor) -> Gradients:
    """y = x / z, z = (sum |x|^p)^(1/p): dx = (g - dz sum g y) / z, dz = sign x or y"""
    x, y, axes = node[0], node.y, [node.axis]
    one = node.attribute("p") == 1
    norm = x.reduce("ReduceL1" if one else "ReduceL2", axes)
    return ((g - (x.apply("Sign") if one else y) * (g * y).sum(axes)) / where(norm > 0.0, norm, norm.beside(1.0)),)


def local_response_normalization(node: Node, g: Tensor) -> Gradients:
    """y = x s^-b, s = k + a/n sum of x^2 over n channels: dx = g s^-b - 2 a b/n x sum of g x s^(-b-1) over those who see x"""
    x, channels, size = node[0], node[0].shape[1], node.attribute("size")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    distance = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = x.beside(((distance >= -before) & (distance <= after)).astype(np.float32))  # [channel, who it sees]
    rate, exponent = node.attribute("alpha") / size, node.attribute("beta")
    s = along(x * x, 1, band) * rate + node.attribute("bias")
    gain = s**-exponent
    seen = along(g * x * gain / s, 1, band.transpose(1, 0))
    return (g * gain - x * seen * (2 * rate * exponent),)


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
}
