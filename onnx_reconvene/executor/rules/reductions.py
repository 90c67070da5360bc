"""Sums and the like over axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnx_reconvene.executor.node import Function, Node, Operator, Settings


def over_axes(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """Return the operator that reduces axes: if none are named all, or each element for itself if noop_with_empty_axes is set."""

    def rule(node: Node) -> Function:
        fixed, keep = node.attribute("axes"), bool(node.attribute("keepdims"))
        nothing = bool(node.attribute("noop_with_empty_axes", 0))

        def run(x: Tensor, axes: Settings | None = None) -> Tensor:
            named = fixed if axes is None else axes
            if not named and nothing:
                return function(x.unsqueeze(0), [0], False)
            return function(x, named or list(range(x.dim())), keep)

        return run

    return Operator(rule, host=(1,))


def mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return the means over axes; of integers, towards zero."""
    return x.mean(axes, keep) if x.is_floating_point() else x.to(torch.float64).mean(axes, keep).to(x.dtype)


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Return the products over axes."""
    for axis in sorted((axis % max(x.dim(), 1) for axis in axes), reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def extreme(integral: Callable[..., Tensor]) -> Callable[[Tensor, list[int], bool], Tensor]:
    """Return the reduction to the largest or smallest, of truth values too."""

    def run(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.dtype is torch.bool:
            return integral(x.to(torch.uint8), axes, keep).to(torch.bool)
        return integral(x, axes, keep)

    return run


def norm(order: int) -> Callable[[Tensor, list[int], bool], Tensor]:
    """Return the reduction to (sum |x|^p)^(1/p)."""

    def run(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.is_floating_point():
            return torch.linalg.vector_norm(x, order, axes, keep)
        return torch.linalg.vector_norm(x.to(torch.float64), order, axes, keep).to(x.dtype)

    return run


def cumulative(function: Callable[..., Tensor], neutral: float) -> Operator:
    """Return the operator that combines each element with those before it along an axis."""

    def rule(node: Node) -> Function:
        exclusive, backwards = bool(node.attribute("exclusive")), bool(node.attribute("reverse"))

        def run(x: Tensor, axis: Settings) -> Tensor:
            along = axis[0]
            x = x.flip(along) if backwards else x
            y = function(x, along, dtype=x.dtype)
            if exclusive:
                first = torch.full_like(y.narrow(along, 0, 1), neutral)
                y = torch.cat([first, y.narrow(along, 0, y.shape[along] - 1)], along)
            return y.flip(along) if backwards else y

        return run

    return Operator(rule, host=(1,))


RULES: dict[str, Operator] = {
    "CumProd": cumulative(torch.cumprod, 1),
    "CumSum": cumulative(torch.cumsum, 0),
    "ReduceL1": over_axes(norm(1)),
    "ReduceL2": over_axes(norm(2)),
    "ReduceLogSum": over_axes(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": over_axes(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": over_axes(extreme(torch.amax)),
    "ReduceMean": over_axes(mean),
    "ReduceMin": over_axes(extreme(torch.amin)),
    "ReduceProd": over_axes(product),
    "ReduceSum": over_axes(lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype)),
    "ReduceSumSquare": over_axes(lambda x, axes, keep: (x * x).sum(axes, keep, dtype=x.dtype)),
}
