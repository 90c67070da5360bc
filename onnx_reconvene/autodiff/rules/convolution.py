"""Convolutions, in any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from onnx_reconvene.autodiff.builder import Tensor, concat
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients

GEMM_FROM = 16  # input channels per group; with fewer the matrix products are too thin to be worth slicing for
DIAGONALS_FROM = 64  # positions of a depthwise window, over the batch; with fewer one convolution takes less time than many nodes


@dataclass(frozen=True)
class Window:
    """A window that slides over an input of `size` and stands at `steps` positions, per spatial axis."""

    size: tuple[int, ...]
    steps: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]  # rows of padding

    @property
    def after(self) -> tuple[int, ...]:
        """Rows of padding at the end that windows do see; a negative number of rows is that of those no window sees."""
        axes = zip(self.size, self.steps, self.kernel, self.strides, self.dilations, self.before, strict=True)
        return tuple(s * (o - 1) + d * (k - 1) + 1 - n - b for n, o, k, s, d, b in axes)

    @property
    def border(self) -> tuple[int, ...]:
        """The rows that the other way of sliding, from outputs to inputs, would have as padding."""
        return tuple(d * (k - 1) - b for d, k, b in zip(self.dilations, self.kernel, self.before, strict=True))

    @property
    def border_after(self) -> tuple[int, ...]:
        """As border, at the end."""
        return tuple(d * (k - 1) - a for d, k, a in zip(self.dilations, self.kernel, self.after, strict=True))

    def padded(self, x: Tensor) -> Tensor:
        """Return x with just the padding that windows see."""
        return x.pad([0, 0, *self.before], [0, 0, *self.after])

    def taps(self, padded: Tensor) -> Iterator[Tensor]:
        """Yield, per element of the kernel, what of the padded input it meets."""
        return self._meets(padded, len(self.kernel))

    def rows(self, padded: Tensor) -> Iterator[Tensor]:
        """Yield, per row of the kernel, what of the padded input it meets, each column of it."""
        return self._meets(padded, len(self.kernel) - 1)

    def _meets(self, padded: Tensor, axes: int) -> Iterator[Tensor]:
        for tap in product(*map(range, self.kernel[:axes])):
            starts = [d * t for d, t in zip(self.dilations, tap, strict=False)]
            ends = [a + s * (o - 1) + 1 for a, s, o in zip(starts, self.strides, self.steps, strict=False)]
            yield padded.slice(starts, ends, range(2, axes + 2), self.strides[:axes]) if axes else padded


def window(node: Node, size: Sequence[int], steps: Sequence[int], kernel: Sequence[int]) -> Window:
    """Return the window of a convolution or pooling node that slides over size and makes steps, or the other way round."""
    ones = [1] * len(size)
    strides = node.attribute("strides") or ones
    dilations = node.attribute("dilations") or ones
    pads = node.attribute("pads") or [0] * 2 * len(size)
    found = Window(tuple(size), tuple(steps), tuple(kernel), tuple(strides), tuple(dilations), (0,) * len(size))
    auto = node.attribute("auto_pad")
    if auto in ("SAME_UPPER", "SAME_LOWER") or (node.op == "ConvTranspose" and node.attribute("output_shape")):
        extra = node.attribute("output_padding") or [0] * len(size)
        totals = [max(0, total + more) for total, more in zip(found.after, extra, strict=True)]
        before = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in totals]
    else:
        before = [0] * len(size) if auto == "VALID" else pads[: len(size)]
    return Window(found.size, found.steps, found.kernel, found.strides, found.dilations, tuple(before))


def conv(node: Node, g: Tensor) -> Gradients:
    """y = w * x + b: dx = flipped w * g, dw = x * g, db = sum g"""
    x, w, groups = node[0], node[1], node.attribute("group")
    slide = window(node, x.shape[2:], g.shape[2:], w.shape[2:])
    gradients = (to_input(g, w, slide, groups), to_weight(x, g, slide, groups), channel_sums(g))
    return gradients[: len(node.inputs)]


def conv_transpose(node: Node, g: Tensor) -> Gradients:
    """y = what a convolution with w has as dx for x as its g, plus b: dx = w * g, dw = g * x, db = sum g"""
    x, w, groups = node[0], node[1], node.attribute("group")
    slide = window(node, g.shape[2:], x.shape[2:], w.shape[2:])
    settings = {"strides": slide.strides, "dilations": slide.dilations, "group": groups}
    dx = convolved(g, w, slide.before, slide.after, **settings)
    return (dx, to_weight(g, x, slide, groups), channel_sums(g))[: len(node.inputs)]


def channel_sums(g: Tensor) -> Tensor:
    """Return the sums of g[n,c,...] over all but c."""
    return g.sum([0, *range(2, g.rank)], keepdims=False)


def convolved(x: Tensor, w: Tensor, before: Sequence[int], after: Sequence[int], **settings: Any) -> Tensor:
    """Return the convolution of x with w and this padding, which is negative where it crops."""
    if min(*before, *after) < 0:
        x = x.pad([0, 0, *(min(p, 0) for p in before)], [0, 0, *(min(p, 0) for p in after)])
    return x.apply("Conv", w, pads=[max(p, 0) for p in (*before, *after)], **settings)


def to_input(g: Tensor, w: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dx of y = conv(x, w)."""
    if set(slide.strides) == {1} and min(*slide.border, *slide.border_after) >= 0:
        settings = {"dilations": slide.dilations, "group": groups}
        return convolved(g, flipped(w, groups), slide.border, slide.border_after, **settings)
    settings = {"strides": slide.strides, "dilations": slide.dilations, "group": groups}
    pads = [*slide.before, *(max(p, 0) for p in slide.after)]
    return g.apply("ConvTranspose", w, pads=pads, output_padding=[max(-p, 0) for p in slide.after], **settings)


