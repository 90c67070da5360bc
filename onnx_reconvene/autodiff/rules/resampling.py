"""Operators that are a matrix along each axis: y = M x, so dx = M' g."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.autodiff.builder import Tensor, concat
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients


def along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Return matrix [m, n] applied along an axis of n elements, which becomes one of m."""
    if axis == x.rank - 1:
        return x @ matrix.transpose(1, 0)
    rows = x.reshape(*x.shape[: axis + 1], -1)
    return (matrix @ rows).reshape(*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])


def resize(node: Node, g: Tensor) -> Gradients:
    """y = M1 x M2' ...: dx = M1' g M2 ..., each M being what the same Resize makes of the identity matrix"""
    x = node[0]
    given = node.attribute("axes")
    axes = list(range(x.rank)) if given is None else [axis % x.rank for axis in given]
    for position, axis in enumerate(axes):
        if x.shape[axis] != g.shape[axis] or node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
            g = along(g, axis, resize_matrix(node, position, axis).transpose(1, 0))
    return (g, *(None for _ in node.inputs[1:]))


def resize_matrix(node: Node, position: int, axis: int) -> Tensor:
    """Return the matrix [size after, size before] of a Resize along one axis, whose scale stands at position in its scales."""
    builder, size = node.builder, node[0].shape[axis]
    roi, scales = node.optional(1), node.optional(2)
    names = ("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "mode", "nearest_mode")
    attributes = {name: node.attribute(name) for name in names}
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        assert roi is not None
        low, high = roi.value.reshape(2, -1)[:, position]
        roi = builder.constant(np.asarray([0, 0, low, 0, 1, 1, high, 1], roi.dtype))
    else:
        roi = None
    if scales is not None and builder.value(scales.name) is not None and scales.value.size:
        scale = builder.constant(np.asarray([1, 1, scales.value[position], 1], np.float32))
        target = None
    else:
        scale, target = None, builder.integers([1, 1, node.y.shape[axis], size])
    eye = builder.constant(np.eye(size, dtype=node[0].dtype)[None, None])
    return builder.apply("Resize", eye, roi, scale, target, **attributes).reshape(-1, size)


def pad(node: Node, g: Tensor) -> Gradients:
    """y = x with a border: dx = the middle of g, plus what of the border was copied from x; dvalue = the sum of the rest"""
    x, mode = node[0], node.attribute("mode")
    before, after = pads_of(node)
    others: list[Tensor | None] = [None] * (len(node.inputs) - 1)
    if mode == "constant":
        dx = g.pad([-p for p in before], [-p for p in after])
        if node.optional(2) is not None:
            others[1] = (g.sum(range(g.rank), keepdims=False) - dx.sum(range(g.rank), keepdims=False)).reshape(*node[2].shape)
        return (dx, *others)
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        if low or high:
            g = along(g, axis, g.beside(border_matrix(x.shape[axis], low, high, mode).T))
    return (g, *others)


def pads_of(node: Node) -> tuple[list[int], list[int]]:
    """Return how much a Pad adds before and after each axis."""
    rank, pads, axes = node[0].rank, node[1].value, node.optional(3)
    named = range(rank) if axes is None else [int(axis) % rank for axis in axes.value]
    full = np.zeros((2, rank), np.int64)
    full[:, list(named)] = pads.reshape(2, -1)
    return full[0].tolist(), full[1].tolist()


def border_matrix(size: int, before: int, after: int, mode: str) -> NDArray[np.float32]:
    """Return the matrix [size after, size before] of a Pad along one axis."""
    kept = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
    source = np.pad(kept, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
    rows: NDArray[np.float32] = np.eye(size, dtype=np.float32)[source]
    return rows


def columns_to_image(node: Node, g: Tensor) -> Gradients:
    """y = columns [n, c * kernel, steps] added up where their windows stand: dx = what of g each of them sees"""
    n, channels, image = *g.shape[:2], g.shape[2:]
    block, ones = node[2].value.tolist(), [1] * len(image)
    strides, dilations = node.attribute("strides") or ones, node.attribute("dilations") or ones
    pads = node.attribute("pads") or [0] * 2 * len(image)
    padded = g.pad([0, 0, *pads[: len(image)]], [0, 0, *pads[len(image) :]])
    axes, parts = range(2, g.rank), []
    for tap in product(*map(range, block)):
        starts = [d * t for d, t in zip(dilations, tap, strict=True)]
        ends = [size - d * (k - 1) + a for size, d, k, a in zip(padded.shape[2:], dilations, block, starts, strict=True)]
        parts.append(padded.slice(starts, ends, axes, strides).reshape(n, channels, 1, -1))
    return (concat(parts, 2).reshape(*node[0].shape), None, None)


RULES: dict[str, Rule] = {"Col2Im": columns_to_image, "Pad": pad, "Resize": resize}
