"""How each operator maps channels to channels: the table of rules, and the walk over a graph that applies them.

A tensor is an array of states, of size 1 along axes that carry no channels: what lies there is averaged. So data movement runs on the
states themselves, and what treats each element alone passes them on. Choices where SynFlow says nothing:

- a product of activations (a gate, attention) is their geometric mean, which conserves the flow: half through each operand. What is
  written x * sigmoid(x) is the identity then, as any activation is. Matrices are averaged over what they are summed over;
- a normalization has its scale, and statistics of one: LayerNormalization |gamma|, BatchNormalization |gamma| / sqrt(var + epsilon);
  dividing by an activation does nothing;
- softmax is an activation; differences, maxima and minima are sums;
- a layer reads the mean along all axes but the one it sums over;
- a recurrent layer adds up its gates, and makes one step: W x + R W x;
- an operator without a rule spreads the mean of all it reads evenly. Its node is listed in `ChannelNetwork.averaged`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import ModelError
from onnx_reconvene.flow import Layer as Labelled
from onnx_reconvene.flow import UnsupportedError, Value, weight_values
from onnx_reconvene.graph import bodies_of
from onnx_reconvene.groups import Analysis
from onnx_reconvene.operators import along_axis, channelwise, elementwise, normalization
from onnx_reconvene.operators.movement import reshape_labels
from onnx_reconvene.shapes import EVALUATE, Shape, as_slice, slice_operands
from onnx_reconvene.synflow.network import EMPTY, INPUT, ChannelNetwork, Floats, Ids, Layer, Product, Step, Sum

Rule = Callable[["Walk", gs.Node], None]


class Walk:
    """The states of the tensors of a graph, and the maps found so far."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.ids: dict[str, Ids] = {}  # a tensor that is missing is computed from constants alone
        self.states = 2
        self.steps: list[Step] = []
        self.averaged: list[str] = []
        self._labelled = {(layer.name, layer.weight): layer for layer in reversed(analysis.layers)}
        made = [analysis.solution.of(layer.out) for layer in analysis.layers]
        self._made = np.zeros(analysis.solution.reason.size + 1, bool)
        self._made[np.concatenate([np.empty(0, np.int64), *made])] = True
        self._made[-1] = False

    def run(self) -> ChannelNetwork:
        """Walk over the graph."""
        graph = self.analysis.graph
        for tensor in graph.inputs:
            self.ids[tensor.name] = np.full([1] * len(self.shape(tensor)), INPUT)
        for node in graph.nodes:
            self._visit(node)
        outputs = [self.ids[t.name].ravel() for t in graph.outputs if t.name in self.ids]
        sizes = [math.prod(self.shape(t)) for t in graph.outputs if t.name in self.ids]
        none = np.empty(0, np.int64)
        return ChannelNetwork(
            self.states,
            self.analysis.width,
            tuple(self.steps),
            np.concatenate([none, *outputs]),
            np.concatenate([none, *(np.full(ids.size, n / max(1, ids.size)) for ids, n in zip(outputs, sizes, strict=True))]),
            tuple(self.averaged),
        )

    def _visit(self, node: gs.Node) -> None:
        if self.analysis.integers.computes(node) or not any(t.name in self.ids for t in node.inputs):
            return
        rule = RULES.get(node.op) if not bodies_of(node) else None
        if rule is not None:
            try:
                rule(self, node)
            except (UnsupportedError, ValueError, IndexError):
                rule = None
        if rule is None:
            average(self, node)
            self.averaged.append(f"{node.op} '{name_of(node)}'")

    def shape(self, tensor: gs.Tensor) -> Shape:
        """Return the shape of a tensor; one of unknown shape counts as a number."""
        return self.analysis.shapes.get(tensor.name, ())

    def flows(self, node: gs.Node) -> list[Ids]:
        """Return the states of the inputs that are not constant."""
        return [self.ids[t.name] for t in node.inputs if t.name in self.ids]

    def put(self, tensor: gs.Tensor, ids: Ids) -> None:
        """Give a tensor states; along axes that carry no channels they are averaged."""
        shape = self.shape(tensor)
        if len(shape) != ids.ndim or any(n not in (1, size) for n, size in zip(ids.shape, shape, strict=True)):
            raise UnsupportedError(f"'{tensor.name}' of shape {list(shape)} cannot have states {list(ids.shape)}")
        carried = self._carries(tensor.name)
        self.ids[tensor.name] = self.mean(ids, [axis for axis in range(ids.ndim) if axis not in carried])

    def _carries(self, name: str) -> set[int]:
        """Return the axes along which a tensor has channels that can be removed; where it has none, the last along which it has
        channels that some layer makes."""
        found = self.analysis.flow.values.get(name, Value()).by_axis()
        removable = {axis for axis, labels in found.items() if (self.analysis.units(labels) >= 0).any()}
        made = [axis for axis, labels in found.items() if self._made[self.analysis.solution.of(labels)].any()]
        return removable or set(sorted(made)[-1:])

    def new(self, shape: Sequence[int]) -> Ids:
        """Return new states."""
        self.states += math.prod(shape)
        return np.arange(self.states - math.prod(shape), self.states).reshape(shape)

    def sum(self, terms: Sequence[Ids], weights: Floats | float = 1.0) -> Ids:
        """Return the states of a weighted sum; weights are broadcastable to [terms, ...]."""
        stacked = np.stack(np.broadcast_arrays(*terms))
        factors = np.broadcast_to(np.asarray(weights, np.float64), stacked.shape)
        made = self.new(stacked.shape[1:])
        with np.errstate(divide="ignore"):
            self.steps.append(Sum(stacked.reshape(len(stacked), -1), np.log2(factors).reshape(len(stacked), -1), made.ravel()))
        return made

    def mean(self, ids: Ids, axes: Iterable[int]) -> Ids:
        """Return the states of the means over axes, which keep size 1."""
        for axis in axes:
            first = ids.take([0], axis)
            if ids.shape[axis] > 1:
                ids = first if (ids == first).all() else self.sum(list(np.moveaxis(ids, axis, 0)), 1 / ids.shape[axis])
                ids = ids if ids.ndim == first.ndim else np.expand_dims(ids, axis)
        return ids

    def vector(self, ids: Ids, axis: int, size: int) -> Ids:
        """Return the states along one axis, averaged over all others."""
        axis %= ids.ndim
        along = self.mean(ids, [a for a in range(ids.ndim) if a != axis]).ravel()
        return np.broadcast_to(along, size)

    def scaled(self, ids: Ids, factor: NDArray[Any], out: gs.Tensor) -> Ids:
        """Return the states of ids times magnitudes that are broadcastable to out."""
        magnitude = np.abs(np.asarray(factor, np.float64))
        magnitude = magnitude.reshape((1,) * (len(self.shape(out)) - magnitude.ndim) + magnitude.shape)
        spread = tuple(axis for axis in range(magnitude.ndim) if axis not in self._carries(out.name))
        magnitude = magnitude.mean(spread, keepdims=True)
        return ids if (magnitude == 1).all() else self.sum([np.broadcast_arrays(ids, magnitude)[0]], magnitude[None])

    def layer(
        self,
        node: gs.Node,
        weight: gs.Tensor,
        matrix: NDArray[Any],
        reads: Ids,
        elements: Callable[[Floats, Floats], Floats],
    ) -> Ids:
        """Enter a layer, matrix [blocks, made by one, read by one] of magnitudes; returns the states it makes, in a row."""
        blocks, rows, columns = matrix.shape
        labelled = self._labelled.get((name_of(node), weight.name))
        made_units = self._units(labelled and labelled.out, blocks * rows)
        read_units = self._units(labelled and labelled.read, blocks * columns)
        made = self.new([blocks * rows])
        place = np.arange(reads.size)
        if blocks == 1:  # columns that read the same for the same unit are one
            pairs, place = np.unique(np.stack([reads, read_units]), axis=1, return_inverse=True)
            place = place.ravel()
            if pairs.shape[1] < reads.size:
                matrix = _summed(matrix[0], place, pairs.shape[1])[None]
                reads, read_units = pairs
            else:
                place = np.arange(reads.size)

        def scores(slope: Floats, x: Floats) -> Floats:
            return elements(slope.reshape(blocks, rows), x[place].reshape(blocks, columns))

        dense = np.ascontiguousarray(matrix, np.float32)
        self.steps.append(Layer(name_of(node), weight.name, dense, made, np.array(reads), made_units, read_units, scores))
        return made

    def _units(self, labels: Ids | None, size: int) -> Ids:
        """Return the units of labels, those of one block for all."""
        if labels is None or not labels.size or size % labels.size:
            return np.full(size, -1)
        return np.tile(self.analysis.units(labels), size // labels.size)

    def value(self, tensor: gs.Tensor) -> NDArray[Any]:
        """Return the value of a tensor computed from constants. Raises ModelError where that cannot be followed."""
        known = weight_values(tensor)
        known = self.analysis.integers.get(tensor) if known is None else known
        if known is not None:
            return known
        node = tensor.inputs[0] if tensor.inputs else None
        if node is not None and node.op in CONSTANT:
            return CONSTANT[node.op](node.attrs, *(self.value(t) for t in node.inputs if t.name))
        what = f"{node.op} '{name_of(node)}'" if node is not None else f"'{tensor.name}'"
        raise ModelError(f"{what}: synflow needs the value of '{tensor.name}', which it cannot evaluate")


def _summed(matrix: NDArray[Any], place: Ids, size: int) -> NDArray[np.float32]:
    """Return matrix [rows, columns] with columns of the same place summed, [rows, size]."""
    each = place.size // size
    if np.array_equal(place, np.repeat(np.arange(size), each)):
        result: NDArray[np.float32] = (matrix.reshape(-1, each) @ np.ones(each, matrix.dtype)).reshape(len(matrix), size)
        return result
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(size))
    return np.add.reduceat(matrix[:, order], starts, 1)


