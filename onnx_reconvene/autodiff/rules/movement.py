"""Operators that move elements: the gradient moves back, and what was read twice is summed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_reconvene.autodiff.builder import Tensor, concat
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients
from onnx_reconvene.shapes import as_slice, slice_operands


def reshape(node: Node, g: Tensor) -> Gradients:
    """y = x in another shape: dx = g in the shape of x"""
    return (g.reshape(*node[0].shape), *(None for _ in node.inputs[1:]))


def transpose(node: Node, g: Tensor) -> Gradients:
    """y = x with axes permuted: dx = g with axes permuted back"""
    perm = node.attribute("perm") or range(g.rank)[::-1]
    return (g.transpose(*np.argsort(perm).tolist()),)


def concatenate(node: Node, g: Tensor) -> Gradients:
    """y = x1, x2, ... along an axis: dxi = the part of g that is xi's"""
    axis = node.axis
    sizes = [x.shape[axis] for x in node.inputs if x is not None]
    return g.builder.emit("Split", g, g.builder.integers(sizes), outputs=len(sizes), axis=axis)


def split(node: Node, *gs: Tensor | None) -> Gradients:
    """y1, y2, ... = x along an axis: dx = g1, g2, ..."""
    outputs = [node.output(k) for k in range(len(gs))]
    parts = [y.zeros() if g is None else g for y, g in zip(outputs, gs, strict=True)]
    return (concat(parts, node.axis), *(None for _ in node.inputs[1:]))


def slice_(node: Node, g: Tensor) -> Gradients:
    """y = x[start:end:step]: dx[start:end:step] = g, 0 elsewhere"""
    operands = [None if x is None else x.value for x in node.inputs[1:]]
    starts, ends, axes, steps = slice_operands({}, g.rank, operands)
    shape = node[0].shape
    first, stride = [0] * g.rank, [1] * g.rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        positions = range(shape[axis])[as_slice(start, end, step, shape[axis])]
        first[axis], stride[axis] = positions.start, step
    return (place(g, first, stride, shape), *(None for _ in node.inputs[1:]))


def place(g: Tensor, first: Sequence[int], stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return zeros of shape with g at positions first, first + stride, ... along each axis."""
    reversed_axes = [axis for axis, step in enumerate(stride) if step < 0]
    if reversed_axes:
        count = len(reversed_axes)
        g = g.slice([-1] * count, [np.iinfo(np.int64).min] * count, reversed_axes, [-1] * count)
        first = [a + s * (n - 1) if s < 0 else a for a, s, n in zip(first, stride, g.shape, strict=True)]
    spread = spaced(g, [abs(step) for step in stride])
    after = [size - a - n for size, a, n in zip(shape, first, spread.shape, strict=True)]
    return spread.pad(first, after)


def spaced(g: Tensor, stride: Sequence[int]) -> Tensor:
    """Return g with stride - 1 zeros between its elements along each axis."""
    for axis, step in enumerate(stride):
        size = g.shape[axis]
        if step == 1 or size < 2:
            continue
        column = g.reshape(*g.shape[: axis + 1], 1, *g.shape[axis + 1 :])
        at = [0] * column.rank
        wide = column.pad(at, [step - 1 if k == axis + 1 else 0 for k in range(column.rank)])
        flat = wide.reshape(*g.shape[:axis], size * step, *g.shape[axis + 1 :])
        g = flat.slice([0], [(size - 1) * step + 1], [axis], [1])
    return g


def expand(node: Node, g: Tensor) -> Gradients:
    """y = x broadcast: dx = the sum of g over what x was broadcast along"""
    return (g, None)


def tile(node: Node, g: Tensor) -> Gradients:
    """y = x, n times along each axis: dx = the sum of g over the n"""
    shape = node[0].shape
    pairs = [(n // size if size else 1, size) for n, size in zip(g.shape, shape, strict=True)]
    blocks = g.reshape(*(size for pair in pairs for size in pair))
    return (blocks.sum(range(0, 2 * len(shape), 2), keepdims=False), None)


def depth_to_space(node: Node, g: Tensor) -> Gradients:
    """y = blocks of channels laid out in space: dx = g laid back"""
    n, c, h, w = node[0].shape
    b = node.attribute("blocksize")
    cells = g.reshape(n, c // b**2, h, b, w, b)
    back = cells.transpose(0, 3, 5, 1, 2, 4) if node.attribute("mode") == "DCR" else cells.transpose(0, 1, 3, 5, 2, 4)
    return (back.reshape(n, c, h, w),)


def space_to_depth(node: Node, g: Tensor) -> Gradients:
    """y = blocks of space stacked as channels: dx = g laid back"""
    return (g.apply("DepthToSpace", blocksize=node.attribute("blocksize"), mode="DCR"),)


def triangle(node: Node, g: Tensor) -> Gradients:
    """y = the upper or lower triangle of x: dx = that of g"""
    return (g.apply("Trilu", node.optional(1), upper=node.attribute("upper")), *(None for _ in node.inputs[1:]))


def reverse_sequence(node: Node, g: Tensor) -> Gradients:
    """y = x with the start of each sequence reversed: dx = g so reversed"""
    axes = {name: node.attribute(name) for name in ("batch_axis", "time_axis")}
    return (g.apply("ReverseSequence", node[1], **axes), None)


RULES: dict[str, Rule] = {
    "Concat": concatenate,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": reshape,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": reshape,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
    "Unsqueeze": reshape,
}
