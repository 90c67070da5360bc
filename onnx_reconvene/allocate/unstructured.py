"""Pruning of single weights at initialization: what the densities of layers are taken from.

Nothing here holds a mask. Per weight there is a histogram of its scores, binned by the upper bits of a float: those of a positive
float, read as an integer, grow with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.saliency import ElementScores

Floats = NDArray[np.float64]
BITS = 12  # of a float's 32 that are left out: 11 binary digits stay


@dataclass(frozen=True)
class Histogram:
    """How the scores of the elements of one weight are distributed, best first."""

    scores: Floats  # [bins], descending: the largest of each
    count: Floats  # [bins], of elements with at least that score
    mass: Floats  # [bins], sum of their scores

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> Histogram:
        """Return the histogram of the scores of elements; what is negative counts as zero."""
        flat = np.maximum(scores.ravel(), np.float32(0))
        keys = flat.view(np.int32) >> BITS
        first = int(keys.min()) if keys.size else 0
        keys = keys - first
        count, mass = np.bincount(keys)[::-1], np.bincount(keys, flat)[::-1]
        filled = count > 0
        top = np.flatnonzero(filled[::-1])[::-1].astype(np.int32) + first
        edges = (((top + 1) << BITS) - 1).view(np.float32).astype(np.float64)
        return cls(edges, np.cumsum(count[filled]).astype(np.float64), np.cumsum(mass[filled]))

    @cached_property
    def _negated(self) -> Floats:
        """Scores in ascending order."""
        return -self.scores

    @property
    def size(self) -> float:
        """The number of elements."""
        return float(self.count[-1])

    def conserved(self) -> Histogram:
        """Return the histogram of scores for which those that stay take over, in proportion, what others have lost.

        An element is compared by its score at the time when it goes: when what stays of the layer is what scores more.
        """
        total = self.mass[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            rescored = np.where(self.mass > 0, self.scores * (total / self.mass), 0.0)
        return Histogram(np.minimum.accumulate(rescored), self.count, self.mass)

    def per(self, cost: float) -> Histogram:
        """Return the histogram of what elements score for their cost."""
        return Histogram(self.scores / cost, self.count, self.mass)

    def density(self, threshold: float) -> float:
        """Return the fraction of elements that score at least threshold; one stays in any case."""
        above = int(np.searchsorted(self._negated, -threshold, "right"))
        return max(float(self.count[above - 1]) if above else 0.0, 1.0) / self.size


@dataclass(frozen=True)
class _Bins:
    """The bins of all histograms in a row. Their keys grow with the histogram, and in each as scores fall."""

    levels: Floats  # all scores, ascending
    keys: NDArray[np.int64]  # [bins]
    count: Floats  # [bins]
    starts: NDArray[np.int64]  # [histograms], of their bins
    size: Floats  # [histograms]

    @classmethod
    def of(cls, histograms: Sequence[Histogram]) -> _Bins:
        """Put histograms, of which none is empty, in a row."""
        scores = np.concatenate([h.scores for h in histograms])
        bins = [h.scores.size for h in histograms]
        levels, level = np.unique(scores, return_inverse=True)
        keys = np.repeat(np.arange(len(bins)), bins) * (levels.size + 1) + levels.size - 1 - level
        starts = np.cumsum([0, *bins[:-1]])
        return cls(levels, keys, np.concatenate([h.count for h in histograms]), starts, np.asarray([h.size for h in histograms]))

    @property
    def first_keys(self) -> NDArray[np.int64]:
        """The least key of each histogram."""
        return np.arange(self.starts.size) * (self.levels.size + 1)

    def rank(self, threshold: float) -> int:
        """Return how many levels are at least threshold."""
        return self.levels.size - int(np.searchsorted(self.levels, threshold))


@dataclass(frozen=True)
class Unstructured:
    """One threshold on the elements of all weights: on what each scores for its cost, which keeps most score within a budget."""

    histograms: dict[str, Histogram]

    @classmethod
    def of(cls, scores: ElementScores, costs: Mapping[str, float]) -> Unstructured:
        """Return the histograms of element scores; costs: what all elements of a weight cost together, by name, if not one each."""
        found = {name: Histogram.of(values) for name, values in scores.by_weight.items()}
        found = {name: h.conserved() for name, h in found.items()} if scores.conserved else found
        return cls({name: h.per(max(costs.get(name, h.size), 1.0) / h.size) for name, h in found.items()})

    def log_density(self, x: float) -> Floats:
        """Return the logarithm of the density of each weight; all elements stay at x = 1, one of each weight at x = 0."""
        if x >= 1 or self._range is None:
            return np.zeros(len(self.histograms))
        low, high = self._range
        return np.log(self._densities(float(np.exp(high + x * (low - high)))))

    def _densities(self, threshold: float) -> Floats:
        """Return what `Histogram.density` says of each weight, all looked up at once."""
        above = np.searchsorted(self._bins.keys, self._bins.first_keys + self._bins.rank(threshold)) - self._bins.starts
        counts = self._bins.count[self._bins.starts + np.maximum(above - 1, 0)]
        densities: Floats = np.where(above > 0, counts, 1.0) / self._bins.size
        return densities

    @cached_property
    def _bins(self) -> _Bins:
        return _Bins.of(list(self.histograms.values()))

    @cached_property
    def _range(self) -> tuple[float, float] | None:
        """The logarithms of the least and the largest score above zero, None where there is none."""
        scores = np.concatenate([np.empty(0), *(h.scores[h.scores > 0] for h in self.histograms.values())])
        return (float(np.log(scores.min())), float(np.log(scores.max()))) if scores.size else None


def best(scores: NDArray[np.float32], density: float) -> NDArray[np.bool_]:
    """Return which elements stay: those that score most, as many as density says, ties to the first."""
    flat = scores.ravel()
    count = max(1, int(density * flat.size + 1e-6))
    least = np.partition(flat, flat.size - count)[flat.size - count]
    stays: NDArray[np.bool_] = flat > least
    stays[np.flatnonzero(flat == least)[: count - int(stays.sum())]] = True
    return stays.reshape(scores.shape)
