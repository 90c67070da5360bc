"""How long the axes of tensors are, as linear functions of the group widths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.groups import Analysis
from onnx_reconvene.labels import Labels

Axis = tuple[str, int]  # tensor and axis; PENDING stands for all axes of a tensor along which its pending labels vary
Sizes = NDArray[np.float64]
Widths = NDArray[np.int64]
PENDING = -1


class Axes:
    """The sizes of axes of tensors at given widths (units kept of each group). Row 0 is an axis of size 1."""

    def __init__(self, analysis: Analysis, axes: Iterable[Axis]) -> None:
        self.row = {axis: k for k, axis in enumerate(dict.fromkeys(axes), 1)}
        dense = np.asarray([group.width for group in analysis.groups], np.int64)
        self._frozen = np.ones(len(self.row) + 1)
        entries = [(np.zeros(0, np.int64),) * 3]
        for (name, axis), row in self.row.items():
            size, units = _along(analysis, name, axis)
            groups, counts = np.unique(analysis.group_of_unit[units[units >= 0]], return_counts=True)
            self._frozen[row] = size - counts.sum()
            entries.append((np.full(groups.size, row), groups, counts))
        self._row, self._group, counts = (np.concatenate(column) for column in zip(*entries, strict=True))
        self._per_unit = counts / dense[self._group]
        self._by_group = Lookup.of(self._group, len(dense))

    def __call__(self, widths: Widths) -> Sizes:
        """Return the size of every axis at these widths, [rows]."""
        free = np.bincount(self._row, self._per_unit * widths[self._group], self._frozen.size)
        result: Sizes = self._frozen + free
        return result

    def of_group(self, group: int) -> tuple[NDArray[np.int64], Sizes]:
        """Return the rows whose size depends on the width of a group, and by how much per unit."""
        entries = self._by_group[group]
        return self._row[entries], self._per_unit[entries]

    def groups(self, axes: Iterable[Axis]) -> NDArray[np.int64]:
        """Return the groups on which the sizes of these axes depend."""
        return np.unique(self._group[np.isin(self._row, [self.row[axis] for axis in axes])])


def axes_of(analysis: Analysis, name: str) -> tuple[Axis, ...]:
    """Return the axes of a tensor whose sizes multiply to the number of its elements."""
    value, rank = analysis.flow.values.get(name), len(analysis.shapes[name])
    pending = value.pending if value is not None else None
    if pending is None:
        return tuple((name, axis) for axis in range(rank))
    return (*((name, axis) for axis in range(rank) if axis not in pending.axes), (name, PENDING))


def plain_axes(analysis: Analysis, name: str) -> tuple[Axis, ...]:
    """Return the axes of a tensor one by one, as those of a stored weight are."""
    return tuple((name, axis) for axis in range(len(analysis.shapes[name])))


def _along(analysis: Analysis, name: str, axis: int) -> tuple[int, Labels]:
    """Return the size of an axis, and the unit of each position along it that carries a channel."""
    shape = analysis.shapes[name]
    if axis != PENDING:
        units = analysis.units_along(name, axis)
        return shape[axis], np.empty(0, np.int64) if units is None else units
    pending = analysis.flow.values[name].pending
    assert pending is not None
    return prod(shape[a] for a in pending.axes), analysis.units(pending.spread.ravel())


@dataclass(frozen=True)
class Lookup:
    """Where in a list of numbers each of 0, 1, ... stands."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: NDArray[np.int64], count: int) -> Lookup:
        """Look up the numbers below count."""
        return cls(np.argsort(numbers, kind="stable"), np.append(0, np.cumsum(np.bincount(numbers, minlength=count))))

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        inside = number + 1 < len(self.starts)
        return self.order[self.starts[number] : self.starts[number + 1]] if inside else self.order[:0]


@dataclass(frozen=True)
class Products:
    """A weighted sum of products of axis sizes: sum over terms t of weight[t] * prod over j of size[axes[t, j]]."""

    axes: NDArray[np.int64]  # [terms, factors], rows of `Axes`
    weight: NDArray[np.float64]  # [terms]

    @classmethod
    def of(cls, axes: Axes, terms: Sequence[Sequence[Axis]], weight: Sequence[float] | NDArray[np.float64]) -> Products:
        """Return the sum of the products of these axes."""
        rows = np.zeros((len(terms), max([len(term) for term in terms], default=1)), np.int64)
        for row, term in zip(rows, terms, strict=True):
            row[: len(term)] = [axes.row[axis] for axis in term]
        return cls(rows, np.asarray(weight, np.float64))

    @cached_property
    def _by_row(self) -> Lookup:
        return Lookup.of(self.axes.ravel(), int(self.axes.max(initial=0)) + 1)

    def reading(self, rows: NDArray[np.int64]) -> Products:
        """Return the part of the sum that depends on the sizes in these rows."""
        terms = np.unique(
            np.concatenate([np.empty(0, np.int64), *(self._by_row[row] for row in rows.tolist())]) // self.axes.shape[1]
        )
        return Products(self.axes[terms], self.weight[terms])

    def terms(self, sizes: Sizes) -> NDArray[np.float64]:
        """Return each term at these axis sizes."""
        result: NDArray[np.float64] = self.weight * sizes[self.axes].prod(1)
        return result

    def __call__(self, sizes: Sizes) -> float:
        return float(self.terms(sizes).sum())
