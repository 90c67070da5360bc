"""What moves elements without computing."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator, Settings
from onnx_reconvene.shapes import as_slice


def reshape(node: Node) -> Function:
    """y = the elements of x in another shape; 0 stands for the size that x has there, -1 for what remains"""
    fixed, zero_is_size = node.attribute("shape"), bool(node.attribute("allowzero", 0))

    def run(x: Tensor, shape: Settings | None = None) -> Tensor:
        sizes = fixed if shape is None else shape
        if not zero_is_size and 0 in sizes:
            sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


def flatten(node: Node) -> Function:
    """y = x as a matrix, its rows being the axes before axis"""
    axis = node.attribute("axis")

    def run(x: Tensor) -> Tensor:
        rows = math.prod(x.shape[: axis + x.dim() if axis < 0 else axis])
        return x.reshape(rows, x.numel() // rows if rows else -1)

    return run


def transpose(node: Node) -> Function:
    """y = x with its axes in another order, by default reversed"""
    perm = node.attribute("perm")
    return lambda x: x.permute(perm or list(reversed(range(x.dim()))))


def squeeze(node: Node) -> Function:
    """y = x without axes of size 1"""
    fixed = node.attribute("axes")

    def run(x: Tensor, axes: Settings | None = None) -> Tensor:
        named = fixed if axes is None else axes
        return x.squeeze() if named is None else x.squeeze(tuple(named))

    return run


def unsqueeze(node: Node) -> Function:
    """y = x with axes of size 1 put in"""
    fixed = node.attribute("axes")

    def run(x: Tensor, axes: Settings | None = None) -> Tensor:
        named = fixed if axes is None else axes
        rank = x.dim() + len(named)
        for axis in sorted(axis % rank for axis in named):
            x = x.unsqueeze(axis)
        return x

    return run


def concat(node: Node) -> Function:
    """y = tensors one after another along an axis"""
    axis = node.attribute("axis", 1)
    return lambda *x: torch.cat(x, axis)


def split(node: Node) -> Function:
    """y1, y2, ... = x cut along an axis"""
    axis, fixed, parts = node.attribute("axis"), node.attribute("split"), len(node.outputs)

    def run(x: Tensor, sizes: Settings | None = None) -> tuple[Tensor, ...]:
        named = fixed if sizes is None else sizes
        return x.split(-(-x.shape[axis] // parts) if named is None else named, axis)

    return run


def slicing(node: Node) -> Function:
    """y = x from starts to ends in steps"""
    fixed = [node.attribute(name) for name in ("starts", "ends", "axes")]

    def run(x: Tensor, *operands: Settings | None) -> Tensor:
        starts, ends, axes = [*operands, None][:3] if operands else fixed
        steps = operands[3] if len(operands) > 3 else None
        assert starts is not None
        assert ends is not None
        index, flipped = [slice(None)] * x.dim(), []
        for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True):
            taken = range(x.shape[axis])[as_slice(start, end, step, x.shape[axis])]
            if step < 0:  # which torch does not know: the same elements forwards, turned around
                taken = taken[::-1]
                flipped.append(axis)
            index[axis] = slice(taken.start, taken.stop, taken.step)
        x = x[tuple(index)]
        return x.flip(flipped) if flipped else x

    return run


def expand(node: Node) -> Function:
    """y = x repeated along axes of size 1"""
    return lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def tile(node: Node) -> Function:
    """y = x repeated along each axis"""
    return lambda x, repeats: x.repeat(repeats)


def pad(node: Node) -> Function:
    """y = x with a border of one value, or of copies of what is next to it"""
    fixed, mode, value = node.attribute("pads"), node.attribute("mode"), node.attribute("value", 0.0)

    def run(x: Tensor, pads: Settings | None = None, fill: Settings | None = None, axes: Settings | None = None) -> Tensor:
        sizes, named = fixed if pads is None else pads, list(range(x.dim())) if axes is None else axes
        if mode == "constant":
            return _constant_border(x, sizes, named, value if fill is None else fill[0])
        for axis, before, after in zip(named, sizes, sizes[len(named) :], strict=False):
            x = x.index_select(axis, _border(x.shape[axis], before, after, mode).to(x.device))
        return x

    return run


def _constant_border(x: Tensor, sizes: list[int], axes: list[int], value: float) -> Tensor:
    pairs = [[0, 0] for _ in range(x.dim())]
    for axis, before, after in zip(axes, sizes, sizes[len(axes) :], strict=False):
        pairs[axis] = [before, after]
    return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=value)


def _border(size: int, before: int, after: int, mode: str) -> Tensor:
    """Return where each element along an axis comes from."""
    place = torch.arange(-before, size + after)
    if mode == "edge":
        return place.clamp(0, size - 1)
    if mode == "wrap":
        return place.remainder(size)
    period = max(2 * (size - 1), 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)


def depth_to_space(node: Node) -> Function:
    """x[n,c*b*b,h,w] -> y[n,c,h*b,w*b]; mode DCR has the block first among the channels, CRD last"""
    block, by_row = node.attribute("blocksize"), node.attribute("mode", "DCR") == "CRD"
    if by_row:
        return lambda x: F.pixel_shuffle(x, block)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(n, c // block**2, h * block, w * block)

    return run


def space_to_depth(node: Node) -> Function:
    """x[n,c,h*b,w*b] -> y[n,b*b*c,h,w]"""
    block = node.attribute("blocksize")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(n, c * block**2, h // block, w // block)

    return run


def triangle(node: Node) -> Function:
    """y = x on one side of a diagonal of its last two axes, 0 on the other"""
    function = torch.triu if node.attribute("upper") else torch.tril
    return lambda x, k=None: function(x, 0 if k is None else k[0])


def reverse_sequence(node: Node) -> Function:
    """y = x with the first l[n] elements of each sample n turned around"""
    time, batch = node.attribute("time_axis"), node.attribute("batch_axis")

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        x = x.movedim((batch, time), (0, 1))
        index = reversed_places(lengths, x.shape[1])
        y = x.gather(1, index.reshape(*index.shape, *[1] * (x.dim() - 2)).expand(x.shape))
        return y.movedim((0, 1), (batch, time))

    return run


def reversed_places(lengths: Tensor, steps: int) -> Tensor:
    """Return [batch, steps]: where each element comes from if the first lengths[n] of sample n are turned around."""
    step, length = torch.arange(steps, device=lengths.device)[None], lengths[:, None]
    return torch.where(step < length, length - 1 - step, step)


RULES: dict[str, Operator] = {
    "Concat": Operator(concat),
    "DepthToSpace": Operator(depth_to_space),
    "com.microsoft.ExpandDims": Operator(unsqueeze, host=(1,)),
    "Expand": Operator(expand, host=(1,)),
    "Flatten": Operator(flatten),
    "Pad": Operator(pad, host=(1, 2, 3)),
    "Reshape": Operator(reshape, host=(1,)),
    "ReverseSequence": Operator(reverse_sequence),
    "Slice": Operator(slicing, host=(1, 2, 3, 4)),
    "SpaceToDepth": Operator(space_to_depth),
    "Split": Operator(split, host=(1,)),
    "Squeeze": Operator(squeeze, host=(1,)),
    "Tile": Operator(tile, host=(1,)),
    "Transpose": Operator(transpose),
    "Trilu": Operator(triangle, host=(1,)),
    "Unsqueeze": Operator(unsqueeze, host=(1,)),
}
