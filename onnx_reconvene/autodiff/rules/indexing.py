"""Operators that read or write at given positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_reconvene.autodiff.builder import Tensor, concat, where
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients
from onnx_reconvene.autodiff.rules.movement import place


def gather(node: Node, g: Tensor) -> Gradients:
    """y = x[i]: dx[i] += g"""
    x, indices, axis = node[0], node[1], node.axis
    known = x.builder.value(indices.name)
    if known is not None and known.size == 1:
        single = g.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])
        first = [int(known.item()) % x.shape[k] if k == axis else 0 for k in range(x.rank)]
        return (place(single, first, [1] * x.rank, x.shape), None)
    count, axes = indices.rank, list(range(g.rank))
    indexed = axes[axis : axis + count]
    rows = g.transpose(*indexed, *axes[:axis], *axes[axis + count :])
    zeros = x.builder.full([x.shape[axis], *x.shape[:axis], *x.shape[axis + 1 :]], 0, x.dtype)
    added = zeros.apply("ScatterND", indices.reshape(*indices.shape, 1), rows, reduction="add")
    return (added.transpose(*range(1, axis + 1), 0, *range(axis + 1, x.rank)), None)


def gather_elements(node: Node, g: Tensor) -> Gradients:
    """y[..., k, ...] = x[..., i[..., k, ...], ...]: dx[..., i, ...] += g"""
    return (node[0].zeros().apply("ScatterElements", node[1], g, axis=node.axis, reduction="add"), None)


def gather_nd(node: Node, g: Tensor) -> Gradients:
    """y[k] = x[i[k]]: dx[i] += g"""
    indices, batch = node[1], node.attribute("batch_dims")
    if batch:
        outer = indices.shape[:batch]
        places = np.moveaxis(np.indices(outer), 0, -1).reshape(*outer, *[1] * (indices.rank - batch - 1), batch)
        prefix = indices.builder.integers(np.broadcast_to(places, (*indices.shape[:-1], batch)).tolist())
        indices = concat([prefix, indices], indices.rank - 1)
    return (node[0].zeros().apply("ScatterND", indices, g, reduction="add"), None)


def compress(node: Node, g: Tensor) -> Gradients:
    """y = the slices of x, along an axis or one element each, where the condition c holds: dx there = g, else 0"""
    x, axis = node[0], node.attribute("axis")
    rows = node[1].apply("NonZero").apply("Reshape", x.builder.integers([g.shape[axis or 0], 1]))
    if axis is None:
        return (x.reshape(-1).zeros().apply("ScatterND", rows, g).reshape(*x.shape), None)
    first = [axis % x.rank, *(k for k in range(x.rank) if k != axis % x.rank)]
    back = np.argsort(first).tolist()
    placed = x.transpose(*first).zeros().apply("ScatterND", rows, g.transpose(*first))
    return (placed.transpose(*back), None)


def scatter_elements(node: Node, g: Tensor) -> Gradients:
    """y = x, y[..., i, ...] = u, or combined with u: see `scattered`"""
    axis, indices = node.axis, node[1]

    def read(x: Tensor) -> Tensor:
        seen = [x.shape[k] if k == axis else size for k, size in enumerate(indices.shape)]
        return x.slice([0] * x.rank, seen, range(x.rank), [1] * x.rank).apply("GatherElements", indices, axis=axis)

    def write(x: Tensor, updates: Tensor, reduction: str) -> Tensor:
        return x.apply("ScatterElements", indices, updates, axis=axis, reduction=reduction)

    return scattered(node, g, read, write)


def scatter_nd(node: Node, g: Tensor) -> Gradients:
    """y = x, y[i] = u, or combined with u: see `scattered`"""

    def write(x: Tensor, updates: Tensor, reduction: str) -> Tensor:
        return x.apply("ScatterND", node[1], updates, reduction=reduction)

    return scattered(node, g, lambda x: x.apply("GatherND", node[1]), write)


def scattered(node: Node, g: Tensor, read: Callable[[Tensor], Tensor], write: Callable[[Tensor, Tensor, str], Tensor]) -> Gradients:
    """y = x, y[i] = u: du = g[i], dx = g, but 0 where x was overwritten; y[i] += u: dx = g; y[i] = max(y[i], u), or min: as Max of
    all that meet in an element; y[i] *= u: each times the product of the others"""
    x, updates, reduction = node[0], node[2], node.attribute("reduction")
    if reduction == "none":
        return (write(g, updates.zeros(), "none"), None, read(g))
    if reduction == "add":
        return (g, None, read(g))
    if reduction in ("max", "min"):
        kept, chosen = x.equals(node.y).cast(g), updates.equals(read(node.y)).cast(g)
        share = g / write(kept, chosen, "add")
        return (share * kept, None, read(share) * chosen)
    zero = updates.equals(0.0)
    others, zeros = where(zero, updates.beside(1.0), updates), write(x.zeros(), zero.cast(g), "add")
    alone = read(zeros).equals(zero.cast(g)).cast(g)  # no factor beside this one is zero
    dx = write(g, updates, "mul")
    return (dx, None, read(write(g * x, others, "mul")) * alone / others)


RULES: dict[str, Rule] = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