def name_of(node: gs.Node) -> str:
    """Return what a node is called: its own name, or that of what it makes."""
    return str(node.name or next((t.name for t in node.outputs if t.name), ""))


def dequantized(attributes: Any, x: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | float = 0.0) -> NDArray[Any]:
    """Return what quantized x stands for, with a scale and zero point for all or for each position along one axis."""
    shape = [-1 if axis == attributes.get("axis", 1) % max(1, x.ndim) else 1 for axis in range(x.ndim)]
    scale, zero = (np.reshape(p, shape) if np.size(p) > 1 else np.reshape(p, ()) for p in (scale, np.asarray(zero, np.float32)))
    return np.asarray((x.astype(np.float32) - zero) * scale)


CONSTANT: dict[str, Callable[..., NDArray[Any]]] = {**EVALUATE, "DequantizeLinear": dequantized}


def passed(walk: Walk, node: gs.Node) -> None:
    """f(x) -> x, where f treats channels alike, each by itself"""
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, walk.flows(node)[0])


def average(walk: Walk, node: gs.Node) -> None:
    """the mean of all that is read, in every channel that is made"""
    means = [walk.mean(ids, range(ids.ndim)).ravel() for ids in walk.flows(node)]
    one = walk.sum(means, 1 / len(means)) if len(means) > 1 else means[0]
    for tensor in node.outputs:
        if tensor.name:
            walk.ids[tensor.name] = one.reshape([1] * len(walk.shape(tensor)))


