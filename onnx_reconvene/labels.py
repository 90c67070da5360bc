"""Channel labels: integers that live and die together.

A label >= 0 stands for one channel of one tensor axis. Where two labels meet, an equality is recorded; a connected
component of equal labels is a *unit*, the smallest thing that can be removed. A negative label is frozen: it stands for
the reason why a channel must stay. Nothing in this module knows ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """The solved equalities: a component per label, and per component the reasons that were recorded for it."""

    component: Labels  # [labels] -> component
    frozen: dict[int, str]  # component -> why it must stay
    inexact: dict[int, str]  # component -> which operator computes statistics over it

    def of(self, labels: Labels) -> Labels:
        """Return the components of labels, -1 where a channel is frozen."""
        labels = np.asarray(labels)
        found = np.full(labels.shape, -1, np.int64)
        found[labels >= 0] = self.component[labels[labels >= 0]]
        return found


class Equalities:
    """Hands out labels and records which of them are equal, frozen or inexact."""

    def __init__(self) -> None:
        self.count = 0
        self._reasons: dict[str, int] = {}
        self._pairs: list[tuple[Labels, Labels]] = []
        self._inexact: list[tuple[Labels, str]] = []

    def fresh(self, size: int) -> Labels:
        """Return `size` labels that were never used before."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def frozen(self, size: int, reason: str) -> Labels:
        """Return `size` labels that must stay because of `reason`."""
        return np.full(size, -1 - self._reasons.setdefault(reason, len(self._reasons)))

    def equate(self, a: Labels, b: Labels) -> None:
        """Record that a and b, broadcast together, are equal pair by pair."""
        if a is not b:
            left, right = np.broadcast_arrays(a, b)
            self._pairs.append((left.ravel(), right.ravel()))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Record that labels must stay."""
        self.equate(labels, self.frozen(1, reason))

    def inexact(self, labels: Labels, reason: str) -> None:
        """Record that an operator computes statistics over labels, so that removal changes what remains."""
        self._inexact.append((labels.ravel(), reason))

    def reason(self, label: int) -> str:
        """Return why a negative label is frozen."""
        return list(self._reasons)[-1 - label]

    def solve(self) -> Solution:
        """Return the connected components of all recorded equalities."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        none = np.empty(0, np.int64)
        left = np.concatenate([none, *(a for a, _ in self._pairs)])
        right = np.concatenate([none, *(b for _, b in self._pairs)])
        free = (left >= 0) & (right >= 0)
        edges = (left[free], right[free])
        matrix: Any = coo_array((np.ones(len(edges[0]), bool), edges), shape=(self.count, self.count))
        _, component = connected_components(matrix, directed=False)
        component = component.astype(np.int64)

        low, high = np.minimum(left, right), np.maximum(left, right)
        marked = (low < 0) & (high >= 0)
        reasons = list(self._reasons)
        frozen: dict[int, str] = {}
        for unit, label in zip(component[high[marked]].tolist(), low[marked].tolist(), strict=True):
            frozen.setdefault(unit, reasons[-1 - label])
        inexact: dict[int, str] = {}
        for labels, reason in self._inexact:
            inexact.update(dict.fromkeys(component[labels[labels >= 0]].tolist(), reason))
        return Solution(component, frozen, inexact)
