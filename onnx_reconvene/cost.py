"""What a cut network costs, exactly and without building it: every size is a linear function of the group widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene.flow import dtype_of, weight_constant
from onnx_reconvene.graph import dead_nodes, every_node
from onnx_reconvene.groups import Analysis

Widths = NDArray[np.int64]


@dataclass(frozen=True)
class Products:
    """A weighted sum of products of axis sizes: sum over terms t of weight[t] * prod over j of size[axes[t, j]]."""

    axes: NDArray[np.int64]  # [terms, factors], indices into the axis sizes; index 0 is an axis of size 1
    weight: NDArray[np.float64]  # [terms]

    def terms(self, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each term at these axis sizes."""
        result: NDArray[np.float64] = self.weight * sizes[self.axes].prod(1)
        return result

    def __call__(self, sizes: NDArray[np.float64]) -> float:
        return float(self.terms(sizes).sum())


class CostModel:
    """Costs of a network as functions of its group widths (units kept of each group).

    `KINDS` names what can be counted: `channels` (removable ones), `params` (elements of float initializers), `macs` (multiply-
    accumulates for one input of the analysed size), `size` (bytes of float initializers).
    """

    KINDS = ("channels", "params", "macs", "size")

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.dense = np.asarray([group.width for group in analysis.groups], np.int64)
        self.channels = np.asarray([group.channels for group in analysis.groups], np.int64)
        self._group_of_unit = np.repeat(np.arange(len(self.dense)), [group.blocks * group.width for group in analysis.groups])
        self._rows: dict[tuple[str, int], int] = {}
        self.nodes = [term.node for term in analysis.flow.macs]
        self.macs = self._products([term.axes for term in analysis.flow.macs], np.ones(len(self.nodes)))
        self._before = _before(analysis.graph.source.model)
        bytes_each = _stored(analysis)
        families = [[copy.name for _, _, copy in family.reads] for family in getattr(analysis.graph, "shared", ())]
        alone = [name for name in bytes_each if not any(name in family for family in families)]
        axes = [self._axes(name) for name in alone]
        self.params = self._products(axes, np.ones(len(axes)))
        self.size = self._products(axes, np.asarray([bytes_each[name] for name in alone]))
        self._families = [
            (self._products([self._axes(name) for name in family], np.ones(len(family))), bytes_each.get(family[0], 0.0))
            for family in families
        ]
        self._frozen = np.ones(len(self._rows) + 1)
        entries = [(np.zeros(0, np.int64),) * 3]
        for (name, axis), row in self._rows.items():
            groups, counts = self._free_positions(name, axis)
            self._frozen[row] = self.analysis.shapes[name][axis] - counts.sum()
            entries.append((np.full(groups.size, row), groups, counts))
        self._row, self._group, counts = (np.concatenate(column) for column in zip(*entries, strict=True))
        self._per_unit = counts / self.dense[self._group]

    def _axes(self, name: str) -> tuple[tuple[str, int], ...]:
        return tuple((name, axis) for axis in range(len(self.analysis.shapes[name])))

    def _products(self, terms: list[tuple[tuple[str, int], ...]], weight: NDArray[np.float64]) -> Products:
        factors = max([len(term) for term in terms], default=1)
        rows = np.zeros((len(terms), factors), np.int64)
        for t, term in enumerate(terms):
            rows[t, : len(term)] = [self._rows.setdefault(axis, len(self._rows) + 1) for axis in term]
        return Products(rows, weight)

    def _free_positions(self, name: str, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the groups on an axis, and how many positions each has there."""
        units = self.analysis.units_along(name, axis)
        free = np.empty(0, np.int64) if units is None else units[units >= 0]
        return np.unique(self._group_of_unit[free], return_counts=True)

    def sizes(self, widths: Widths) -> NDArray[np.float64]:
        """Return the size of every axis that counts, at these widths."""
        free = np.bincount(self._row, self._per_unit * widths[self._group], self._frozen.size)
        result: NDArray[np.float64] = self._frozen + free
        return result

    def __call__(self, kind: str, widths: Widths) -> float:
        """Return the cost of this kind at these widths."""
        if kind == "channels":
            return float((widths * self.channels).sum())
        if kind in self._before and np.array_equal(widths, self.dense):
            return self._before[kind]
        sizes = self.sizes(widths)
        products: Products = getattr(self, kind)
        return products(sizes) + (self._of_families(kind, sizes) if kind in self._before else 0.0)

    def _of_families(self, kind: str, sizes: NDArray[np.float64]) -> float:
        """Return what constants cost that are stored once for all readers of the same shape."""
        total = 0.0
        for family, bytes_each in self._families:
            shapes = {tuple(shape) for shape in sizes[family.axes].tolist()}
            total += sum(math.prod(shape) for shape in shapes) * (bytes_each if kind == "size" else 1.0)
        return total

    def all(self, widths: Widths) -> dict[str, float]:
        """Return every kind of cost at these widths."""
        return {kind: self(kind, widths) for kind in self.KINDS}

    def macs_by_node(self, widths: Widths) -> dict[str, float]:
        """Return the multiply-accumulates of each node that does any."""
        counts: dict[str, float] = {}
        for node, macs in zip(self.nodes, self.macs.terms(self.sizes(widths)), strict=True):
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
