"""Operators that only move data: the same movement runs on the labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.labels import all_frozen
from onnx_reconvene.op import Op
from onnx_reconvene.operators.elementwise import broadcast_labels
from onnx_reconvene.operators.rule import Operator
from onnx_reconvene.shapes import as_slice, slice_operands

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


def reshape(op: Op) -> None:
    """x[...] -> the same elements in the same order, in another shape"""
    op.ints(1)
    op.move(functools.partial(reshape_labels, op.shape(0), op.out_shape()))


def reshape_labels(shape: Sequence[int], target: Sequence[int], x: NDArray[Any]) -> NDArray[Any]:
    """Reshape x, which has size 1 along axes where it does not vary, as if it had `shape`."""
    spread, result = list(x.shape), [1] * len(target)
    for source, goal in blocks(shape, target):
        if any(x.shape[axis] > 1 for axis in source):
            for axis in source:
                spread[axis] = shape[axis]
            for axis in goal:
                result[axis] = target[axis]
    return np.broadcast_to(x, spread).reshape(result)


def blocks(shape: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes of shape with those of target, in the smallest runs whose sizes have the same product."""
    pairs, i, j = [], 0, 0
    while i < len(shape) or j < len(target):
        source, goal, have, want = [], [], 1, 1
        while True:
            if i < len(shape) and (have <= want or j == len(target)):
                source.append(i)
                have *= shape[i]
                i += 1
            elif j < len(target):
                goal.append(j)
                want *= target[j]
                j += 1
            if have == want:
                break
            if i == len(shape) and j == len(target):
                raise UnsupportedError(f"shapes {list(shape)} and {list(target)} do not hold the same elements")
        pairs.append((source, goal))
    return pairs


def target_shape(cut: CutOp) -> None:
    """`shape` names the channel count, unless it says 0 (as before) or -1 (what is left)"""
    wanted = cut.out_shape(0)
    if len(cut.node.inputs) < 2:
        cut.node.attrs["shape"] = [w if s > 0 else s for w, s in zip(wanted, cut.node.attrs["shape"], strict=True)]
        return
    given = cut.ints_before(1)
    old = cut.old_shape(0)
    inferred = [s == -1 for s in given]
    copied = [s == 0 and not cut.node.attrs.get("allowzero") and i < len(old) for i, s in enumerate(given)]
    new = [w if not (c or a) else s for w, s, c, a in zip(wanted, given, copied, inferred, strict=True)]
    new = [w if c and cut.new_shape(0)[i] != w else s for i, (w, s, c) in enumerate(zip(wanted, new, copied, strict=True))]
    cut.replace(1, new)


def squeezed_axes(cut: CutOp) -> None:
    """an axis cut down to size 1 must not be squeezed because no axes are named"""
    named = "axes" in cut.node.attrs or (len(cut.node.inputs) > 1 and cut.node.inputs[1].name)
    axes, now = ([axis for axis, size in enumerate(shape) if size == 1] for shape in (cut.old_shape(0), cut.new_shape(0)))
    if not named and axes != now:
        if cut.opset < 13:
            cut.node.attrs["axes"] = axes
        else:
            cut.replace(1, axes)


def transpose(op: Op) -> None:
    """x[...] -> y[permuted axes]"""
    permutation = op.attr("perm", list(range(len(op.shape(0))))[::-1])
    op.move(lambda x: np.transpose(x, permutation))


def concat(op: Op) -> None:
    """x1[..., c1, ...], x2[..., c2, ...] -> y[..., c1 + c2, ...]"""
    rank = len(op.out_shape())
    axis = op.attr("axis") % rank
    inputs = [op.axes(i) for i in op.inputs()]
    out = dict(enumerate(inputs[0]))
    for labels in inputs[1:]:
        for a in range(rank):
            if a != axis:
                op.equate(out[a], labels[a])
                out[a] = labels[a] if all_frozen(out[a]) else out[a]
    op.emit({**out, axis: np.concatenate([labels[axis] for labels in inputs])})


