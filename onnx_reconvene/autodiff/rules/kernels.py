"""The gradient of the kernel of a convolution: dw of y = conv(x, w), for x[n,i,...] and g = dL/dy[n,o,...], in several forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

from onnx_reconvene.autodiff.builder import Tensor, concat
from onnx_reconvene.autodiff.rules.window import Window, convolved

GEMM_FROM = 16  # input channels per group; with fewer the matrix products are too thin to be worth slicing for
PAIRS_FROM = 64  # positions of a depthwise window, over the batch; with fewer one convolution takes less time than many nodes


def to_weight(x: Tensor, g: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dw of y = conv(x, w), by the way that runs fastest."""
    batch, inputs, outputs = x.shape[0], x.shape[1] // groups, g.shape[1] // groups
    positions = math.prod(slide.steps)
    paired = axes_to_pair(slide, batch)
    if inputs == outputs == 1 and paired and batch * positions >= PAIRS_FROM:
        return products_of_positions(x, g, slide, paired)
    if inputs < GEMM_FROM:
        return convolution_over_batch(x, g, slide, groups)
    if groups == 1 and positions <= min(inputs, outputs):
        return products_with_channels_last(x, g, slide)
    return products_of_images(x, g, slide, groups)


def convolution_over_batch(x: Tensor, g: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dw as a convolution of x with g, for which batch and channels, and strides and dilations, change places."""
    space = range(2, x.rank)
    batch, channels = x.shape[:2]
    blocks = x.reshape(batch, groups, channels // groups, *x.shape[2:]).transpose(2, 1, 0, *(axis + 1 for axis in space))
    inputs = blocks.reshape(channels // groups, groups * batch, *x.shape[2:])
    settings = {"strides": slide.dilations, "dilations": slide.strides, "group": groups}
    dw = convolved(inputs, g.transpose(1, 0, *space), slide.before, slide.after, **settings)
    return dw.transpose(1, 0, *space)


def products_with_channels_last(x: Tensor, g: Tensor, slide: Window) -> Tensor:
    """Return dw of an ungrouped convolution: per tap, the product of the matrices [positions, channels] of what meets there.
    For small maps, whose borders are a good part of them."""
    last = [0, *range(2, x.rank), 1]
    x, g = x.transpose(*last), g.transpose(*last)
    inputs, outputs = x.shape[-1], g.shape[-1]

    def product_at(seen: Tensor, by: Tensor) -> Tensor:
        return by.reshape(-1, outputs).apply("Gemm", seen.reshape(-1, inputs), transA=1)

    return from_taps(x, g, slide, 1, (outputs, inputs), product_at)


def products_of_images(x: Tensor, g: Tensor, slide: Window, groups: int) -> Tensor:
    """Return dw: per tap, the sum over images of the product of the matrices [channels, positions] of what meets there. For large
    maps, which stay as they lie."""
    batch, inputs, outputs = x.shape[0], x.shape[1] // groups, g.shape[1] // groups

    def product_at(seen: Tensor, by: Tensor) -> Tensor:
        left, right = by.reshape(batch, groups, outputs, -1), seen.reshape(batch, groups, inputs, -1)
        return (left @ right.transpose(0, 1, 3, 2)).sum([0])

    return from_taps(slide.padded(x), g, slide.unpadded, 2, (groups * outputs, inputs), product_at)


def from_taps(
    x: Tensor, g: Tensor, slide: Window, axis: int, shape: tuple[int, int], product_at: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return dw put together of the matrices of this shape, [outputs, inputs], that come of what meets at each tap; spatial axes
    start at axis."""
    met = [slide.met(x, g, tap, axis) for tap in product(*map(range, slide.kernel))]
    parts = [product_at(*pair).reshape(1, *shape) if pair else g.builder.full([1, *shape], 0, g.dtype) for pair in met]
    return concat(parts, 0).transpose(1, 2, 0).reshape(*shape, *slide.kernel)


def axes_to_pair(slide: Window, batch: int) -> Sequence[int]:
    """Return all spatial axes, or the last, or none: those for which there are no more pairs of an output and an input position
    along them than there are such positions in a batch."""
    axes = range(len(slide.size))
    for own in (axes, axes[-1:]):
        steps, sizes = (math.prod(count[axis] for axis in own) for count in (slide.steps, slide.size))
        if steps * sizes <= batch * math.prod(slide.steps[: own[0]]) * (steps + sizes):
            return own
    return ()


def products_of_positions(x: Tensor, g: Tensor, slide: Window, paired: Sequence[int]) -> Tensor:
    """Return dw of a depthwise convolution: per channel and tap along the axes that are not paired, the products of all positions
    of g with all of x along those that are, summed over those that the tap brings together. More arithmetic than needed, but as
    matrix products."""
    channels, space, free = x.shape[1], range(2, x.rank), slide.kernel[: paired[0]]
    x, g = x.transpose(1, 0, *space), g.transpose(1, 0, *space)
    steps, sizes = (math.prod(count[axis] for axis in paired) for count in (slide.steps, slide.size))
    chosen = x.beside(slide.meetings(paired).reshape(steps * sizes, -1))
    parts = []
    for tap in product(*map(range, free)):
        pair = slide.met(x, g, tap, 2)
        if pair:
            left, right = pair[1].reshape(channels, -1, steps), pair[0].reshape(channels, -1, sizes)
            parts.append((left.transpose(0, 2, 1) @ right).reshape(channels, -1) @ chosen)
        else:
            parts.append(x.builder.full([channels, chosen.shape[1]], 0, x.dtype))
    return concat(parts, 1).reshape(channels, 1, *slide.kernel)
