"""How layers map channels to channels: the magnitudes of their weights, summed over the kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.synflow.network import INPUT, Floats, Ids
from onnx_reconvene.synflow.walk import Walk, dequantized


def inside(size: int, out: int, kernel: int, stride: int, dilation: int, pad: int) -> Floats:
    """Return, for each tap of a kernel along one axis, the fraction of output positions at which it lies inside the input."""
    at = np.arange(out) * stride - pad + np.arange(kernel)[:, None] * dilation
    result: Floats = ((at >= 0) & (at < size)).mean(1)
    return result


def taps(walk: Walk, node: gs.Node, x: gs.Tensor, kernel: Sequence[int]) -> Floats:
    """Return how much each tap of a kernel contributes to the mean of the output, [*kernel]; for a transposed convolution, which
    is the other way round, how many input positions it carries to the output for each position there."""
    near, far, attributes = walk.shape(x)[2:], walk.shape(node.outputs[0])[2:], node.attrs
    transposed = node.op == "ConvTranspose"
    source, target = (far, near) if transposed else (near, far)
    rank = len(kernel)
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads = attributes.get("pads") or [0] * rank
    result = np.ones(())
    for axis, (n, m, k, s, d) in enumerate(zip(source, target, kernel, strides, dilations, strict=True)):
        pad = pads[axis]
        if attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            whole = max(0, (m - 1) * s + (k - 1) * d + 1 - n)
            pad = whole // 2 if attributes["auto_pad"] == "SAME_UPPER" else whole - whole // 2
        along = inside(n, m, k, s, d, pad)
        result = result[..., None] * (along * m / n if transposed else along)
    return result


def conv(walk: Walk, node: gs.Node, x: int = 0, weight: int = 1, scale: int | None = None, zero: int | None = None) -> None:
    """x[n,i,...] * w[o,i/g,...] -> y[n,o,...]"""
    tensor, groups = node.inputs[weight], int(node.attrs.get("group", 1))
    values = quantized(walk, node, weight, scale, zero)
    rows, columns, *kernel = values.shape
    inner = taps(walk, node, node.inputs[x], kernel)
    matrix = np.abs(values).reshape(rows * columns, -1) @ inner.ravel().astype(np.float32)
    reads = walk.vector(walk.ids[node.inputs[x].name], 1, groups * columns)

    def elements(slope: Floats, read: Floats) -> Floats:
        outer = (slope[:, :, None] * read[:, None, :]).reshape(rows, columns, *[1] * len(kernel))
        return np.asarray(np.abs(values) * inner * outer)

    made = walk.layer(node, tensor, matrix.reshape(groups, rows // groups, columns), reads, elements)
    walk.put(node.outputs[0], made.reshape(1, -1, *[1] * len(kernel)))


def weight_of(walk: Walk, node: gs.Node, i: int) -> NDArray[np.float32]:
    """Return the value of input i, a weight; one that is computed from data is unsupported."""
    if node.inputs[i].name in walk.ids:
        raise UnsupportedError(f"'{node.inputs[i].name}' is computed from data")
    return np.asarray(walk.value(node.inputs[i]), np.float32)


def quantized(walk: Walk, node: gs.Node, weight: int, scale: int | None, zero: int | None) -> NDArray[np.float32]:
    """Return what a weight stands for, given the inputs that hold its scale and zero point where it is quantized."""
    values = weight_of(walk, node, weight)
    if scale is None and zero is None:
        return values
    given = [i if i is not None and i < len(node.inputs) and node.inputs[i].name else None for i in (scale, zero)]
    factor, offset = (default if i is None else walk.value(node.inputs[i]) for i, default in zip(given, (1.0, 0.0), strict=True))
    return np.asarray(dequantized({"axis": 0 if "Conv" in node.op else -1}, values, np.asarray(factor), np.asarray(offset)))


def conv_transpose(walk: Walk, node: gs.Node) -> None:
    """x[n,i,...] * w[i,o/g,...] -> y[n,o,...]"""
    values, groups = weight_of(walk, node, 1), int(node.attrs.get("group", 1))
    rows, columns, *kernel = values.shape
    inner = taps(walk, node, node.inputs[0], kernel)
    matrix = (np.abs(values).reshape(rows * columns, -1) @ inner.ravel().astype(np.float32)).reshape(
        groups, rows // groups, columns
    )
    reads = walk.vector(walk.ids[node.inputs[0].name], 1, rows)

    def elements(slope: Floats, read: Floats) -> Floats:
        outer = (read[:, :, None] * slope[:, None, :]).reshape(rows, columns, *[1] * len(kernel))
        return np.asarray(np.abs(values) * inner * outer)

    own = groups == 1 or min(rows, groups * columns) > groups  # else whole groups go, with what they read
    made = walk.layer(node, node.inputs[1], matrix.transpose(0, 2, 1), reads, elements, own)
    walk.put(node.outputs[0], made.reshape(1, -1, *[1] * len(kernel)))


def gemm(walk: Walk, node: gs.Node) -> None:
    """a[m,k] * b[k,n] -> y[m,n], a and b transposed at will"""
    ids = walk.ids[node.inputs[0].name]
    ids = ids.T if node.attrs.get("transA", 0) else ids
    made = matrix_layer(walk, node, 1, weight_of(walk, node, 1), ids, of_rows=bool(node.attrs.get("transB", 0)))
    walk.put(node.outputs[0], walk.scaled(made[None], np.asarray(node.attrs.get("alpha", 1.0)), node.outputs[0]))


def matrix_layer(walk: Walk, node: gs.Node, i: int, values: NDArray[Any], ids: Ids, of_rows: bool, axis: int = -1) -> Ids:
    """Enter x along an axis of ids times a matrix, or the mean of a stack of them, whose rows, or else columns, make the output.

    values are those of input i. Returns the states that are made.
    """
    shape, magnitude = values.shape, np.abs(values)
    if values.ndim < 2:
        magnitude = magnitude[None] if of_rows else magnitude[:, None]
    stack = math.prod(shape[:-2])
    matrix = magnitude.mean(tuple(range(magnitude.ndim - 2)))
    matrix = matrix if of_rows else matrix.T

    def elements(slope: Floats, read: Floats) -> Floats:
        outer = slope[0][:, None] * read[0] / stack
        return np.asarray(magnitude * (outer if of_rows else outer.T)).reshape(shape)

    return walk.layer(node, node.inputs[i], matrix[None], walk.vector(ids, axis, matrix.shape[1]), elements)


def matmul(walk: Walk, node: gs.Node, a: int = 0, b: int = 1, scale: int | None = None, zero: int | None = None) -> None:
    """a[...,m,k] * b[...,k,n] -> y[...,m,n]; of two activations the geometric mean, each averaged over k"""
    if any(node.attrs.get(name, 0) for name in ("transA", "transB", "transBatchA", "transBatchB")):
        raise UnsupportedError("it transposes an operand")
    (out,) = node.outputs
    left, right = (walk.ids.get(node.inputs[i].name) for i in (a, b))
    rank = len(walk.shape(out))
    if left is not None and right is None:
        made = matrix_layer(walk, node, b, quantized(walk, node, b, scale, zero), left, of_rows=False)
        walk.put(out, made.reshape([1] * (rank - 1) + [-1]) if rank == left.ndim else made.reshape([1] * rank))
    elif left is None and right is not None:
        made = matrix_layer(walk, node, a, weight_of(walk, node, a), right, of_rows=True, axis=max(-2, -right.ndim))
        walk.put(out, made.reshape([1] * (rank - 2) + [-1, 1]) if rank == right.ndim > 1 else made.reshape([1] * rank))
    elif left is not None and right is not None and min(left.ndim, right.ndim) > 1:
        means = walk.mean(left, [left.ndim - 1]), walk.mean(right, [right.ndim - 2])
        walk.put(out, walk.product([x.reshape((1,) * (rank - x.ndim) + x.shape) for x in means]))
    else:
        raise UnsupportedError("its operands are vectors")


def einsum(walk: Walk, node: gs.Node) -> None:
    """an activation and a weight that sums over one of its axes and makes one in place of it: ...k,kn->...n"""
    terms, _, result = str(node.attrs["equation"]).replace(" ", "").partition("->")
    letters = dict(zip((t.name for t in node.inputs), terms.split(","), strict=True))
    (weight,) = (i for i, t in enumerate(node.inputs) if t.name not in walk.ids)
    ((x, read),) = ((walk.ids[name], term) for name, term in letters.items() if name in walk.ids)
    own = letters[node.inputs[weight].name]
    made, summed = set(own) - set(read), set(own) & set(read) - set(result)
    if len(own) != 2 or len(made) != 1 or len(summed) != 1 or not made <= set(result):
        raise UnsupportedError("it is no layer of one axis for another")
    of_rows, axis = own[0] in made, read.index(*summed)
    ids = matrix_layer(walk, node, weight, weight_of(walk, node, weight), x, of_rows, axis)
    walk.put(node.outputs[0], ids.reshape([-1 if letter in made else 1 for letter in result]))


def attention(walk: Walk, node: gs.Node) -> None:
    """q[b,t,h*d], k[b,s,g*d], v[b,s,g*e] -> y[b,t,h*e]: values by the means of queries and keys"""
    (out, *_), (q, k, v) = node.outputs, (walk.ids[t.name] for t in node.inputs[:3])
    if q.ndim != 3:
        raise UnsupportedError("its heads have an axis of their own")
    heads = int(node.attrs.get("q_num_heads", 0) or node.attrs["num_heads"])
    shared = int(node.attrs.get("kv_num_heads", heads))
    q, k, v = (walk.vector(x, 2, walk.shape(t)[2]) for x, t in zip((q, k, v), node.inputs, strict=False))
    q, k = (walk.mean(x.reshape(n, -1), [1]) for x, n in ((q, heads), (k, shared)))
    weighted = walk.product([q, np.repeat(k, heads // shared, 0)])
    each = np.repeat(v.reshape(shared, -1), heads // shared, 0)
    walk.put(out, walk.product([weighted, each]).reshape(1, 1, -1))


def recurrent(walk: Walk, node: gs.Node) -> None:
    """x[t,n,i] -> y = h + r h, h = w x, the magnitudes of all gates summed, directions averaged"""
    size = walk.shape(node.inputs[2])[2]
    made = walk.vector(walk.ids[node.inputs[0].name], 2, walk.shape(node.inputs[1])[2])
    results = [made]
    for i in (1, 2):
        values = np.abs(weight_of(walk, node, i))
        directions, rows, columns = values.shape
        matrix = values.reshape(directions, rows // size, size, columns).sum(1).mean(0)[None]
        elements = functools.partial(_gates, values, rows // size)
        results.append(walk.layer(node, node.inputs[i], matrix, results[-1], elements))
    made = walk.sum(results[1:])
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, made.reshape([1] * (len(walk.shape(tensor)) - 1) + [-1]))


def _gates(values: NDArray[Any], gates: int, slope: Floats, read: Floats) -> Floats:
    """Return the scores of a recurrent weight [directions, gates * hidden, read]."""
    return np.asarray(values / len(values) * np.tile(slope[0][:, None] * read[0], (gates, 1)))


def embed(walk: Walk, node: gs.Node, axis: int) -> None:
    """table[words, c] at indices -> y[..., c]: a layer that reads which word it is"""
    values = np.abs(weight_of(walk, node, 0))
    if axis or values.ndim != 2:
        raise UnsupportedError("its table has no channels")

    def elements(slope: Floats, read: Floats) -> Floats:
        return np.asarray(values / len(values) * slope[0])

    made = walk.layer(node, node.inputs[0], values.mean(0, dtype=np.float64)[None, :, None], np.array([INPUT]), elements)
    walk.put(node.outputs[0], made.reshape([1] * (len(walk.shape(node.outputs[0])) - 1) + [-1]))
