"""A walk over a graph that finds how channels map to channels.

A tensor is an array of states, of size 1 along axes that carry no channels: what lies there is averaged, or it is the positions of
a map, of which an array like it tells the place of each. So data movement runs on states and places themselves, and what treats
each element alone passes them on. A tensor without states is computed from constants alone.
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
from onnx_reconvene.names import first_output, name_of
from onnx_reconvene.shapes import EvaluationError, Shape, evaluate
from onnx_reconvene.synflow.network import ChannelNetwork
from onnx_reconvene.synflow.steps import EVEN, INPUT, Elements, Floats, Ids, Kinds, Layer, Pool, Product, Step, Sum, Window
from onnx_reconvene.twins import as_plain

Rule = Callable[["Walk", Any], None]
POINT = Window(np.zeros((1, 1), np.int64), 1)  # one tap, at one position


class Walk:
    """The states of the tensors of a graph, and the maps found so far."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.ids: dict[str, Ids] = {}  # a tensor that is missing is computed from constants alone
        self.places: dict[str, Ids] = {}  # positions in the maps of its states
        self.profile = np.zeros(2, np.int64)  # of each state
        self.positions = [1]  # of each profile
        self.steps: list[Step] = []
        self.averaged: list[str] = []
        self._labelled = {(layer.node, layer.weight): layer for layer in reversed(analysis.layers)}
        self._made = np.zeros(analysis.solution.reason.size + 1, bool)  # by component
        for layer in analysis.layers:
            self._made[analysis.solution.of(layer.out)] = True
        self._made[-1] = False

    def run(self, rules: Mapping[str, Rule]) -> ChannelNetwork:
        """Walk over the graph; rules say what an operator does."""
        graph = self.analysis.graph
        for tensor in graph.inputs:
            self.put(tensor, np.full([1] * len(self.shape(tensor)), INPUT))
        for node in graph.nodes:
            self._visit(node, rules)
        outputs = [self.even(self.ids[t.name], self.places[t.name]).ravel() for t in graph.outputs if t.name in self.ids]
        sizes = [math.prod(self.shape(t)) for t in graph.outputs if t.name in self.ids]
        none = np.empty(0, np.int64)
        return ChannelNetwork(
            self.profile.size,
            self.analysis.width,
            tuple(self.steps),
            np.concatenate([none, *outputs]),
            np.concatenate([none, *(np.full(ids.size, n / max(1, ids.size)) for ids, n in zip(outputs, sizes, strict=True))]),
            tuple(self.averaged),
            tuple(self.positions),
        )

    def _visit(self, node: gs.Node, rules: Mapping[str, Rule]) -> None:
        if self.analysis.integers.computes(node) or not self.flows(node):
            return
        plain = as_plain(node)
        rule = rules.get(plain.op) if not bodies_of(node) else None
        if rule is not None:
            try:
                rule(self, plain)
            except (UnsupportedError, ModelError, ValueError, IndexError, KeyError):
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

    def put(self, tensor: gs.Tensor, ids: Ids, places: Ids | None = None) -> None:
        """Give a tensor states, and the places of its elements in maps: without these, maps are averaged. So is what lies along
        axes that carry no channels."""
        shape = self.shape(tensor)
        even = np.zeros([1] * ids.ndim, np.int64)
        ids, places = (self.even(ids), even) if places is None else (ids, places)
        for found in (ids, places):
            if len(shape) != found.ndim or any(n not in (1, size) for n, size in zip(found.shape, shape, strict=True)):
                raise UnsupportedError(f"'{tensor.name}' of shape {list(shape)} cannot have states {list(found.shape)}")
        spread = [axis for axis in range(ids.ndim) if ids.shape[axis] > 1 and axis not in self._carries(tensor.name)]
        if any(places.shape[axis] > 1 for axis in spread):
            ids, places = self.even(ids, places), even
        self.ids[tensor.name], self.places[tensor.name] = self.mean(ids, spread), places

    def even(self, ids: Ids, places: Ids | None = None) -> Ids:
        """Return the states of the means over all positions, or over these."""
        sizes = np.array(self.positions)[self.profile[ids]]
        for size in np.unique(sizes[sizes > 1]).tolist():
            index = np.arange(size) if places is None else places.ravel()
            pooled = self.pool(ids[sizes == size], Window(index[:, None], size), np.array([float(index.size)]))
            ids = ids.copy()
            ids[sizes == size] = pooled
        return ids

    def _carries(self, name: str) -> set[int]:
        """Return the axes along which a tensor has channels that can be removed; where it has none, the last along which it has
        channels that some layer makes."""
        found = self.analysis.flow.values.get(name, Value()).by_axis()
        removable = {axis for axis, labels in found.items() if (self.analysis.units(labels) >= 0).any()}
        made = [axis for axis, labels in found.items() if self._made[self.analysis.solution.of(labels)].any()]
        return removable or set(sorted(made)[-1:])

    def new(self, shape: Sequence[int], profiles: Ids | int = EVEN) -> Ids:
        """Return new states of these profiles, broadcastable to shape."""
        first = self.profile.size
        self.profile = np.append(self.profile, np.broadcast_to(profiles, shape))
        return np.arange(first, self.profile.size).reshape(shape)

    def map(self, size: int) -> int:
        """Return a new profile of so many positions."""
        if size == 1:
            return EVEN
        self.positions.append(size)
        return len(self.positions) - 1

    def grid(self, ids: Ids, shape: Sequence[int]) -> Ids:
        """Return the places of a whole map of states, whose positions are in order."""
        size = self.size(ids)
        return np.arange(size).reshape(shape if size > 1 else [1] * len(shape))

    def size(self, ids: Ids) -> int:
        """Return over how many positions the maps of states extend; 1 where all are even."""
        return max((self.positions[profile] for profile in np.unique(self.profile[ids])), default=1)

    def _kinds(self, operands: Ids, made_positions: int | None = None) -> tuple[Kinds, Ids]:
        """Return channels [operands, channels] by their profiles, and the profiles of what is made of them, which has so many
        positions, or else as many as the operands."""
        profiles = self.profile[operands]
        if made_positions is None and (profiles == profiles[0]).all():
            none = np.empty(0, np.int64)
            return Kinds(none, np.empty((len(operands), 0), np.int64), none), profiles[0]
        reads, of = np.unique(profiles, axis=1, return_inverse=True)
        even = (reads == EVEN).all(0) if made_positions is None else np.zeros(reads.shape[1], bool)
        sizes = np.array(self.positions)[reads].max(0) if made_positions is None else np.full(reads.shape[1], made_positions)
        made = np.array([EVEN if e else self.map(n) for e, n in zip(even, sizes.tolist(), strict=True)], np.int64)
        return Kinds(of.ravel(), reads, made), made[of.ravel()]

    def _in_order(self, ids: Ids, places: Ids) -> tuple[Ids, Ids]:
        """Return states whose maps are what lies at these places, in order."""
        size = self.size(ids)
        flattened = any(n > 1 and places.shape[axis] > 1 for axis, n in enumerate(ids.shape))
        if size == 1 or flattened or np.array_equal(places.ravel(), np.arange(size)):
            return ids, places
        made = self.pool(ids, Window(places.reshape(1, -1), size), np.ones(places.size))
        return made, self.grid(made, places.shape)

    def sum(self, terms: Sequence[Ids], weights: Floats | float = 1.0) -> Ids:
        """Return the states of a weighted sum; weights are broadcastable to [terms, ...]."""
        stacked = np.stack(np.broadcast_arrays(*terms))
        factors = np.broadcast_to(np.asarray(weights, np.float64), stacked.shape)
        operands = stacked.reshape(len(stacked), -1)
        kinds, profiles = self._kinds(operands)
        made = self.new(stacked.shape[1:], profiles.reshape(stacked.shape[1:]))
        with np.errstate(divide="ignore"):
            logs = np.log2(factors).reshape(operands.shape)
        self.steps.append(Sum(operands, logs, made.ravel(), kinds, np.ones(kinds.reads.shape)))
        return made

    def pool(self, ids: Ids, window: Window, divisor: Floats | None) -> Ids:
        """Return the states of the sums over a window, divided by divisor [positions made], or, without, of the maxima."""
        outside = bool((window.index == window.size).any())
        if self.size(ids) == 1 and not (outside and divisor is not None and (divisor == len(window.index)).all()):
            return ids
        reads, place = np.unique(ids, return_inverse=True)
        kinds, profiles = self._kinds(reads[None], window.index.shape[1])
        made = self.new(reads.shape, profiles)
        self.steps.append(Pool(reads, made, kinds, window, divisor, np.zeros(kinds.made.size)))
        return made[place].reshape(ids.shape)

    def together(self, operands: Sequence[tuple[Ids, Ids]]) -> tuple[list[Ids], Ids]:
        """Return the states of operands, and their places, the same for all; where they cannot be, maps are averaged."""
        if (shared := self._shared(operands)) is None:
            operands = [self._in_order(ids, places) for ids, places in operands]
            shared = self._shared(operands)
        if shared is None:
            return [self.even(ids, places) for ids, places in operands], np.zeros([1] * operands[0][1].ndim, np.int64)
        return [ids for ids, _ in operands], shared

    def _shared(self, operands: Sequence[tuple[Ids, Ids]]) -> Ids | None:
        """Return the places that all operands have whose maps are not even; None if there are none, or they differ."""
        maps = [(self.size(ids), places) for ids, places in operands if self.size(ids) > 1]
        same = all(size == maps[0][0] and np.array_equal(places, maps[0][1]) for size, places in maps)
        return maps[0][1] if maps and same else None

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
        operands = stacked.reshape(len(stacked), -1)
        kinds, profiles = self._kinds(operands)
        made = self.new(stacked.shape[1:], profiles.reshape(stacked.shape[1:]))
        self.steps.append(Product(operands, made.ravel(), kinds, np.zeros(kinds.made.size)))
        return made

    def layer(
        self,
        node: gs.Node,
        weight: gs.Tensor,
        kernel: NDArray[Any],
        reads: Ids,
        elements: Elements,
        own: bool = True,
        window: Window = POINT,
        columns: Ids | None = None,
    ) -> Ids:
        """Enter a layer, kernel [blocks, made by one, read by one, taps] of magnitudes; returns the states it makes, in a row.

        elements gives the scores of the elements of the weight for derivatives of what is made, [blocks, made by one], and levels
        of what is read at each tap, [blocks, read by one, taps or 1]. What is made scores if it has an axis of its own in the
        weight. The window has the taps of the kernel; columns [blocks * read by one] are those of the labels, where they are not
        just these.
        """
        blocks, rows, each, _ = kernel.shape
        labelled = self._labelled.get((first_output(node), weight.name)) if len(self.shape(weight)) > 1 else None
        none = np.empty(0, np.int64)
        made_units = self._units(none if labelled is None or not own else labelled.out, blocks * rows)
        labels = none if labelled is None else labelled.read
        read_units = self._units(labels if columns is None or labels.size <= columns.max() else labels[columns], blocks * each)
        kernel, seen, profile = self._seen(kernel, reads, window)
        kernel, reads, read_units, place = _merged(kernel, reads, read_units)
        made = self.new([blocks * rows], profile)
        profiles, of = np.unique(self.profile[reads], return_inverse=True)
        kinds = Kinds(of, profiles[None], np.array([profile]))
        mean = np.ones((profiles.size, kernel.shape[3]))
        if seen is not None:
            mean *= (seen.index < seen.size).mean(1)

        def scores(slope: Floats, x: Floats) -> dict[str, Floats]:
            found = elements(slope.reshape(blocks, rows), x[place].reshape(blocks, each, -1))
            return self._at_source(weight, found)

        dense = np.ascontiguousarray(kernel, np.float32)
        self.steps.append(Layer(dense, made, np.array(reads), made_units, read_units, scores, kinds, seen, mean, mean.copy()))
        return made

    def _seen(self, kernel: NDArray[Any], reads: Ids, window: Window) -> tuple[NDArray[Any], Window | None, int]:
        """Return kernel and window as they are needed for what is read, and the profile of what is made: without a window where all
        positions made read the same, or where they are those read."""
        profiles = np.unique(self.profile[reads])
        taps, made = window.index.shape
        if (profiles == EVEN).all():
            window = Window((window.index == window.size).astype(np.int64), 1)
            if (window.index == window.index[:, :1]).all():
                inside = (window.index[:, 0] == 0).astype(np.float32)
                return (kernel if taps == 1 and inside.all() else (kernel @ inside)[..., None]), None, EVEN
        elif profiles.size == 1 and taps == 1 and made == window.size and (window.index[0] == np.arange(made)).all():
            return kernel, None, int(profiles[0])
        return kernel, window, self.map(made)

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
        operands = [self._moved(t, name) if t.name else None for t in node.inputs]
        if node.op in ("Cast", "DequantizeLinear"):
            assert operands[0] is not None
            return operands[0]
        return self._evaluate(tensor, node, operands)

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
        if node is None or not node.inputs:
            raise ModelError(f"synflow needs the value of '{tensor.name}', which is not constant")
        return self._evaluate(tensor, node, [self.value(t) if t.name else None for t in node.inputs])

    def real(self, tensor: gs.Tensor) -> NDArray[Any]:
        """Return the value of a tensor computed from constants, or the numbers that it stands for where it is quantized."""
        quantized = self.analysis.flow.quantized.get(tensor.name)
        return self.value(tensor) if quantized is None else quantized.real(self.value(tensor))

    def _evaluate(self, tensor: gs.Tensor, node: gs.Node, operands: Sequence[NDArray[Any] | None]) -> NDArray[Any]:
        """Return what node, which makes tensor, makes of operands."""
        try:
            values = evaluate(node, operands, self.analysis.graph.opset or 1)
        except EvaluationError as error:
            raise ModelError(f"synflow needs the value of '{tensor.name}': {error}") from error
        return values[[t.name for t in node.outputs if t.name].index(tensor.name)]

    def magnitude(self, tensor: gs.Tensor) -> NDArray[np.float64]:
        """Return the magnitudes of a constant factor; one for a mask or whatever else cannot be evaluated."""
        try:
            return np.abs(np.asarray(self.real(tensor), np.float64))
        except ModelError:
            return np.ones(())


