"""A walk over a graph that finds how channels map to channels.

A tensor is an array of states, of size 1 along axes that carry no channels: what lies there is averaged. So data movement runs on
the states themselves, and what treats each element alone passes them on. A tensor without states is computed from constants alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import ModelError
from onnx_reconvene.flow import UnsupportedError, Value, weight_values
from onnx_reconvene.graph import bodies_of, every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.shapes import EVALUATE, Shape
from onnx_reconvene.synflow.network import INPUT, ChannelNetwork, Elements, Floats, Ids, Layer, Product, Step, Sum

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
        self._made = np.zeros(analysis.solution.reason.size + 1, bool)  # by component
        for layer in analysis.layers:
            self._made[analysis.solution.of(layer.out)] = True
        self._made[-1] = False

    def run(self, rules: Mapping[str, Rule]) -> ChannelNetwork:
        """Walk over the graph; rules say what an operator does."""
        graph = self.analysis.graph
        for tensor in graph.inputs:
            self.ids[tensor.name] = np.full([1] * len(self.shape(tensor)), INPUT)
        for node in graph.nodes:
            self._visit(node, rules)
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

    def _visit(self, node: gs.Node, rules: Mapping[str, Rule]) -> None:
        if self.analysis.integers.computes(node) or not self.flows(node):
            return
        rule = rules.get(node.op) if not bodies_of(node) else None
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
        """Return the states of what a node reads, in its bodies too, that is not constant."""
        inner = [t for body in bodies_of(node) for part in every_node(body) for t in part.inputs]
        return [self.ids[t.name] for t in [*node.inputs, *inner] if t.name in self.ids]

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

    def product(self, factors: Sequence[Ids]) -> Ids:
        """Return the states of the geometric mean of factors."""
        stacked = np.stack(np.broadcast_arrays(*factors))
        made = self.new(stacked.shape[1:])
        self.steps.append(Product(stacked.reshape(len(stacked), -1), made.ravel()))
        return made

    def layer(
        self, node: gs.Node, weight: gs.Tensor, matrix: NDArray[Any], reads: Ids, elements: Elements, own: bool = True
    ) -> Ids:
        """Enter a layer, matrix [blocks, made by one, read by one] of magnitudes; returns the states it makes, in a row.

        elements gives the scores of the elements of the weight for derivatives of what is made, [blocks, made by one], and levels
        of what is read, [blocks, read by one]. What is made scores if it has an axis of its own in the weight.
        """
        blocks, rows, columns = matrix.shape
        labelled = self._labelled.get((name_of(node), weight.name)) if len(self.shape(weight)) > 1 else None
        none = np.empty(0, np.int64)
        made_units = self._units(none if labelled is None or not own else labelled.out, blocks * rows)
        read_units = self._units(none if labelled is None else labelled.read, blocks * columns)
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

        def scores(slope: Floats, x: Floats) -> dict[str, Floats]:
            found = elements(slope.reshape(blocks, rows), x[place].reshape(blocks, columns))
            return self._at_source(weight, found)

        dense = np.ascontiguousarray(matrix, np.float32)
        self.steps.append(Layer(dense, made, np.array(reads), made_units, read_units, scores))
        return made

    def _at_source(self, weight: gs.Tensor, scores: Floats) -> dict[str, Floats]:
        """Return scores of a weight as scores of the stored weights that it is moved from."""
        if weight.name in self.analysis.flow.weights:
            return {weight.name: scores}
        found: dict[str, Floats] = {}
        waiting, sources = [weight], set()
        while waiting:
            tensor = waiting.pop()
            if tensor.name in self.analysis.flow.weights:
                sources.add(tensor.name)
            else:
                waiting += [t for node in tensor.inputs for t in node.inputs]
        for name in sorted(sources):
            place = self._moved(weight, name)
            shape, there = self.analysis.shapes[name], place >= 0
            found[name] = np.bincount(place[there], scores[there], math.prod(shape)).reshape(shape).astype(np.float64)
        return found

    def _moved(self, tensor: gs.Tensor, name: str) -> NDArray[Any]:
        """Return where each element of a tensor comes from in the stored weight of this name, -1 for other weights."""
        if tensor.name in self.analysis.flow.weights:
            shape = self.shape(tensor)
            return np.arange(math.prod(shape)).reshape(shape) if tensor.name == name else np.full(shape, -1)
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op == "Constant":
            return self.value(tensor)
        operands = [self._moved(t, name) for t in node.inputs if t.name]
        return operands[0] if node.op in ("Cast", "DequantizeLinear") else EVALUATE[node.op](node.attrs, *operands)

    def _units(self, labels: Ids, size: int) -> Ids:
        """Return the units of labels, those of one block for all; -1 where labels do not fit."""
        if not labels.size or size % labels.size:
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

    def magnitude(self, tensor: gs.Tensor) -> NDArray[np.float64]:
        """Return the magnitudes of a constant factor; one for a mask or whatever else cannot be evaluated."""
        try:
            return np.abs(np.asarray(self.value(tensor), np.float64))
        except ModelError:
            return np.ones(())


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


def average(walk: Walk, node: gs.Node) -> None:
    """the mean of all that is read, in every channel that is made"""
    means = [walk.mean(ids, range(ids.ndim)).ravel() for ids in walk.flows(node)]
    one = walk.sum(means, 1 / len(means)) if len(means) > 1 else means[0]
    for tensor in node.outputs:
        if tensor.name:
            walk.ids[tensor.name] = one.reshape([1] * len(walk.shape(tensor)))
