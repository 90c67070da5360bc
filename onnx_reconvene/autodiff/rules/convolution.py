"""Convolutions, in any number of spatial dimensions."""

from __future__ import annotations

import math

from onnx_reconvene.autodiff.builder import Tensor
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients
from onnx_reconvene.autodiff.rules.kernels import to_weight
from onnx_reconvene.autodiff.rules.window import Window, convolved, window

BATCH_FROM = 8  # images; with fewer it takes longer to read the whole matrix of a convolution than to do without


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
    if math.prod(slide.size) <= math.prod(slide.kernel) and g.shape[0] >= BATCH_FROM:
        return product_of_maps(g, w, slide, groups)
    if set(slide.strides) == {1} and min(*slide.border, *slide.border_after) >= 0:
        settings = {"dilations": slide.dilations, "group": groups}
        return convolved(g, flipped(w, groups), slide.border, slide.border_after, **settings)
    settings = {"strides": slide.strides, "dilations": slide.dilations, "group": groups}
    pads = [*slide.before, *(max(p, 0) for p in slide.after)]
    return g.apply("ConvTranspose", w, pads=pads, output_padding=[max(-p, 0) for p in slide.after], **settings)


def product_of_maps(g: Tensor, w: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dx as a product of matrices: all of g, per image and group, with the convolution written out as [all of g, all of x].
    For maps so small that this is no more arithmetic."""
    batch, positions, sizes = g.shape[0], math.prod(slide.steps), math.prod(slide.size)
    outputs, inputs = w.shape[0] // groups, w.shape[1]
    meetings = slide.meetings(range(len(slide.size))).reshape(positions * sizes, -1)
    spread = (w.reshape(-1, meetings.shape[1]) @ w.beside(meetings.T)).reshape(groups, outputs, inputs, positions, sizes)
    matrices = spread.transpose(0, 1, 3, 2, 4).reshape(groups, outputs * positions, inputs * sizes)
    if groups == 1:  # a product that onnxruntime prepares its constant side for
        return (g.reshape(batch, -1) @ matrices.reshape(*matrices.shape[1:])).reshape(batch, inputs, *slide.size)
    maps = g.reshape(batch, groups, outputs * positions).transpose(1, 0, 2)
    return (maps @ matrices).transpose(1, 0, 2).reshape(batch, groups * inputs, *slide.size)


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
