"""How operators that move data, or leave some of it out, carry what flows: on the states of channels and their places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.operators.movement import reshape_labels
from onnx_reconvene.shapes import as_slice, slice_operands
from onnx_reconvene.synflow.layers import embed
from onnx_reconvene.synflow.steps import EMPTY, Ids
from onnx_reconvene.synflow.walk import Walk


def moved(walk: Walk, node: gs.Node, i: int, move: Callable[[Ids], Ids]) -> None:
    """Give the output of a node what a movement makes of the states of an input, and of their places."""
    tensor = node.inputs[i]
    walk.put(node.outputs[0], move(walk.ids[tensor.name]), move(walk.places[tensor.name]))


def reshape(walk: Walk, node: gs.Node) -> None:
    """the same elements in the same order, in another shape"""
    source, target = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    moved(walk, node, 0, lambda x: reshape_labels(source, target, x))


def transpose(walk: Walk, node: gs.Node) -> None:
    """y[permuted axes]"""
    moved(walk, node, 0, lambda x: np.transpose(x, node.attrs.get("perm")))


def whole(ids: Ids, axis: int, size: int) -> Ids:
    """Return ids as long as the tensor along an axis."""
    return np.broadcast_to(ids, (*ids.shape[:axis], size, *ids.shape[axis + 1 :]))


def concat(walk: Walk, node: gs.Node) -> None:
    """x1[..., c1, ...], x2[..., c2, ...] -> y[..., c1 + c2, ...]; what is constant is a bias"""
    rank = len(walk.shape(node.outputs[0]))
    axis = node.attrs["axis"] % rank
    nothing = np.full([1] * rank, EMPTY), np.zeros([1] * rank, np.int64)
    given = [(walk.ids[t.name], walk.places[t.name]) if t.name in walk.ids else nothing for t in node.inputs]
    if any(places.shape[axis] > 1 for _, places in given):
        given = [(walk.even(ids, places), nothing[1]) for ids, places in given]
    found, places = walk.together(given)
    parts = [whole(ids, axis, walk.shape(t)[axis]) for ids, t in zip(found, node.inputs, strict=True)]
    others = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
    spread = [np.broadcast_to(p, (*others[:axis], p.shape[axis], *others[axis + 1 :])) for p in parts]
    walk.put(node.outputs[0], np.concatenate(spread, axis), places)


def split(walk: Walk, node: gs.Node) -> None:
    """x[..., c1 + c2, ...] -> y1[..., c1, ...], y2[..., c2, ...]"""
    arrays = walk.ids[node.inputs[0].name], walk.places[node.inputs[0].name]
    axis = node.attrs.get("axis", 0) % arrays[0].ndim
    sizes = [walk.shape(t)[axis] for t in node.outputs]
    for tensor, end, size in zip(node.outputs, np.cumsum(sizes).tolist(), sizes, strict=True):
        if tensor.name:
            walk.put(tensor, *(x.take(range(end - size, end), axis) if x.shape[axis] > 1 else x for x in arrays))


def slice_(walk: Walk, node: gs.Node) -> None:
    """x[starts:ends:steps along axes]"""
    operands = [walk.value(t) if t.name else None for t in node.inputs[1:]]

    def move(x: Ids) -> Ids:
        for start, end, axis, step in zip(*slice_operands(node.attrs, x.ndim, operands), strict=True):
            if x.shape[axis] > 1:
                x = x[(slice(None),) * axis + (as_slice(start, end, step, x.shape[axis]),)]
        return x

    moved(walk, node, 0, move)


def gather(walk: Walk, node: gs.Node) -> None:
    """x[..., indices, ...]; rows of a constant table are a layer of embeddings"""
    data, index = node.inputs
    axis = node.attrs.get("axis", 0) % len(walk.shape(data))
    if data.name not in walk.ids:
        embed(walk, node, axis)
        return
    known = walk.analysis.integers.get(index)
    first = np.zeros([1] * len(walk.shape(index)), np.int64)
    if known is None:
        ids = walk.mean(walk.even(walk.ids[data.name], walk.places[data.name]), [axis])
        walk.put(node.outputs[0], np.take(ids, first, axis))
    else:
        moved(walk, node, 0, lambda x: np.take(x, known if x.shape[axis] > 1 else first, axis))


def pad(walk: Walk, node: gs.Node) -> None:
    """x[...] with zeros before and after"""
    (out,), name = node.outputs, node.inputs[0].name
    ids, places, shape = walk.ids[name], walk.places[name], walk.shape(node.inputs[0])
    pads = np.asarray(node.attrs["pads"] if "pads" in node.attrs else walk.value(node.inputs[1])).reshape(2, -1)
    axes = walk.value(node.inputs[3]).tolist() if len(node.inputs) > 3 and node.inputs[3].name else range(ids.ndim)
    mode, around = node.attrs.get("mode", "constant"), {"constant_values": walk.size(ids)}
    for k, axis in enumerate(axes):
        widths = [tuple(pads[:, k]) if a == axis % ids.ndim else (0, 0) for a in range(ids.ndim)]
        if ids.shape[axis] > 1 and pads[:, k].any():
            ids = np.pad(ids, widths, constant_values=EMPTY)
            places = places if places.shape[axis] == 1 else np.pad(places, widths, "edge")
        elif shape[axis] == 1 and pads[:, k].any():
            raise UnsupportedError("it pads what has no channels")
        elif pads[:, k].any():
            places = np.pad(whole(places, axis, shape[axis]), widths, mode, **(around if mode == "constant" else {}))
    walk.put(out, ids, places)


def resize(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] at the nearest positions"""
    near, far = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])

    def move(x: Ids) -> Ids:
        for axis, (n, m) in enumerate(zip(near, far, strict=True)):
            if x.shape[axis] > 1 and n != m:
                x = x.take(((np.arange(m) + 0.5) * n / m).astype(np.int64), axis)
        return x

    moved(walk, node, 0, move)


def tile(walk: Walk, node: gs.Node) -> None:
    """x repeated along axes"""
    ids, repeats = walk.ids[node.inputs[0].name], walk.value(node.inputs[1]).tolist()
    walk.put(node.outputs[0], np.tile(ids, [n if size > 1 else 1 for n, size in zip(repeats, ids.shape, strict=True)]))


def depth_to_space(walk: Walk, node: gs.Node) -> None:
    """x[n, b*b*c, h, w] -> y[n, c, h*b, w*b]: the mean of b*b channels"""
    block = int(node.attrs["blocksize"]) ** 2
    ids = walk.vector(walk.ids[node.inputs[0].name], 1, walk.shape(node.inputs[0])[1])
    deep = node.attrs.get("mode", "DCR") == "DCR"
    parts = ids.reshape(block, -1) if deep else ids.reshape(-1, block).T
    walk.put(node.outputs[0], walk.mean(parts, [0]).reshape(1, -1, 1, 1))


def space_to_depth(walk: Walk, node: gs.Node) -> None:
    """x[n, c, h*b, w*b] -> y[n, b*b*c, h, w]"""
    ids = walk.vector(walk.ids[node.inputs[0].name], 1, walk.shape(node.inputs[0])[1])
    walk.put(node.outputs[0], np.tile(ids, int(node.attrs["blocksize"]) ** 2).reshape(1, -1, 1, 1))
