"""The window of a convolution or of pooling, in any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.autodiff.builder import Tensor
from onnx_reconvene.autodiff.node import Node


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

    @property
    def unpadded(self) -> Window:
        """The window over an input that is padded already."""
        totals = zip(self.before, self.size, self.after, strict=True)
        return replace(self, size=tuple(map(sum, totals)), before=(0,) * len(self.size))

    def padded(self, x: Tensor) -> Tensor:
        """Return x with just the padding that windows see."""
        return x.pad([0, 0, *self.before], [0, 0, *self.after])

    def met(self, x: Tensor, g: Tensor, tap: Sequence[int], axis: int) -> tuple[Tensor, Tensor] | None:
        """Return the parts of the input x and of the output's gradient g that meet at an element of the kernel, given its place
        along the first spatial axes, which start at axis in both; None where it meets padding alone."""
        axes, strides = range(axis, axis + len(tap)), self.strides[: len(tap)]
        shifts = [d * t - b for d, t, b in zip(self.dilations, tap, self.before, strict=False)]
        first = [max(0, -(shift // s)) for shift, s in zip(shifts, strides, strict=True)]
        last = [min(o - 1, (n - 1 - shift) // s) for o, n, shift, s in zip(self.steps, self.size, shifts, strides, strict=False)]
        if any(a > z for a, z in zip(first, last, strict=True)):
            return None
        starts = [s * a + shift for a, s, shift in zip(first, strides, shifts, strict=True)]
        ends = [s * z + shift + 1 for z, s, shift in zip(last, strides, shifts, strict=True)]
        return x.slice(starts, ends, axes, strides), g.slice(first, [z + 1 for z in last], axes, [1] * len(tap))

    def meetings(self, axes: Sequence[int]) -> NDArray[np.float32]:
        """Return which element of the kernel brings an output and an input together, along some spatial axes: 1 for each triple
        [output, input, element], 0 elsewhere."""
        found = np.ones((1, 1, 1), np.float32)
        for axis in axes:
            o, n, k = np.ogrid[: self.steps[axis], : self.size[axis], : self.kernel[axis]]
            meet = o * self.strides[axis] + k * self.dilations[axis] - self.before[axis] == n
            found = np.kron(found, meet.astype(np.float32))
        return found


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


def convolved(x: Tensor, w: Tensor, before: Sequence[int], after: Sequence[int], **settings: Any) -> Tensor:
    """Return the convolution of x with w and this padding, which is negative where it crops."""
    if min(*before, *after) < 0:
        x = x.pad([0, 0, *(min(p, 0) for p in before)], [0, 0, *(min(p, 0) for p in after)])
    return x.apply("Conv", w, pads=[max(p, 0) for p in (*before, *after)], **settings)
