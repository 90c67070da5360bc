"""Operators that read or write at given positions."""

from __future__ import annotations

import numpy as np

from onnx_reconvene.autodiff.builder import Tensor, concat
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


def scatter_elements(node: Node, g: Tensor) -> Gradients:
    """y = x, y[..., i, ...] = u, or += u: du = g[..., i, ...]; dx = g, but 0 where x was overwritten"""
    axis, reduction = node.axis, node.attribute("reduction")
    origin, seen = [0] * g.rank, [g.shape[k] if k == axis else size for k, size in enumerate(node[1].shape)]
    updates = g.slice(origin, seen, range(g.rank), [1] * g.rank).apply("GatherElements", node[1], axis=axis)
    if reduction == "add":
        return (g, None, updates)
    if reduction != "none":
        raise node.no_derivative(f"reduction {reduction}")
    return (g.apply("ScatterElements", node[1], node[2].zeros(), axis=axis), None, updates)


def scatter_nd(node: Node, g: Tensor) -> Gradients:
    """y = x, y[i] = u, or += u: du = g[i]; dx = g, but 0 where x was overwritten"""
    reduction = node.attribute("reduction")
    updates = g.apply("GatherND", node[1])
    if reduction == "add":
        return (g, None, updates)
    if reduction != "none":
        raise node.no_derivative(f"reduction {reduction}")
    return (g.apply("ScatterND", node[1], node[2].zeros()), None, updates)


RULES: dict[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
