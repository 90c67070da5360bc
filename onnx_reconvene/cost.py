"""What a cut network costs, exactly and without building it: every size is a linear function of the group widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene.flow import weight_constant
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
        self._channels = np.asarray([group.channels for group in analysis.groups], np.int64)
        self._group_of_unit = np.repeat(np.arange(len(self.dense)), [group.blocks * group.width for group in analysis.groups])
        self._rows: dict[tuple[str, int], int] = {}
        self.nodes = [term.node for term in analysis.flow.macs]
        self.macs = self._products([term.axes for term in analysis.flow.macs], np.ones(len(self.nodes)))
        bytes_each = _float_initializers(analysis)
        axes = [tuple((name, axis) for axis in range(len(analysis.shapes[name]))) for name in bytes_each]
        self.params = self._products(axes, np.ones(len(axes)))
        self.size = self._products(axes, np.asarray(list(bytes_each.values())))
        self._frozen = np.ones(len(self._rows) + 1)
        entries = [(np.zeros(0, np.int64),) * 3]
        for (name, axis), row in self._rows.items():
            groups, counts = self._free_positions(name, axis)
            self._frozen[row] = self.analysis.shapes[name][axis] - counts.sum()
            entries.append((np.full(groups.size, row), groups, counts))
        self._row, self._group, counts = (np.concatenate(column) for column in zip(*entries, strict=True))
        self._per_unit = counts / self.dense[self._group]

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
            return float((widths * self._channels).sum())
        products: Products = getattr(self, kind)
        return products(self.sizes(widths))

    def all(self, widths: Widths) -> dict[str, float]:
        """Return every kind of cost at these widths."""
        return {kind: self(kind, widths) for kind in self.KINDS}

    def macs_by_node(self, widths: Widths) -> dict[str, float]:
        """Return the multiply-accumulates of each node that does any."""
        counts: dict[str, float] = {}
        for node, macs in zip(self.nodes, self.macs.terms(self.sizes(widths)), strict=True):
            counts[node] = counts.get(node, 0.0) + float(macs)
        return counts


def _float_initializers(analysis: Analysis) -> dict[str, float]:
    """Return the bytes per element of each float initializer, and of what ConstantOfShape weights turn into when cut."""
    model = analysis.graph.source.model
    dtypes = {t.name: np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)) for t in model.graph.initializer}
    folded = {
        n: np.dtype(np.float32) for n, t in analysis.flow.weights.items() if weight_constant(t) is None and analysis.bears_units(n)
    }
    return {n: float(d.itemsize) for n, d in {**dtypes, **folded}.items() if d.kind == "f" or "float" in d.name}