def flipped(w: Tensor, groups: int) -> Tensor:
    """Return the kernel w[o,i/groups,...] as one from outputs to inputs: [i,o/groups,...], reversed along its spatial axes."""
    outputs, inputs, *kernel = w.shape
    axes = range(len(kernel))
    if groups == 1:
        turned = w.transpose(1, 0, *(axis + 2 for axis in axes))
    else:
        blocks = w.reshape(groups, outputs // groups, inputs, *kernel).transpose(0, 2, 1, *(axis + 3 for axis in axes))
        turned = blocks.reshape(groups * inputs, outputs // groups, *kernel)
    long = [axis + 2 for axis in axes if kernel[axis] > 1]
    if not long:
        return turned
    return turned.slice([-1] * len(long), [-(2**63)] * len(long), long, [-1] * len(long))


def to_weight(x: Tensor, g: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dw of y = conv(x, w), by the way that runs fastest."""
    if groups == 1 and x.shape[1] >= GEMM_FROM:
        return products_per_tap(x, g, slide)
    if groups == x.shape[1] == g.shape[1] and x.shape[0] * math.prod(slide.steps) >= DIAGONALS_FROM:
        return diagonals_per_row(x, g, slide)
    return convolution_over_batch(x, g, slide, groups)


def convolution_over_batch(x: Tensor, g: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dw as a convolution of x with g, for which batch and channels, and strides and dilations, change places."""
    space = range(2, x.rank)
    batch, channels = x.shape[:2]
    blocks = x.reshape(batch, groups, channels // groups, *x.shape[2:]).transpose(2, 1, 0, *(axis + 1 for axis in space))
    inputs = blocks.reshape(channels // groups, groups * batch, *x.shape[2:])
    settings = {"strides": slide.dilations, "dilations": slide.strides, "group": groups}
    dw = convolved(inputs, g.transpose(1, 0, *space), slide.before, slide.after, **settings)
    return dw.transpose(1, 0, *space)


def products_per_tap(x: Tensor, g: Tensor, slide: Window) -> Tensor:
    """Return dw of an ungrouped convolution: per tap, the matrix product of g and what the tap meets."""
    space = range(2, x.rank)
    outputs, inputs = g.shape[1], x.shape[1]
    left = g.transpose(1, 0, *space).reshape(outputs, -1)
    rights = slide.taps(slide.padded(x.transpose(1, 0, *space)))
    parts = [left.apply("Gemm", right.reshape(inputs, -1), transB=1) for right in rights]
    if len(parts) == 1:
        return parts[0].reshape(outputs, inputs, *slide.kernel)
    return concat(parts, 0).reshape(-1, outputs, inputs).transpose(1, 2, 0).reshape(outputs, inputs, *slide.kernel)


def diagonals_per_row(x: Tensor, g: Tensor, slide: Window) -> Tensor:
    """Return dw of a depthwise convolution: per row of the kernel, the products of all columns of x with all columns of g, of
    which the taps of that row are sums along diagonals. More arithmetic than needed, but as matrix products."""
    channels, columns = g.shape[1], slide.steps[-1]
    space = range(2, x.rank)
    right = g.transpose(1, 0, *space).reshape(channels, -1, columns)
    step, dilation = slide.strides[-1] * columns + 1, slide.dilations[-1] * columns
    parts = []
    for rows in slide.rows(slide.padded(x.transpose(1, 0, *space))):
        left = rows.reshape(channels, -1, rows.shape[-1])
        products = (left.transpose(0, 2, 1) @ right).reshape(channels, -1)
        for tap in range(slide.kernel[-1]):
            first = tap * dilation
            diagonal = products.slice([first], [first + step * (columns - 1) + 1], [1], [step])
            parts.append(diagonal.sum([1]))
    return concat(parts, 1).reshape(channels, 1, *slide.kernel)


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose}