def aligned(walk: Walk, node: gs.Node, rank: int) -> list[Ids]:
    """Return the states of inputs that are not constant, broadcast together, as arrays of this rank."""
    return [ids.reshape((1,) * (rank - ids.ndim) + ids.shape) for ids in walk.flows(node)]


def add(walk: Walk, node: gs.Node) -> None:
    """a + b -> the sum of levels; what is constant is a bias"""
    (out,) = node.outputs
    terms = aligned(walk, node, len(walk.shape(out)))
    if node.op == "Where" and node.inputs[0].name in walk.ids:
        terms = terms[1:] or terms
    share = 1 / len(terms) if node.op == "Mean" else 1.0
    walk.put(out, walk.sum(terms, share) if len(terms) > 1 else terms[0])


def multiply(walk: Walk, node: gs.Node) -> None:
    """a * b -> the geometric mean of levels; what is constant is a scale"""
    (out,) = node.outputs
    factors = aligned(walk, node, len(walk.shape(out)))
    ids = product(walk, factors)
    for tensor in [t for t in node.inputs if t.name not in walk.ids]:
        ids = walk.scaled(ids, walk.value(tensor), out)
    walk.put(out, ids)


def product(walk: Walk, factors: Sequence[Ids]) -> Ids:
    """Return the states of the geometric mean of factors."""
    if len(factors) == 1:
        return factors[0]
    stacked = np.stack(np.broadcast_arrays(*factors))
    made = walk.new(stacked.shape[1:])
    walk.steps.append(Product(stacked.reshape(len(stacked), -1), made.ravel()))
    return made


