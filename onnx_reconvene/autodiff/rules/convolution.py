"""Convolutions, in any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from onnx_reconvene.autodiff.builder import Tensor, concat
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients
from onnx_reconvene.autodiff.rules.kernels import to_weight
from onnx_reconvene.autodiff.rules.window import Window, convolved, window

BATCH_FROM = 8  # images; with fewer it takes longer to read the whole matrix of a convolution than to do without
INTERLEAVED_FROM = 16  # channels; with fewer there is too little to copy at once


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


def to_input(g: Tensor, w: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dx of y = conv(x, w), by the way that runs fastest."""
    if is_small(slide, w, g.shape[0]):
        return product_of_maps(g, written_out(w, slide, groups)).reshape(g.shape[0], groups * w.shape[1], *slide.size)
    if set(slide.strides) == {1} and min(*slide.border, *slide.border_after) >= 0:
        settings = {"dilations": slide.dilations, "group": groups}
        return convolved(g, flipped(w, groups), slide.border, slide.border_after, **settings)
    if groups == 1 and max(slide.strides) > 1 and w.shape[1] >= INTERLEAVED_FROM:
        return convolutions_by_phase(g, w, slide)
    if w.shape[:2] == (groups, 1) and max(slide.strides) > 1 and groups >= INTERLEAVED_FROM:
        return convolution_of_spread(g, w, slide)
    settings = {"strides": slide.strides, "dilations": slide.dilations, "group": groups}
    pads = [*slide.before, *(max(p, 0) for p in slide.after)]
    return g.apply("ConvTranspose", w, pads=pads, output_padding=[max(-p, 0) for p in slide.after], **settings)


def convolution_of_spread(g: Tensor, w: Tensor, slide: Window) -> Tensor:
    """Return dx of a depthwise convolution with strides, as one without of g with zeros between its elements."""
    maps = spread(g, slide.strides)
    axes = zip(slide.size, maps.shape[2:], slide.dilations, slide.kernel, slide.border, strict=True)
    after = [n - own + d * (k - 1) - border for n, own, d, k, border in axes]
    return convolved(maps, flipped(w, w.shape[0]), slide.border, after, dilations=slide.dilations, group=w.shape[0])


def spread(g: Tensor, strides: Sequence[int]) -> Tensor:
    """Return g with stride - 1 zeros after each element along its spatial axes; put there with channels last, where there is most
    to copy at once."""
    batch, channels, *size = g.shape
    apart = g.transpose(0, *range(2, g.rank), 1).reshape(batch, *(n for own in size for n in (own, 1)), channels)
    gaps = [0, *(n for stride in strides for n in (0, stride - 1)), 0]
    padded = apart.pad([0] * apart.rank, gaps).reshape(batch, *(n * s for n, s in zip(size, strides, strict=True)), channels)
    return padded.transpose(0, g.rank - 1, *range(1, g.rank - 1))


def convolutions_by_phase(g: Tensor, w: Tensor, slide: Window) -> Tensor:
    """Return dx of an ungrouped convolution with strides. What lies a stride apart meets the same elements of the kernel, so each
    phase of dx is a convolution without strides; they are interleaved with channels last, where there is most to copy at once."""
    space, counts = range(2, g.rank), [-(-n // s) for n, s in zip(slide.size, slide.strides, strict=True)]
    parts = [phase(g, w, slide, offsets, counts).transpose(0, *space, 1) for offsets in product(*map(range, slide.strides))]
    for axis, stride in reversed(list(enumerate(slide.strides, 1))):
        parts = [interleaved(parts[k : k + stride], axis) for k in range(0, len(parts), stride)]
    dx = parts[0].slice([0] * len(counts), slide.size, range(1, g.rank - 1), [1] * len(counts))
    return dx.transpose(0, g.rank - 1, *range(1, g.rank - 1))


def phase(g: Tensor, w: Tensor, slide: Window, offsets: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Return dx at offsets and so many strides on, per spatial axis."""
    axes = zip(offsets, slide.kernel, slide.strides, slide.dilations, slide.before, strict=True)
    taps = [[t for t in range(k) if (a + b - d * t) % s == 0] for a, k, s, d, b in axes]
    if not all(taps):
        return g.builder.full([g.shape[0], w.shape[1], *counts], 0, g.dtype)
    ahead = [a + b for a, b in zip(offsets, slide.before, strict=True)]
    scales = [math.gcd(s, d) for s, d in zip(slide.strides, slide.dilations, strict=True)]
    moves = list(zip(ahead, taps, slide.dilations, slide.strides, strict=True))
    before = [-((a - d * own[-1]) // s) for a, own, d, s in moves]
    after = [(a - d * own[0]) // s + n - o for (a, own, d, s), n, o in zip(moves, counts, slide.steps, strict=True)]
    ends = [own[0] - 1 if own[0] else -(2**63) for own in taps]
    steps = [-(s // scale) for s, scale in zip(slide.strides, scales, strict=True)]
    kernel = w.slice([own[-1] for own in taps], ends, range(2, w.rank), steps).transpose(1, 0, *range(2, w.rank))
    return convolved(g, kernel, before, after, dilations=[d // scale for d, scale in zip(slide.dilations, scales, strict=True)])


def interleaved(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Return the elements of parts along axis in turns."""
    shape = parts[0].shape
    rows = [part.reshape(math.prod(shape[: axis + 1]), -1) for part in parts]
    return concat(rows, 1).reshape(*shape[:axis], shape[axis] * len(parts), *shape[axis + 1 :])


def is_small(slide: Window, w: Tensor, batch: int) -> bool:
    """Return True if to write a convolution out as a matrix: where this is no more than twice as large as the kernel, as on maps of
    few positions, and read for enough images. One matrix for each channel would be too small to be worth leaving the layout of
    convolutions for."""
    pairs = math.prod(slide.steps) * math.prod(slide.size)
    return w.shape[1] > 1 and pairs <= 2 * math.prod(slide.kernel) and batch >= BATCH_FROM


def written_out(w: Tensor, slide: Window, groups: int) -> Tensor:
    """Return, per group, the convolution with w as a matrix [all of y, all of x]."""
    outputs, inputs = w.shape[0] // groups, w.shape[1]
    steps, sizes = math.prod(slide.steps), math.prod(slide.size)
    meetings = slide.meetings(range(len(slide.size))).reshape(steps * sizes, -1)
    spread = (w.reshape(-1, meetings.shape[1]) @ w.beside(meetings.T)).reshape(groups, outputs, inputs, steps, sizes)
    return spread.transpose(0, 1, 3, 2, 4).reshape(groups, outputs * steps, inputs * sizes)


def product_of_maps(x: Tensor, matrices: Tensor) -> Tensor:
    """Return all of x[n,...] times the matrix of each group, [n, groups * columns]."""
    batch, groups = x.shape[0], matrices.shape[0]
    if groups == 1:  # a product that onnxruntime prepares its constant side for
        return x.reshape(batch, -1) @ matrices.reshape(*matrices.shape[1:])
    maps = x.reshape(batch, groups, -1).transpose(1, 0, 2)
    return (maps @ matrices).transpose(1, 0, 2).reshape(batch, -1)


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


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose}
