"""What picks elements by position, or puts them there. Positions below zero count from the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnx_reconvene.executor.node import Function, Node, Operator, Settings

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}  # ONNX's names, and torch's


def from_front(indices: Tensor, size: int) -> Tensor:
    """Return indices counted from the front."""
    return torch.where(indices < 0, indices + size, indices).to(torch.int64)


def gather(node: Node) -> Function:
    """y[..., i, ...] = x[..., indices[i], ...]"""
    axis = node.attribute("axis")

    def run(x: Tensor, indices: Tensor) -> Tensor:
        flat = from_front(indices.reshape(-1), x.shape[axis])
        y = x.index_select(axis, flat)
        return y if indices.dim() == 1 else y.unflatten(axis, indices.shape) if indices.dim() else y.squeeze(axis)

    return run


def gather_elements(node: Node) -> Function:
    """y[i, j] = x[indices[i, j], j], for axis 0"""
    axis = node.attribute("axis")
    return lambda x, indices: x.gather(axis, from_front(indices, x.shape[axis]))


def gather_nd(node: Node) -> Function:
    """y[b, i] = x[b, indices[b, i, 0], indices[b, i, 1], ...]"""
    batch = node.attribute("batch_dims", 0)
    return lambda x, indices: x[places(x, indices, batch)]


def places(x: Tensor, indices: Tensor, batch: int = 0) -> tuple[Tensor, ...]:
    """Return the index into x that indices [batch..., ..., depth] means."""
    rank = indices.dim() - 1
    own = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1 if k == axis else 1 for k in range(rank)]) for axis in range(batch)
    ]
    return (*own, *(from_front(index, x.shape[batch + k]) for k, index in enumerate(indices.unbind(-1))))


def scatter_elements(node: Node) -> Function:
    """y = x, but y[indices[i, j], j] = updates[i, j], for axis 0; or combined with what is there"""
    axis, reduction = node.attribute("axis"), node.attribute("reduction", "none")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        index = from_front(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, index, updates)
        return x.scatter_reduce(axis, index, updates, REDUCTIONS[reduction])

    return run


def scatter_nd(node: Node) -> Function:
    """y = x, but y[indices[i, 0], indices[i, 1], ...] = updates[i]; or combined with what is there"""
    reduction = node.attribute("reduction", "none")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        if reduction == "none":
            return x.index_put(places(x, indices), updates)
        if reduction == "add":
            return x.index_put(places(x, indices), updates, accumulate=True)
        outer = x.shape[: indices.shape[-1]]
        numbers = torch.arange(math.prod(outer), device=x.device).reshape(outer)[places(x, indices)].reshape(-1)
        rows, new = x.reshape(math.prod(outer), -1), updates.reshape(numbers.numel(), -1)
        return rows.scatter_reduce(0, numbers[:, None].expand_as(new), new, REDUCTIONS[reduction]).reshape(x.shape)

    return run


def one_hot(node: Node) -> Function:
    """y = on where the position along a new axis is the index, off elsewhere"""
    axis = node.attribute("axis")

    def run(indices: Tensor, depth: Settings, values: Tensor) -> Tensor:
        size = depth[0]
        index = from_front(indices, size).unsqueeze(axis)
        place = torch.arange(size, device=indices.device)
        shape = [1] * index.dim()
        shape[axis] = size
        return torch.where(index == place.reshape(shape), values[1], values[0])

    return run


def top_k(node: Node) -> Function:
    """y, i = the k largest or smallest along an axis in order, and where they were; of equal ones the first"""
    axis, largest, fixed = node.attribute("axis"), bool(node.attribute("largest", 1)), node.attribute("k")

    def run(x: Tensor, k: Settings | None = None) -> tuple[Tensor, ...]:
        count = fixed if k is None else k[0]
        return tuple(t.narrow(axis, 0, count) for t in torch.sort(x, dim=axis, descending=largest, stable=True))

    return run


def arg_extreme(node: Node) -> Function:
    """y = where along an axis the largest or smallest is, the first or the last of equal ones"""
    axis, keep, last = (node.attribute(name) for name in ("axis", "keepdims", "select_last_index"))
    function = torch.argmax if node.op == "ArgMax" else torch.argmin

    def run(x: Tensor) -> Tensor:
        if last:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, bool(keep))
        return function(x, axis, bool(keep))

    return run


def non_zero(node: Node) -> Function:
    """y[axis, i] = where the i-th element that is not 0 is"""
    return lambda x: x.nonzero().t()


def compress(node: Node) -> Function:
    """y = the slices of x along an axis where the condition holds"""
    axis = node.attribute("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        chosen = condition.nonzero().reshape(-1)
        return x.reshape(-1).index_select(0, chosen) if axis is None else x.index_select(axis, chosen)

    return run


def unique(node: Node) -> Function:
    """y, first, inverse, counts = the different elements, or slices along an axis, sorted or in the order they come"""
    axis, is_sorted = node.attribute("axis"), node.attribute("sorted")

    def run(x: Tensor) -> tuple[Tensor, ...]:
        y, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
        along = 0 if axis is None else axis
        inverse = inverse.reshape(-1)
        position = torch.arange(inverse.numel(), device=x.device)
        first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, position, "amin")
        if is_sorted:
            return y, first, inverse, counts
        order = first.argsort()
        return y.index_select(along, order), first[order], order.argsort()[inverse], counts[order]

    return run


RULES: dict[str, Operator] = {
    "ArgMax": Operator(arg_extreme),
    "ArgMin": Operator(arg_extreme),
    "Compress": Operator(compress, varies=True),
    "Gather": Operator(gather),
    "GatherElements": Operator(gather_elements),
    "GatherND": Operator(gather_nd),
    "NonZero": Operator(non_zero, varies=True),
    "OneHot": Operator(one_hot, host=(1,)),
    "Scatter": Operator(scatter_elements),
    "ScatterElements": Operator(scatter_elements),
    "ScatterND": Operator(scatter_nd),
    "TopK": Operator(top_k, host=(1,)),
    "Unique": Operator(unique, varies=True),
}