def divide(walk: Walk, node: gs.Node) -> None:
    """a / b -> a over the magnitude of a constant b; a where b is an activation, b where a is constant"""
    (out,) = node.outputs
    ids = aligned(walk, node, len(walk.shape(out)))[0]
    if node.inputs[1].name not in walk.ids:
        magnitude = np.abs(np.asarray(walk.value(node.inputs[1]), np.float64))
        ids = walk.scaled(ids, np.divide(1, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0), out)
    walk.put(out, ids)


def batch_norm(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] * |scale[c]| / sqrt(variance[c] + epsilon)"""
    scale, variance = (np.asarray(walk.value(node.inputs[i]), np.float64) for i in (1, 4))
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    out = node.outputs[0]
    walk.put(out, walk.scaled(walk.ids[node.inputs[0].name], factor.reshape(-1, *[1] * (len(walk.shape(out)) - 2)), out))


def channel_norm(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] * |scale[c]|, or a scale for each block of c"""
    out = node.outputs[0]
    scale = np.abs(walk.value(node.inputs[1]))
    scale = np.repeat(scale, walk.shape(out)[1] // scale.size)
    walk.put(out, walk.scaled(walk.ids[node.inputs[0].name], scale.reshape(-1, *[1] * (len(walk.shape(out)) - 2)), out))


def layer_norm(walk: Walk, node: gs.Node) -> None:
    """x[..., normalized] * |scale[normalized]|"""
    out = node.outputs[0]
    ids = walk.ids[node.inputs[0].name]
    if len(node.inputs) > 1 and node.inputs[1].name not in walk.ids:
        ids = walk.scaled(ids, walk.value(node.inputs[1]), out)
    walk.put(out, ids)


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
    values = quantized(walk, node, weight, scale, zero) if zero is not None else weight_of(walk, node, weight)
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


def quantized(walk: Walk, node: gs.Node, weight: int, scale: int | None, zero: int) -> NDArray[np.float32]:
    """Return what a quantized weight stands for, in units of its scale where that is not known."""
    values = weight_of(walk, node, weight)
    given = [i if i is not None and i < len(node.inputs) and node.inputs[i].name else None for i in (scale, zero)]
    factor, offset = (default if i is None else walk.value(node.inputs[i]) for i, default in zip(given, (1.0, 0.0), strict=True))
    return np.asarray(dequantized({"axis": 0 if "Conv" in node.op else -1}, values, np.asarray(factor), np.asarray(offset)))


def conv_transpose(walk: Walk, node: gs.Node) -> None:
    """x[n,i,...] * w[i,o/g,...] -> y[n,o,...]"""
    values, groups = weight_of(walk, node, 1), int(node.attrs.get("group", 1))
    rows, columns, *kernel = values.shape
    inner = taps(walk, node, node.inputs[0], kernel)
    matrix = (np.abs(values).reshape(rows * columns, -1) @ inner.ravel().astype(np.float32)).reshape(groups, rows // groups, columns)
    reads = walk.vector(walk.ids[node.inputs[0].name], 1, rows)

    def elements(slope: Floats, read: Floats) -> Floats:
        outer = (read[:, :, None] * slope[:, None, :]).reshape(rows, columns, *[1] * len(kernel))
        return np.asarray(np.abs(values) * inner * outer)

    made = walk.layer(node, node.inputs[1], matrix.transpose(0, 2, 1), reads, elements)
    walk.put(node.outputs[0], made.reshape(1, -1, *[1] * len(kernel)))


def gemm(walk: Walk, node: gs.Node) -> None:
    """a[m,k] * b[k,n] -> y[m,n], a and b transposed at will"""
    ids = walk.ids[node.inputs[0].name]
    made = matrix_layer(walk, node, 1, ids.T if node.attrs.get("transA", 0) else ids, bool(node.attrs.get("transB", 0)))
    walk.put(node.outputs[0], walk.scaled(made[None], np.asarray(node.attrs.get("alpha", 1.0)), node.outputs[0]))


def matrix_layer(walk: Walk, node: gs.Node, weight: int, ids: Ids, of_rows: bool, axis: int = -1) -> Ids:
    """Enter x along an axis of ids times a matrix, whose rows, or else columns, make the output; returns the states it makes."""
    values = np.abs(weight_of(walk, node, weight))
    if values.ndim > 2:  # a stack of matrices
        values = values.mean(tuple(range(values.ndim - 2)))
    matrix = np.atleast_2d(values if of_rows or values.ndim < 2 else values.T)
    stored, shape = matrix if of_rows else matrix.T, walk.shape(node.inputs[weight])

    def elements(slope: Floats, read: Floats) -> Floats:
        outer = slope[0][:, None] * read[0] if of_rows else read[0][:, None] * slope[0]
        return np.broadcast_to((stored * outer).reshape(shape[-2:]), shape)

    return walk.layer(node, node.inputs[weight], matrix[None], walk.vector(ids, axis, matrix.shape[1]), elements)


def matmul(walk: Walk, node: gs.Node, a: int = 0, b: int = 1) -> None:
    """a[...,m,k] * b[...,k,n] -> y[...,m,n]; of two activations the geometric mean, each averaged over k"""
    (out,) = node.outputs
    left, right = (walk.ids.get(node.inputs[i].name) for i in (a, b))
    rank = len(walk.shape(out))
    if left is not None and right is None:
        made = matrix_layer(walk, node, b, left, of_rows=False)
        walk.put(out, made.reshape([1] * (rank - 1) + [-1]) if rank == left.ndim else made[:1].reshape([1] * rank))
    elif left is None and right is not None:
        made = matrix_layer(walk, node, a, right, of_rows=True, axis=max(-2, -right.ndim))
        walk.put(out, made.reshape([1] * (rank - 2) + [-1, 1]))
    elif left is not None and right is not None and min(left.ndim, right.ndim) > 1:
        left, right = walk.mean(left, [left.ndim - 1]), walk.mean(right, [right.ndim - 2])
        walk.put(out, product(walk, [x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (left, right)]))
    else:
        raise UnsupportedError("its operands are vectors")


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


def reshape(walk: Walk, node: gs.Node) -> None:
    """the same elements in the same order, in another shape"""
    (out,) = node.outputs
    walk.put(out, reshape_labels(walk.shape(node.inputs[0]), walk.shape(out), walk.ids[node.inputs[0].name]))


def transpose(walk: Walk, node: gs.Node) -> None:
    """y[permuted axes]"""
    walk.put(node.outputs[0], np.transpose(walk.ids[node.inputs[0].name], node.attrs.get("perm")))


def whole(ids: Ids, axis: int, size: int) -> Ids:
    """Return ids as long as the tensor along an axis."""
    return np.broadcast_to(ids, (*ids.shape[:axis], size, *ids.shape[axis + 1 :]))


def concat(walk: Walk, node: gs.Node) -> None:
    """x1[..., c1, ...], x2[..., c2, ...] -> y[..., c1 + c2, ...]; what is constant is a bias"""
    (out,) = node.outputs
    rank = len(walk.shape(out))
    axis = node.attrs["axis"] % rank
    parts = [whole(walk.ids.get(t.name, np.full([1] * rank, EMPTY)), axis, walk.shape(t)[axis]) for t in node.inputs]
    others = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
    spread = [np.broadcast_to(p, (*others[:axis], p.shape[axis], *others[axis + 1 :])) for p in parts]
    walk.put(out, np.concatenate(spread, axis))


def split(walk: Walk, node: gs.Node) -> None:
    """x[..., c1 + c2, ...] -> y1[..., c1, ...], y2[..., c2, ...]"""
    ids = walk.ids[node.inputs[0].name]
    axis = node.attrs.get("axis", 0) % ids.ndim
    sizes = [walk.shape(t)[axis] for t in node.outputs]
    for tensor, end, size in zip(node.outputs, np.cumsum(sizes).tolist(), sizes, strict=True):
        if tensor.name:
            walk.put(tensor, ids.take(range(end - size, end), axis) if ids.shape[axis] > 1 else ids)


def slice_(walk: Walk, node: gs.Node) -> None:
    """x[starts:ends:steps along axes]"""
    ids = walk.ids[node.inputs[0].name]
    operands = [walk.value(t) if t.name else None for t in node.inputs[1:]]
    for start, end, axis, step in zip(*slice_operands(node.attrs, ids.ndim, operands), strict=True):
        if ids.shape[axis] > 1:
            ids = ids[(slice(None),) * axis + (as_slice(start, end, step, ids.shape[axis]),)]
    walk.put(node.outputs[0], ids)


def gather(walk: Walk, node: gs.Node) -> None:
    """x[..., indices, ...]; rows of a constant table are a layer of embeddings"""
    data, index = node.inputs
    axis = node.attrs.get("axis", 0) % len(walk.shape(data))
    rank = len(walk.shape(index))
    if data.name not in walk.ids:
        embed(walk, node, axis)
        return
    ids = walk.ids[data.name]
    known = walk.analysis.integers.get(index)
    if known is None or ids.shape[axis] == 1:
        ids = walk.mean(ids, [axis])
        known = np.zeros([1] * rank, np.int64)
    walk.put(node.outputs[0], np.take(ids, known, axis))


def embed(walk: Walk, node: gs.Node, axis: int) -> None:
    """table[words, c] at indices -> y[..., c]: a layer that reads which word it is"""
    values = np.abs(weight_of(walk, node, 0))
    if axis or values.ndim != 2:
        raise UnsupportedError("its table has no channels")

    def elements(slope: Floats, read: Floats) -> Floats:
        return np.asarray(values / len(values) * slope[0])

    made = walk.layer(node, node.inputs[0], values.mean(0, dtype=np.float64)[None, :, None], np.array([INPUT]), elements)
    walk.put(node.outputs[0], made.reshape([1] * (len(walk.shape(node.outputs[0])) - 1) + [-1]))


def pad(walk: Walk, node: gs.Node) -> None:
    """x[...] with zeros before and after, where these are channels"""
    (out,) = node.outputs
    ids, shape = walk.ids[node.inputs[0].name], walk.shape(node.inputs[0])
    pads = np.asarray(node.attrs["pads"] if "pads" in node.attrs else walk.value(node.inputs[1])).reshape(2, -1)
    axes = walk.value(node.inputs[3]).tolist() if len(node.inputs) > 3 and node.inputs[3].name else range(ids.ndim)
    for k, axis in enumerate(axes):
        if ids.shape[axis] > 1 and pads[:, k].any():
            widths = [tuple(pads[:, k]) if a == axis % ids.ndim else (0, 0) for a in range(ids.ndim)]
            ids = np.pad(ids, widths, constant_values=EMPTY)
        elif shape[axis] == 1 and pads[:, k].any():
            raise UnsupportedError("it pads what has no channels")
    walk.put(out, ids)


def expand(walk: Walk, node: gs.Node) -> None:
    """x[..., 1, ...] -> y[..., n, ...]"""
    (out,) = node.outputs
    walk.put(out, aligned(walk, node, len(walk.shape(out)))[0])


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


def reduction(walk: Walk, node: gs.Node) -> None:
    """x[..., reduced, ...] -> the mean over reduced axes"""
    ids, (out,) = walk.ids[node.inputs[0].name], node.outputs
    given = walk.value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
    reduced = range(ids.ndim) if given is None or not np.size(given) else [int(a) % ids.ndim for a in np.ravel(given)]
    if node.attrs.get("noop_with_empty_axes", 0) and (given is None or not np.size(given)):
        reduced = []
    ids = walk.mean(ids, reduced)
    count = math.prod(walk.shape(node.inputs[0])[axis] for axis in reduced)
    ids = ids if node.attrs.get("keepdims", 1) else ids.reshape([n for axis, n in enumerate(ids.shape) if axis not in set(reduced)])
    walk.put(out, walk.scaled(ids, np.asarray(count), out) if node.op in ("ReduceSum", "ReduceL1") else ids)


PASSED = [*elementwise.UNARY, *channelwise.OPERATORS, *along_axis.OPERATORS, "BiasGelu", "CastLike", "DequantizeLinear"]
PASSED += ["DynamicQuantizeLinear", "FastGelu", "Identity", "LRN", "LpNormalization", "MeanVarianceNormalization", "PRelu", "Pow"]
PASSED += ["QLinearLeakyRelu", "QLinearSigmoid", "QuantizeLinear", "QuickGelu", "RotaryEmbedding", "Softmax", "LogSoftmax", "Hardmax"]

RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSED, passed),
    **dict.fromkeys(["Add", "Max", "Mean", "Min", "QLinearAdd", "Sub", "Sum", "Where"], add),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Unsqueeze"], reshape),
    **dict.fromkeys(["Conv", "DeformConv", "FusedConv"], conv),
    **dict.fromkeys(["GRU", "LSTM", "RNN"], recurrent),
    **dict.fromkeys(["Gemm", "FusedGemm"], gemm),
    **dict.fromkeys(["GroupNormalization", "InstanceNormalization"], channel_norm),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"], layer_norm),
    **dict.fromkeys(normalization.REDUCTIONS, reduction),
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "ConvInteger": functools.partial(conv, zero=3),
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": divide,
    "Expand": expand,
    "Gather": gather,
    "MatMul": matmul,
    "Mul": multiply,
    "Pad": pad,
    "QLinearConv": functools.partial(conv, weight=3, scale=4, zero=5),
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": tile,
    "Transpose": transpose,
}


def channel_network(analysis: Analysis) -> ChannelNetwork:
    """Return the network that an analysis speaks of, reduced to its channels.

    Raises ModelError where units lie in layers that cannot be followed, or a weight cannot be evaluated.
    """
    network = Walk(analysis).run()
    reached = np.zeros(analysis.width + 1, bool)
    for layer in network.layers:
        reached[layer.made_units] = reached[layer.read_units] = True
    for group in analysis.groups:
        if not reached[group.units].all():
            raise ModelError(f"node '{group.layers[0]}': synflow has no rule for a layer like this; choose another criterion")
    return network