def split(op: Op) -> None:
    """x[..., c1 + c2, ...] -> y1[..., c1, ...], y2[..., c2, ...]"""
    axis = op.attr("axis", 0) % len(op.shape(0))
    labels = op.axes(0)
    start = 0
    for o in op.outputs():
        end = start + op.out_shape(o)[axis]
        op.emit({**dict(enumerate(labels)), axis: labels[axis][start:end]}, o)
        start = end


def split_sizes(cut: CutOp) -> None:
    """the sizes are those of the outputs; sizes left out stay so where all outputs are still equal"""
    axis = cut.node.attrs.get("axis", 0) % len(cut.old_shape(0))
    sizes = [cut.out_shape(o)[axis] for o in range(len(cut.node.outputs))]
    if "split" in cut.node.attrs:
        cut.node.attrs["split"] = sizes
    elif len(cut.node.inputs) > 1 and cut.node.inputs[1].name:
        cut.replace(1, sizes)
    elif not (len(set(sizes)) == 1 and _dealt_evenly(cut, axis)):
        cut.node.attrs.pop("num_outputs", None)
        if cut.opset < 13:
            cut.node.attrs["split"] = sizes
        else:
            cut.replace(1, sizes)


def _dealt_evenly(cut: CutOp, axis: int) -> bool:
    return cut.new_shape(0)[axis] % len(cut.node.outputs) == 0


def slice_(op: Op) -> None:
    """x[...] -> x[starts:ends:steps along axes]"""
    rank = len(op.shape(0))
    operands = [op.ints(i) for i in range(1, len(op.node.inputs))]
    starts, ends, axes, steps = slice_operands(op.node.attrs, rank, operands)
    labels = dict(enumerate(op.axes(0)))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = labels[axis]
        labels[axis] = whole[as_slice(start, end, step, whole.size)]
        if step != 1 and labels[axis].size != whole.size and len(axes) > 1:
            op.freeze(whole, "takes every so many of them")
    op.emit(labels)


def slice_bounds(cut: CutOp) -> None:
    """`starts` and `ends` are counted in what is left; where every so many are taken, those that are left are named one by one"""
    old, new = cut.old_shape(0), cut.new_shape(0)
    operands = [cut.old_ints(i) for i in range(1, len(cut.node.inputs))]
    starts, ends, axes, steps = slice_operands(cut.node.attrs, len(old), operands)
    if len(axes) == 1 and not cut.kept(0, axes[0]).all():
        kept = cut.kept(0, axes[0])
        taken = np.arange(kept.size)[as_slice(starts[0], ends[0], steps[0], kept.size)]
        if steps[0] != 1 and taken.size < kept.size:
            cut.gather(axes[0], (np.cumsum(kept) - 1)[taken[kept[taken]]])
            return
    now = [cut.ints(i) for i in range(1, len(cut.node.inputs))]
    starts_now, ends_now, *_ = slice_operands(cut.node.attrs, len(old), [None if x is None else np.asarray(x) for x in now])
    for k, axis in enumerate(axes):
        kept = cut.kept(0, axis)
        if kept.all() or steps[k] != 1:  # a step other than 1 runs over a whole axis, or froze it
            starts_now[k], ends_now[k] = starts[k], ends[k]
            continue
        begin, end, _ = slice(starts[k], ends[k]).indices(old[axis])
        first, last = int(kept[:begin].sum()), int(kept[:end].sum())
        begin_now, end_now, _ = slice(starts_now[k], ends_now[k]).indices(new[axis])
        beyond = starts_now[k] < -new[axis]  # legal, but below opset 10 shape inference gives up on it
        starts_now[k] = first if beyond or begin_now != first else starts_now[k]
        ends_now[k] = last if end_now != last else ends_now[k]
    if operands:
        cut.replace(1, starts_now)
        cut.replace(2, ends_now)
    else:
        cut.node.attrs |= {"starts": starts_now, "ends": ends_now}


