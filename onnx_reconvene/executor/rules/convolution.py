"""Convolution, and the windows that it shares with pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator, Settings
from onnx_reconvene.executor.rules.activations import activation

CONVOLUTIONS: list[Callable[..., Tensor]] = [F.conv1d, F.conv2d, F.conv3d]
TRANSPOSED: list[Callable[..., Tensor]] = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]


@dataclass(frozen=True)
class Window:
    """A window that slides over an image: per spatial axis its size, steps, and the padding before and after."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    @property
    def spans(self) -> list[int]:
        """How many elements each window covers, from the first to the last."""
        return [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]

    @property
    def is_even(self) -> bool:
        """Whether there is as much padding after as before, and none of it negative."""
        return self.before == self.after and min(self.before) >= 0

    def pad(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Return x with the padding around it."""
        return F.pad(x, spatial_pads(self.before, self.after), value=value)


def spatial_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the pads of spatial axes in the order of torch: the last axis first."""
    return [size for pair in reversed(list(zip(before, after, strict=True))) for size in pair]


def window(node: Node, x: Tensor, kernel: Sequence[int]) -> Window:
    """Return the window of a node over an input [n, c, ...]."""
    rank = len(kernel)
    strides = list(node.attribute("strides") or [1] * rank)
    dilations = list(node.attribute("dilations") or [1] * rank)
    pads = list(node.attribute("pads") or [0] * 2 * rank)
    auto = node.attribute("auto_pad", "NOTSET")
    slide = Window(list(kernel), strides, dilations, pads[:rank], pads[rank:])
    if auto in ("NOTSET", "", "VALID"):
        return slide if auto != "VALID" else Window(list(kernel), strides, dilations, [0] * rank, [0] * rank)
    totals = [max((-(-n // s) - 1) * s + span - n, 0) for n, s, span in zip(x.shape[2:], strides, slide.spans, strict=True)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return Window(list(kernel), strides, dilations, *((small, large) if auto == "SAME_UPPER" else (large, small)))


def conv(node: Node) -> Function:
    """x[n,i,...] * w[o,i/g,...] + b[o] -> y[n,o,...]; if fused, plus z, then an activation"""
    groups, finish = node.attribute("group", 1), activation(node)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        slide = window(node, x, w.shape[2:])
        convolve = CONVOLUTIONS[w.dim() - 3]
        if slide.is_even:
            y = convolve(x, w, b, slide.strides, slide.before, slide.dilations, groups)
        else:
            y = convolve(slide.pad(x), w, b, slide.strides, 0, slide.dilations, groups)
        return finish(y if z is None else y + z)

    return run


def conv_transpose(node: Node) -> Function:
    """y[n,o,...] with x[n,i,...] the convolution of y with w[i,o/g,...], but for the bias"""
    groups, extra, asked = node.attribute("group"), node.attribute("output_padding"), node.attribute("output_shape")

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        slide, rank = window(node, x, w.shape[2:]), w.dim() - 2
        more = list(extra or [0] * rank)
        full = [(n - 1) * s + span for n, s, span in zip(x.shape[2:], slide.strides, slide.spans, strict=True)]
        before, after = _cropped(node, slide, full, more, x.shape[2:], asked)
        convolve = TRANSPOSED[rank - 1]
        fits = all(m < max(s, d) for m, s, d in zip(more, slide.strides, slide.dilations, strict=True))
        if fits and before == after and min(before) >= 0:
            return convolve(x, w, b, slide.strides, before, more, groups, slide.dilations)
        y = convolve(x, w, None, slide.strides, 0, 0, groups, slide.dilations)
        y = F.pad(y, spatial_pads([-k for k in before], [m - k for m, k in zip(more, after, strict=True)]))
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    return run


def _cropped(
    node: Node, slide: Window, full: list[int], more: list[int], sizes: Sequence[int], asked: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Return how much a transposed convolution loses at the beginning and the end of each axis, output padding not counted."""
    auto = node.attribute("auto_pad")
    if asked is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        return slide.before, slide.after
    target = asked or [n * s for n, s in zip(sizes, slide.strides, strict=True)]
    totals = [f + m - t for f, m, t in zip(full, more, target[-len(full) :], strict=True)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def col2im(node: Node) -> Function:
    """y = the sum of overlapping blocks x[n, c * prod(block), l] at their places in an image [n, c, ...]"""
    strides, dilations, pads = (node.attribute(name) for name in ("strides", "dilations", "pads"))

    def run(x: Tensor, image: Settings, block: Settings) -> Tensor:
        rank = len(image)
        if rank > 2:
            raise node.unsupported(f"{rank} spatial axes")

        def plane(values: Sequence[int] | None, other: int) -> list[int]:
            """Return values along two axes: a series is an image of one row."""
            return [other] * (2 - rank) + list([other] * rank if values is None else values)

        begin, end = plane(pads and pads[:rank], 0), plane(pads and pads[rank:], 0)
        padded = [n + a + b for n, a, b in zip(plane(image, 1), begin, end, strict=True)]
        y = F.fold(x, padded, plane(block, 1), plane(dilations, 1), 0, plane(strides, 1))
        y = F.pad(y, spatial_pads([-p for p in begin], [-p for p in end]))
        return y.squeeze(2) if rank == 1 else y

    return run


RULES: dict[str, Operator] = {
    "Col2Im": Operator(col2im, host=(1, 2)),
    "Conv": Operator(conv),
    "ConvTranspose": Operator(conv_transpose),
    "com.microsoft.FusedConv": Operator(conv),
}
