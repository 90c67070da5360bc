"""How layers map channels to channels: the magnitudes of their weights, and at which positions their taps read."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.synflow.steps import INPUT, Floats, Ids, Window
from onnx_reconvene.synflow.walk import Walk
from onnx_reconvene.twins import PlainNode


def taps(walk: Walk, node: gs.Node, kernel: Sequence[int]) -> Ids:
    """Return which position of the map it reads each tap of a kernel meets for each position that is made, [taps, made]; the number
    of positions for a zero around the map."""
    near, far = walk.shape(node.inputs[0])[2:], walk.shape(node.outputs[0])[2:]
    rank, attributes, transposed = len(kernel), node.attrs, node.op == "ConvTranspose"
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads = attributes.get("pads") or [0] * rank
    index, outside = np.zeros([1] * (2 * rank), np.int64), np.zeros([1] * (2 * rank), bool)
    for axis, (n, m, k, s, d) in enumerate(zip(near, far, kernel, strides, dilations, strict=True)):
        pad = pads[axis]
        if attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            small, large = (n, m) if transposed else (m, n)
            whole = max(0, (small - 1) * s + (k - 1) * d + 1 - large)
            pad = whole // 2 if attributes["auto_pad"] == "SAME_UPPER" else whole - whole // 2
        tap = np.arange(k)[:, None] * d
        at, missed = np.divmod(np.arange(m) + pad - tap, s) if transposed else (np.arange(m) * s - pad + tap, 0)
        along = [k if a == axis else m if a == rank + axis else 1 for a in range(2 * rank)]
        index = index * n + at.reshape(along)
        outside = outside | ((at < 0) | (at >= n) | (missed != 0)).reshape(along)
    return np.where(outside, math.prod(near), index).reshape(math.prod(kernel), -1)


def windowed(walk: Walk, node: gs.Node, i: int, kernel: Sequence[int]) -> tuple[Ids, Window]:
    """Return the states of input i, and the window through which a kernel reads their maps."""
    ids, places = walk.ids[node.inputs[i].name], walk.places[node.inputs[i].name]
    if places.size > math.prod(places.shape[2:]):
        ids, places = walk.even(ids, places), np.zeros([1] * ids.ndim, np.int64)
    size = walk.size(ids)
    spread = np.broadcast_to(places, (1, 1, *walk.shape(node.inputs[i])[2:]))
    return ids, Window(np.append(spread.ravel(), size)[taps(walk, node, kernel)], size)


def conv(walk: Walk, node: gs.Node) -> None:
    """x[n,i,...] * w[o,i/g,...] -> y[n,o,...]"""
    tensor, groups = node.inputs[1], int(node.attrs.get("group", 1))
    values = np.abs(weight_of(walk, node, 1))
    rows, columns, *kernel = values.shape
    ids, window = windowed(walk, node, 0, kernel)
    reads = walk.vector(ids, 1, groups * columns)
    by_tap = values.reshape(groups, rows // groups, columns, -1)

    def elements(slope: Floats, read: Floats) -> Floats:
        return np.asarray(by_tap * (slope[:, :, None, None] * read[:, None])).reshape(values.shape)

    made = walk.layer(node, tensor, by_tap, reads, elements, window=window)
    put_map(walk, node, made)


def put_map(walk: Walk, node: gs.Node, made: Ids) -> None:
    """Give the output of a node the channels that it makes, with maps in order."""
    far = walk.shape(node.outputs[0])[2:]
    walk.put(node.outputs[0], made.reshape(1, -1, *[1] * len(far)), walk.grid(made, (1, 1, *far)))


def weight_of(walk: Walk, node: gs.Node, i: int) -> NDArray[np.float32]:
    """Return what input i, a weight, stands for; one that is computed from data is unsupported."""
    if node.inputs[i].name in walk.ids:
        raise UnsupportedError(f"'{node.inputs[i].name}' is computed from data")
    return np.asarray(walk.real(node.inputs[i]), np.float32)


def conv_transpose(walk: Walk, node: gs.Node) -> None:
    """x[n,i,...] * w[i,o/g,...] -> y[n,o,...]"""
    values, groups = np.abs(weight_of(walk, node, 1)), int(node.attrs.get("group", 1))
    rows, columns, *kernel = values.shape
    ids, window = windowed(walk, node, 0, kernel)
    reads = walk.vector(ids, 1, rows)
    by_tap = values.reshape(groups, rows // groups, columns, -1)

    def elements(slope: Floats, read: Floats) -> Floats:
        return np.asarray(by_tap * (read[:, :, None] * slope[:, None, :, None])).reshape(values.shape)

    own = groups == 1 or min(rows, groups * columns) > groups  # else whole groups go, with what they read
    made = walk.layer(node, node.inputs[1], by_tap.swapaxes(1, 2), reads, elements, own, window)
    put_map(walk, node, made)


def gemm(walk: Walk, node: gs.Node) -> None:
    """a[m,k] * b[k,n] -> y[m,n], a and b transposed at will"""
    ids, places = walk.ids[node.inputs[0].name], walk.places[node.inputs[0].name]
    ids, places = (ids.T, places.T) if node.attrs.get("transA", 0) else (ids, places)
    states, rest = matrix_layer(walk, node, 1, weight_of(walk, node, 1), ids, places, of_rows=bool(node.attrs.get("transB", 0)))
    walk.put(node.outputs[0], walk.scaled(states[None], np.asarray(node.attrs.get("alpha", 1.0)), node.outputs[0]), rest)


def matrix_layer(
    walk: Walk, node: gs.Node, i: int, values: NDArray[Any], ids: Ids, places: Ids, of_rows: bool, axis: int = -1
) -> tuple[Ids, Ids]:
    """Enter x along an axis of ids times a matrix, or the mean of a stack of them, whose rows, or else columns, make the output.

    values are those of input i. Returns the states that are made, and their places along the other axes.
    """
    shape, magnitude = values.shape, np.abs(values)
    if values.ndim < 2:
        magnitude = magnitude[None] if of_rows else magnitude[:, None]
    stack = math.prod(shape[:-2])
    matrix = magnitude.mean(tuple(range(magnitude.ndim - 2))) if magnitude.ndim > 2 else magnitude
    matrix = matrix if of_rows else matrix.T
    order = _by_channel(walk, ids, places, axis, matrix.shape[1])
    if places.shape[axis] > 1 and order is None:
        ids, places = walk.even(ids), np.zeros([1] * ids.ndim, np.int64)
    reads, size, columns = walk.vector(ids, axis, matrix.shape[1]), walk.size(ids), None
    kernel, window = matrix[None, :, :, None], Window(places.reshape(1, -1), size)
    if order is not None:
        kernel = (matrix if (np.diff(order) == 1).all() else matrix[:, order]).reshape(1, len(matrix), -1, size)
        columns, window = order[::size], Window(np.arange(size)[:, None], size)
        reads = reads[columns]

    def elements(slope: Floats, read: Floats) -> Floats:
        x = read.ravel()
        if order is not None:
            x = np.empty(order.size)
            x[order] = read.ravel()
        outer = slope[0][:, None] * x / stack
        return np.asarray(magnitude * (outer if of_rows else outer.T)).reshape(shape)

    states = walk.layer(node, node.inputs[i], kernel, reads, elements, window=window, columns=columns)
    return states, walk.grid(states, [1 if a == axis % ids.ndim else n for a, n in enumerate(places.shape)])


def _by_channel(walk: Walk, ids: Ids, places: Ids, axis: int, width: int) -> Ids | None:
    """Return the order in which elements along an axis are whole maps, channel by channel, each in order; None if they are not."""
    size = walk.size(ids)
    if not 1 < places.shape[axis] == places.size == width or width % size:
        return None
    states, at = walk.vector(ids, axis, width), places.ravel()
    order = np.lexsort((at, states))
    whole = (np.diff(states[order].reshape(-1, size)) == 0).all() and (at[order].reshape(-1, size) == np.arange(size)).all()
    return order if whole else None


def matmul(walk: Walk, node: PlainNode) -> None:
    """a[...,m,k] * b[...,k,n] -> y[...,m,n]; of two activations the geometric mean, each averaged over k"""
    (out,), rank = node.outputs, len(walk.shape(node.outputs[0]))
    (left, near), (right, far) = (_operand(walk, node, i) for i in (0, 1))
    if left is not None and right is None:
        states, rest = matrix_layer(walk, node, 1, weight_of(walk, node, 1), left, near, of_rows=1 in node.swapped)
        if rank == left.ndim:
            walk.put(out, states.reshape([1] * (rank - 1) + [-1]), rest)
        else:
            walk.put(out, states.reshape([1] * rank))
    elif left is None and right is not None:
        axis = max(-2, -right.ndim)
        states, rest = matrix_layer(walk, node, 0, weight_of(walk, node, 0), right, far, of_rows=0 not in node.swapped, axis=axis)
        if rank == right.ndim > 1:
            walk.put(out, states.reshape([1] * (rank - 2) + [-1, 1]), rest)
        else:
            walk.put(out, states.reshape([1] * rank))
    elif left is not None and right is not None and min(left.ndim, right.ndim) > 1:
        left, right = walk.even(left, near), walk.even(right, far)
        means = walk.mean(left, [left.ndim - 1]), walk.mean(right, [right.ndim - 2])
        walk.put(out, walk.product([x.reshape((1,) * (rank - x.ndim) + x.shape) for x in means]))
    else:
        raise UnsupportedError("its operands are vectors")


def _operand(walk: Walk, node: PlainNode, i: int) -> tuple[Ids | None, Ids]:
    """Return the states of input i and their places, None where it is constant."""
    name = node.inputs[i].name
    if name not in walk.ids:
        return None, np.empty(0, np.int64)
    ids, places = walk.ids[name], walk.places[name]
    return (ids.swapaxes(-1, -2), places.swapaxes(-1, -2)) if i in node.swapped else (ids, places)


def einsum(walk: Walk, node: gs.Node) -> None:
    """an activation and a weight that sums over one of its axes and makes one in place of it: ...k,kn->...n"""
    terms, _, result = str(node.attrs["equation"]).replace(" ", "").partition("->")
    letters = dict(zip((t.name for t in node.inputs), terms.split(","), strict=True))
    (weight,) = (i for i, t in enumerate(node.inputs) if t.name not in walk.ids)
    ((name, read),) = ((name, term) for name, term in letters.items() if name in walk.ids)
    own, ids, places = letters[node.inputs[weight].name], walk.ids[name], walk.places[name]
    made, summed = set(own) - set(read), set(own) & set(read) - set(result)
    if len(own) != 2 or len(made) != 1 or len(summed) != 1 or not made <= set(result):
        raise UnsupportedError("it is no layer of one axis for another")
    from_axes = [read.find(*(summed if letter in made else letter)) for letter in result]
    if sorted(from_axes) != list(range(len(read))):
        ids, places = walk.even(ids, places), np.zeros([1] * ids.ndim, np.int64)
    values, axis = weight_of(walk, node, weight), read.index(*summed)
    states, rest = matrix_layer(walk, node, weight, values, ids, places, of_rows=own[0] in made, axis=axis)
    states = states.reshape([-1 if letter in made else 1 for letter in result])
    walk.put(node.outputs[0], states, rest.transpose(from_axes) if rest.size > 1 else np.zeros([1] * len(result), np.int64))


def attention(walk: Walk, node: gs.Node) -> None:
    """q[b,t,h*d], k[b,s,g*d], v[b,s,g*e] -> y[b,t,h*e]: values by the means of queries and keys"""
    (out, *_), (q, k, v) = node.outputs, (walk.even(walk.ids[t.name]) for t in node.inputs[:3])
    if q.ndim != 3:
        raise UnsupportedError("its heads have an axis of their own")
    heads = int(node.attrs.get("q_num_heads", 0) or node.attrs["num_heads"])
    shared = int(node.attrs.get("kv_num_heads", heads))
    q, k, v = (walk.vector(x, 2, walk.shape(t)[2]) for x, t in zip((q, k, v), node.inputs, strict=False))
    q, k = (walk.mean(x.reshape(n, -1), [1]) for x, n in ((q, heads), (k, shared)))
    weighted = walk.product([q, np.repeat(k, heads // shared, 0)])
    each = np.repeat(v.reshape(shared, -1), heads // shared, 0)
    walk.put(out, walk.product([weighted, each]).reshape(1, 1, -1))


def recurrent(walk: Walk, node: PlainNode) -> None:
    """x[t,n,i] -> y = h + r h, h = w x, the magnitudes of all gates summed, directions averaged"""
    weights = {i: np.abs(weight_of(walk, node, i)) for i in (1, 2)}
    in_order = {i: values.swapaxes(1, 2) if i in node.swapped else values for i, values in weights.items()}
    size, states = in_order[2].shape[2], walk.vector(walk.even(walk.ids[node.inputs[0].name]), 2, in_order[1].shape[2])
    results = [states]
    for i, values in in_order.items():
        directions, rows, columns = values.shape
        matrix = values.reshape(directions, rows // size, size, columns).sum(1).mean(0)[None]
        elements = functools.partial(_gates, weights[i], rows // size, i in node.swapped)
        results.append(walk.layer(node, node.inputs[i], matrix[..., None], results[-1], elements))
    states = walk.sum(results[1:])
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, states.reshape([1] * (len(walk.shape(tensor)) - 1) + [-1]))


def _gates(values: NDArray[Any], gates: int, swapped: bool, slope: Floats, read: Floats) -> Floats:
    """Return the scores of a recurrent weight [directions, gates * hidden, read], or with the last two axes swapped."""
    scores = np.tile(slope[0][:, None] * read[0, :, 0], (gates, 1))
    return np.asarray(values / len(values) * (scores.T if swapped else scores))


def embed(walk: Walk, node: gs.Node, axis: int) -> None:
    """table[words, c] at indices -> y[..., c]: a layer that reads which word it is"""
    values = np.abs(weight_of(walk, node, 0))
    if axis or values.ndim != 2:
        raise UnsupportedError("its table has no channels")

    def elements(slope: Floats, read: Floats) -> Floats:
        return np.asarray(values / len(values) * slope[0])

    made = walk.layer(node, node.inputs[0], values.mean(0, dtype=np.float64)[None, :, None, None], np.array([INPUT]), elements)
    walk.put(node.outputs[0], made.reshape([1] * (len(walk.shape(node.outputs[0])) - 1) + [-1]))