def gather(op: Op) -> None:
    """x[..., c, ...] -> x[..., indices, ...]"""
    axis = op.attr("axis", 0) % len(op.shape(0))
    index = op.fixed(1)
    if index is not None and index.ndim:
        _move_some(op, axis, index)
    else:
        labels = op.axes(0)
        op.freeze(labels[axis], "picks among them at run time") if index is None else op.freeze(
            labels[axis][index.ravel()], "picks one"
        )
        shift = len(op.shape(1)) - 1
        op.emit({a + shift if a > axis else a: along for a, along in enumerate(labels) if a != axis})
    if op.is_static(0) and not op.is_static(1):  # a table of embeddings
        labels = op.axes(0)
        op.layer(0, labels[-1] if axis != len(labels) - 1 else op.fresh(0), op.fresh(0))


def gather_nd(op: Op) -> None:
    """x[b..., i..., c...] at index tuples [b..., n..., i] -> y[b..., n..., c...]"""
    picked, batch = int(op.shape(1)[-1]), int(op.attr("batch_dims", 0))
    index = op.fixed(1)
    if index is not None and picked == 1 and batch == 0 and index.ndim > 1:
        _move_some(op, 0, index[..., 0])
        return
    rank, shift = len(op.shape(0)), len(op.out_shape()) - len(op.shape(0))
    untouched = range(batch + picked, rank)
    op.emit({axis + shift: along for axis, along in zip(untouched, op.along(0, *untouched), strict=True)})


def _move_some(op: Op, axis: int, index: NDArray[np.int64]) -> None:
    """Move labels as Gather does; those that vary along several axes settle first where some of them are left out."""
    if np.unique(index % op.shape(0)[axis]).size < op.shape(0)[axis]:
        op.flow.settle(op.node.inputs[0])
    op.move(functools.partial(_take, axis, index))


def _take(axis: int, index: NDArray[np.int64], x: NDArray[Any]) -> NDArray[Any]:
    """Take from x along an axis; where it does not vary there, nor does the result."""
    return np.take(x, index if x.shape[axis] > 1 else np.zeros([1] * index.ndim, np.int64), axis)


def gather_indices(cut: CutOp) -> None:
    """`indices` count in what is left, and lose what is gone"""
    axis = cut.node.attrs.get("axis", 0) % len(cut.old_shape(0))
    kept, index = cut.kept(0, axis), cut.old_ints(1)
    if index is None or kept.all():
        return
    index = np.where(index < 0, index + kept.size, index)
    left = [cut.kept_out(0, a) for a in range(axis, axis + index.ndim) if cut.node.op == "Gather" or a < index.ndim - 1]
    for a, mask in enumerate(left):
        index = np.compress(mask, index, a)
    cut.replace(1, (np.cumsum(kept) - 1)[index])


def pad(op: Op) -> None:
    """x[...] -> y[... with elements added before and after]; added channels are channels of their own"""
    shape = op.shape(0)
    rank = len(shape)
    pads = op.ints(1) if op.has(1) else np.asarray(op.attr("pads"))
    if pads is None:
        raise UnsupportedError("its pads are missing")
    axes = op.ints(3) if op.has(3) else np.arange(rank)
    assert axes is not None
    labels = dict(enumerate(op.axes(0)))
    for k, axis in enumerate(axes.tolist()):
        axis %= rank
        before, after = int(pads[k]), int(pads[k + len(axes)])
        if before == after == 0:
            continue
        if all_frozen(labels[axis]):
            del labels[axis]
        elif op.attr("mode", "constant") == "constant" and before >= 0 and after >= 0:
            labels[axis] = np.concatenate([op.fresh(before), labels[axis], op.fresh(after)])
        else:
            op.freeze(labels[axis], "repeats or crops some of them")
            del labels[axis]
    op.emit(labels)


