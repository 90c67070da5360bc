"""Pooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator
from onnx_reconvene.executor.rules.convolution import Window, spatial_pads, window

MAXIMA: list[Callable[..., Tensor]] = [F.max_pool1d, F.max_pool2d, F.max_pool3d]
AVERAGES: list[Callable[..., Tensor]] = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d]


def fits_torch(slide: Window) -> bool:
    """Return True if torch pools with this padding."""
    return slide.is_even and all(2 * pad <= kernel for pad, kernel in zip(slide.before, slide.kernel, strict=True))


def windows(x: Tensor, slide: Window, ceil: bool, fill: float) -> Tensor:
    """Return [n, c, windows..., kernel...]: what every window sees of x [n, c, ...], fill where it reaches beyond."""
    after = list(slide.after)
    for axis, (size, span, step) in enumerate(zip(x.shape[2:], slide.spans, slide.strides, strict=True)):
        short = (span - size - slide.before[axis] - after[axis]) % step  # of what a last, partial window needs
        if ceil and short and size + slide.before[axis] + after[axis] + short - span < size + slide.before[axis]:
            after[axis] += short
    x = F.pad(x, spatial_pads(slide.before, after), value=fill)
    for axis, (span, step) in enumerate(zip(slide.spans, slide.strides, strict=True)):
        x = x.unfold(2 + axis, span, step)
    return x[(..., *(slice(None, None, d) for d in slide.dilations))]


def seen(slide: Window) -> list[int]:
    """Return the axes of a window in what `windows` returns."""
    return list(range(-len(slide.kernel), 0))


def max_pool(node: Node) -> Function:
    """y, i = the largest of each window, and where in x it was"""
    kernel, ceil = node.attribute("kernel_shape"), bool(node.attribute("ceil_mode", 0))
    indexed = len(node.outputs) > 1 and bool(node.outputs[1])

    def run(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        slide = window(node, x, kernel)
        if indexed:
            return _with_indices(node, x, slide, ceil)
        if fits_torch(slide):
            return MAXIMA[len(kernel) - 1](x, kernel, slide.strides, slide.before, slide.dilations, ceil)
        lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        return windows(x, slide, ceil, lowest).amax(seen(slide))

    return run


def _with_indices(node: Node, x: Tensor, slide: Window, ceil: bool) -> tuple[Tensor, Tensor]:
    if node.attribute("storage_order", 0):
        raise node.unsupported("storage_order 1")
    found = windows(x, slide, ceil, -torch.inf).flatten(-len(slide.kernel))
    places = torch.arange(x.numel(), dtype=torch.float64, device=x.device).reshape(x.shape)
    y, best = found.max(-1, keepdim=True)
    flat = windows(places, slide, ceil, 0).flatten(-len(slide.kernel))
    return y.squeeze(-1), flat.gather(-1, best).squeeze(-1).to(torch.int64)


def average_pool(node: Node) -> Function:
    """y = the mean of each window; padding is left out, or counts as zeros if count_include_pad is set"""
    kernel, ceil = node.attribute("kernel_shape"), bool(node.attribute("ceil_mode", 0))
    padding_counts = bool(node.attribute("count_include_pad", 0))

    def run(x: Tensor) -> Tensor:
        slide = window(node, x, kernel)
        if fits_torch(slide) and set(slide.dilations) == {1}:
            return AVERAGES[len(kernel) - 1](x, kernel, slide.strides, slide.before, ceil, padding_counts)
        ones = torch.ones_like(x[:1, :1])
        if padding_counts:
            x, ones = slide.pad(x), slide.pad(ones, 1.0)
            slide = Window(slide.kernel, slide.strides, slide.dilations, [0] * len(kernel), [0] * len(kernel))
        return windows(x, slide, ceil, 0).sum(seen(slide)) / windows(ones, slide, ceil, 0).sum(seen(slide))

    return run


def lp_pool(node: Node) -> Function:
    """y = (sum |x|^p)^(1/p) over each window"""
    kernel, p, ceil = node.attribute("kernel_shape"), float(node.attribute("p")), bool(node.attribute("ceil_mode", 0))

    def run(x: Tensor) -> Tensor:
        slide = window(node, x, kernel)
        return torch.linalg.vector_norm(windows(x, slide, ceil, 0), p, seen(slide))

    return run


def global_average_pool(node: Node) -> Function:
    """y = the mean of x over space"""
    return lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(node: Node) -> Function:
    """y = the largest of x over space"""
    return lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)


def global_lp_pool(node: Node) -> Function:
    """y = (sum |x|^p)^(1/p) over space"""
    p = float(node.attribute("p"))
    return lambda x: torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)


RULES: dict[str, Operator] = {
    "AveragePool": Operator(average_pool),
    "GlobalAveragePool": Operator(global_average_pool),
    "GlobalLpPool": Operator(global_lp_pool),
    "GlobalMaxPool": Operator(global_max_pool),
    "LpPool": Operator(lp_pool),
    "MaxPool": Operator(max_pool),
}
