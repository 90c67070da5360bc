"""Operators that work along some axes, or pick by index there; channels on other axes pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


def untouched(op: Op, axes: Iterable[int]) -> None:
    """Pass labels from input 0 to every output but along axes, where channels must stay."""
    rank = len(op.shape(0))
    rest = [a for a in range(rank) if a not in {axis % rank for axis in axes}]
    labels = dict(zip(rest, op.along(0, *rest), strict=True))
    for o in op.outputs():
        op.emit(labels, o)


def along_attribute(op: Op) -> None:
    """f(x[...]) along the axis that an attribute names -> y[...]"""
    untouched(op, [op.attr("axis", -1)])


def cumulative(op: Op) -> None:
    """running sums or products of x[...] along an axis -> y[...]"""
    axis = op.ints(1)
    assert axis is not None
    untouched(op, [int(axis.ravel()[0])])


def compress(op: Op) -> None:
    """x[...] at some positions along one axis, chosen at run time -> y[...]"""
    if "axis" not in op.node.attrs:
        raise UnsupportedError("it picks elements of the flattened tensor")
    untouched(op, [op.attr("axis")])


def reverse_sequence(op: Op) -> None:
    """x[...] with parts along the time axis reversed, as long as the batch axis says -> y[...]"""
    untouched(op, [op.attr("batch_axis", 1), op.attr("time_axis", 0)])


def last_two(op: Op) -> None:
    """f(x[..., m, n]) on matrices -> y[..., m, n]"""
    untouched(op, [-1, -2])


def gather_elements(op: Op) -> None:
    """x[..., c, ...] at positions given for each element along one axis -> y[...] of the shape of the positions"""
    axis = op.attr("axis", 0) % len(op.shape(0))
    whole = [a for a, (n, m) in enumerate(zip(op.shape(0), op.shape(1), strict=True)) if n == m and a != axis]
    labels = op.along(0, *whole)
    for a, b in zip(labels, op.along(1, *whole), strict=True):
        op.equate(a, b)
    op.emit(dict(zip(whole, labels, strict=True)))


def scatter_nd(op: Op) -> None:
    """x[i..., c...], index tuples [n..., i], updates[n..., c...] -> y[i..., c...]"""
    picked, rank = int(op.shape(1)[-1]), len(op.shape(0))
    index = op.fixed(1)
    grid = None if index is None else grid_of(index)
    followed = range(0 if grid is not None else picked, rank)
    labels = op.along(0, *followed)
    updates = op.along(2, *range(len(op.shape(2)) - len(followed), len(op.shape(2)))) if followed else op.along(2)
    for axis, a, b in zip(followed, labels, updates, strict=True):
        op.equate(a if grid is None or axis >= picked else a[grid[axis]], b)
    op.emit(dict(zip(followed, labels, strict=True)))


def grid_of(index: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """Return the positions along each axis where index tuples [n..., axes] are those of a slice of every axis, else None."""
    axes = index.shape[-1]
    if index.ndim != axes + 1 or not index.size:
        return None
    grid = [np.moveaxis(index[..., a], a, 0).reshape(index.shape[a], -1)[:, 0] for a in range(axes)]
    return grid if np.array_equal(index, np.stack(np.meshgrid(*grid, indexing="ij"), -1)) else None


def scatter_indices(cut: CutOp) -> None:
    """index tuples count in what is left, and lose what is gone"""
    index = cut.old_ints(1)
    grid = None if index is None else grid_of(index)
    if index is None or grid is None:
        return
    kept = [cut.kept(0, axis) for axis in range(len(grid))]
    left = [(np.cumsum(mask) - 1)[positions % mask.size][mask[positions]] for mask, positions in zip(kept, grid, strict=True)]
    cut.replace(1, np.stack(np.meshgrid(*left, indexing="ij"), -1))


def center_crop_pad(op: Op) -> None:
    """x[...] cropped or padded to a shape -> y[...]"""
    changed = [axis for axis, (a, b) in enumerate(zip(op.shape(0), op.out_shape(), strict=True)) if a != b]
    named = op.attr("axes")
    if named is None:
        raise UnsupportedError("its shape names every axis")
    untouched(op, {*changed, *np.asarray(named).tolist()})


OPERATORS = {
    "CenterCropPad": Operator(center_crop_pad),
    "Compress": Operator(compress),
    "CumProd": Operator(cumulative),
    "CumSum": Operator(cumulative),
    "GatherElements": Operator(gather_elements),
    "ReverseSequence": Operator(reverse_sequence),
    "ScatterND": Operator(scatter_nd, scatter_indices),
    "TopK": Operator(along_attribute),
    "Trilu": Operator(last_two),
}