def pad_sizes(cut: CutOp) -> None:
    """`pads` lose the added channels that are gone"""
    rank = len(cut.old_shape(0))
    pads = np.asarray(cut.old_ints(1) if len(cut.node.inputs) > 1 else cut.node.attrs["pads"]).copy()
    axes = cut.old_ints(3) if len(cut.node.inputs) > 3 and cut.node.inputs[3].name else np.arange(rank)
    assert axes is not None
    changed = False
    for k, axis in enumerate(axes.tolist()):
        kept = cut.kept_out(0, axis % rank)
        before, after = int(pads[k]), int(pads[k + len(axes)])
        if before >= 0 and after >= 0 and not kept.all():
            pads[k], pads[k + len(axes)] = kept[:before].sum(), kept[kept.size - after :].sum()
            changed = True
    if changed and len(cut.node.inputs) > 1:
        cut.replace(1, pads)
    elif changed:
        cut.node.attrs["pads"] = pads.tolist()


def expand(op: Op) -> None:
    """x[..., 1, ...] -> y[..., n, ...]; the copies are channels of their own"""
    op.ints(1)
    known = broadcast_labels(op, [0], op.out_shape())
    sizes = op.out_shape()
    op.emit({axis: op.copies(sizes[axis]) if labels is None else labels for axis, labels in enumerate(known)})


def expand_shape(cut: CutOp) -> None:
    """`shape` names the channel count"""
    given = cut.ints_before(1)
    wanted = cut.out_shape(0)
    skipped = len(wanted) - len(given)
    cut.replace(1, [w if s != 1 else s for w, s in zip(wanted[skipped:], given, strict=True)])


def constant_of_shape(op: Op) -> None:
    """one value -> y[...] of a shape that is computed; its elements are channels of their own"""
    op.ints(0)
    op.emit({axis: op.copies(size) for axis, size in enumerate(op.out_shape())})


def whole_shape(cut: CutOp) -> None:
    """`input` names the channel count"""
    cut.replace(0, cut.out_shape(0))


def tile(op: Op) -> None:
    """x[...] -> x repeated along axes; copies of a single element are channels of their own"""
    repeats = op.ints(1)
    assert repeats is not None
    axes = enumerate(zip(op.axes(0), repeats.tolist(), strict=True))
    op.emit({axis: np.tile(labels, n) if labels.size > 1 else op.copies(n) for axis, (labels, n) in axes})


def tile_repeats(cut: CutOp) -> None:
    """`repeats` of a single element is the channel count"""
    sizes = zip(cut.ints_before(1), cut.old_shape(0), cut.out_shape(0), strict=True)
    cut.replace(1, [left if size == 1 else repeats for repeats, size, left in sizes])


def depth_to_space(op: Op) -> None:
    """x[n, b*b*c, h, w] -> y[n, c, h*b, w*b]: the b*b channels that make one go together"""
    (x,) = op.along(0, 1)
    block = int(op.attr("blocksize")) ** 2
    parts = x.reshape(-1, block).T if op.attr("mode", "DCR") == "CRD" else x.reshape(block, -1)
    op.equate(parts, parts[:1])
    op.emit({1: parts[0]})


def space_to_depth(op: Op) -> None:
    """x[n, c, h*b, w*b] -> y[n, b*b*c, h, w]"""
    (x,) = op.along(0, 1)
    op.emit({1: np.tile(x, int(op.attr("blocksize")) ** 2)})


OPERATORS = {
    "Concat": Operator(concat),
    "ConstantOfShape": Operator(constant_of_shape, whole_shape),
    "DepthToSpace": Operator(depth_to_space),
    "Expand": Operator(expand, expand_shape),
    "Flatten": Operator(reshape),
    "Gather": Operator(gather, gather_indices),
    "GatherND": Operator(gather_nd, gather_indices),
    "Pad": Operator(pad, pad_sizes),
    "Reshape": Operator(reshape, target_shape),
    "Slice": Operator(slice_, slice_bounds),
    "SpaceToDepth": Operator(space_to_depth),
    "Split": Operator(split, split_sizes),
    "Squeeze": Operator(reshape, squeezed_axes),
    "Tile": Operator(tile, tile_repeats),
    "Transpose": Operator(transpose),
    "Unsqueeze": Operator(reshape),
}