def _merged(kernel: NDArray[Any], reads: Ids, units: Ids) -> tuple[NDArray[Any], Ids, Ids, Ids]:
    """Return kernel, reads and units of a layer of one block with columns that read the same for the same unit summed, and where
    each column is then; a layer of more blocks as it is."""
    same = kernel, reads, units, np.arange(reads.size)
    if len(kernel) > 1:
        return same
    pairs, place = np.unique(np.stack([reads, units]), axis=1, return_inverse=True)
    if pairs.shape[1] == reads.size:
        return same
    return _summed(kernel[0], place.ravel(), pairs.shape[1])[None], *pairs, place.ravel()


def _summed(kernel: NDArray[Any], place: Ids, size: int) -> NDArray[np.float32]:
    """Return kernel [rows, columns, taps] with columns of the same place summed, [rows, size, taps]."""
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(size))
    return np.add.reduceat(kernel[:, order], starts, 1)


def average(walk: Walk, node: gs.Node) -> None:
    """the mean of all that is read, in every channel that is made"""
    means = [walk.mean(walk.even(ids), range(ids.ndim)).ravel() for ids in walk.flows(node)]
    one = walk.sum(means, 1 / len(means)) if len(means) > 1 else means[0]
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, one.reshape([1] * len(walk.shape(tensor))))
