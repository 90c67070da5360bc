"""What a cut network costs, exactly and without building it: every size is a linear function of the group widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_reconvene.axes import Axes, Products, Sizes, Widths, plain_axes
from onnx_reconvene.flow import dtype_of, weight_constant
from onnx_reconvene.graph import dead_nodes, every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.memory import Activations


class CostModel:
    """Costs of a network as functions of its group widths (units kept of each group).

    `KINDS` names what can be counted: `channels` (removable ones), `params` (elements of float initializers), `macs` (multiply-
    accumulates for one input of the analysed size), `size` (bytes of float initializers), `memory` (these and the largest number of
    bytes that activations take at any time), `latency` (milliseconds of a run, as the function that is given predicts them).
    """

    KINDS = ("channels", "params", "macs", "size", "memory", "latency")

    def __init__(self, analysis: Analysis, latency: Callable[[Widths], float] | None = None) -> None:
        self.latency = latency
        self.analysis = analysis
        self.dense = np.asarray([group.width for group in analysis.groups], np.int64)
        self.channels = np.asarray([group.channels for group in analysis.groups], np.int64)
        self.nodes = [term.node for term in analysis.flow.macs]
        self._before = _before(analysis.graph.source.model)
        self._bytes_each = bytes_each = _stored(analysis)
        families = [[copy.name for _, _, copy in family.reads] for family in getattr(analysis.graph, "shared", ())]
        alone = [name for name in bytes_each if not any(name in family for family in families)]
        weights = {name: plain_axes(analysis, name) for name in [*alone, *chain.from_iterable(families)]}
        macs = [term.axes for term in analysis.flow.macs]
        self._axes = Axes(analysis, chain.from_iterable([*macs, *weights.values()]))
        self.macs = Products.of(self._axes, macs, np.ones(len(macs)))
        axes = [weights[name] for name in alone]
        self.params = Products.of(self._axes, axes, np.ones(len(axes)))
        self.size = Products.of(self._axes, axes, [bytes_each[name] for name in alone])
        self._families = [
            (Products.of(self._axes, [weights[name] for name in family], np.ones(len(family))), bytes_each.get(family[0], 0.0))
            for family in families
        ]

    def __call__(self, kind: str, widths: Widths) -> float:
        """Return the cost of this kind at these widths."""
        if kind == "channels":
            return float((widths * self.channels).sum())
        if kind == "latency":
            assert self.latency is not None
            return self.latency(widths)
        if kind == "memory":
            return self("size", widths) + self.activations(widths)
        if kind in self._before and np.array_equal(widths, self.dense):
            return self._before[kind]
        sizes = self._axes(widths)
        products: Products = getattr(self, kind)
        return products(sizes) + (self._of_families(kind, sizes) if kind in self._before else 0.0)

    def _of_families(self, kind: str, sizes: Sizes) -> float:
        """Return what constants cost that are stored once for all readers of the same shape."""
        total = 0.0
        for family, bytes_each in self._families:
            shapes = {tuple(shape) for shape in sizes[family.axes].tolist()}
            total += sum(math.prod(shape) for shape in shapes) * (bytes_each if kind == "size" else 1.0)
        return total

    @cached_property
    def activations(self) -> Activations:
        """The bytes that activations take."""
        return Activations(self.analysis)

    def all(self, widths: Widths) -> dict[str, float]:
        """Return every kind of cost at these widths that is counted, not measured."""
        return {kind: self(kind, widths) for kind in self.KINDS if kind != "latency"}

    def macs_by_node(self, widths: Widths) -> dict[str, float]:
        """Return the multiply-accumulates of each node that does any."""
        counts: dict[str, float] = {}
        for node, macs in zip(self.nodes, self.macs.terms(self._axes(widths)), strict=True):
            counts[node] = counts.get(node, 0.0) + float(macs)
        return counts

    def macs_by_weight(self) -> dict[str, float]:
        """Return the multiply-accumulates with each stored weight of a layer, in the network as it is."""
        by_node = self.macs_by_node(self.dense)
        counts: dict[str, float] = {}
        for layer in self.analysis.layers:
            for name in layer.sources:
                counts[name] = counts.get(name, 0.0) + by_node.get(layer.name, 0.0)
        return counts

    def params_by_weight(self) -> dict[str, float]:
        """Return the elements of each stored weight that counts: quantized ones do not."""
        return {name: float(math.prod(self.analysis.shapes[name])) for name in self._bytes_each}

    def by_weight(self, kinds: Iterable[str]) -> dict[str, float]:
        """Return what each stored weight of a layer costs where these kinds of cost are bounded: its multiply-accumulates; empty
        where parameters alone are, of which each of its elements is one."""
        return {} if set(kinds) <= {"params", "size"} else self.macs_by_weight()


def _before(model: onnx.ModelProto) -> dict[str, float]:
    """Return the elements and bytes of the float initializers of a model."""
    stored = [(np.prod(t.dims), np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type))) for t in model.graph.initializer]
    floats = [(float(size), dtype.itemsize) for size, dtype in stored if is_float(dtype)]
    return {"params": sum(size for size, _ in floats), "size": sum(size * each for size, each in floats)}


def _stored(analysis: Analysis) -> dict[str, float]:
    """Return the bytes per element of each float initializer that the network has once it is cut: without what computed weights
    that are folded, with these and what ConstantOfShape weights turn into."""
    graph = analysis.graph
    dead = {id(node) for node in dead_nodes(graph)}
    read = {t.name: t for node in every_node(graph) if id(node) not in dead for t in node.inputs if isinstance(t, gs.Constant)}
    gone = {t.name for node in every_node(graph) if id(node) in dead for t in node.inputs} - read.keys()
    initializers = {t.name: np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)) for t in graph.source.model.graph.initializer}
    found = {name: dtype for name, dtype in initializers.items() if name not in gone}
    found |= {name: dtype_of(t) for name, t in read.items() if name not in initializers}
    weights = analysis.flow.weights.items()
    found |= {name: np.dtype(np.float32) for name, t in weights if weight_constant(t) is None and analysis.bears_units(name)}
    return {name: float(dtype.itemsize) for name, dtype in found.items() if is_float(dtype)}


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type is one of floating-point numbers, those that numpy lacks among them."""
    return dtype.kind == "f" or "float" in dtype.name
