"""Searches that allocators share: the most that a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.axes import Widths


def largest(holds: Callable[[float], bool]) -> float:
    """Return the largest x in [0, 1] for which the decreasing predicate holds, by bisection; it holds at 0."""
    low, high = 0.0, 1.0
    if holds(high):
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def fill(within: Budget, widths: Widths, order: Iterable[int]) -> Widths:
    """Widen groups one step at a time, in this order, round after round, as long as all targets hold: in the end no group can be
    widened."""
    growing, waiting = Growing(within, widths), list(order)
    while waiting:
        waiting = [group for group in waiting if growing.widen(group)]
    return growing.widths


def closest(within: Budget, wanted: Callable[[float], NDArray[np.floating]]) -> Widths:
    """Return the allowed widths nearest to wanted(x) at the largest x in [0, 1] at which all targets hold, the room that is left
    given, step by step, to the group that misses most."""
    ideal = wanted(largest(lambda x: within.holds(within.nearest(wanted(x)))))
    growing = Growing(within, within.nearest(ideal))
    waiting = list(zip((growing.widths - ideal).tolist(), range(ideal.size), strict=True))
    heapify(waiting)
    while waiting:
        _, group = heappop(waiting)
        if growing.widen(group):
            heappush(waiting, (float(growing.widths[group] - ideal[group]), group))
    return growing.widths


class Growing:
    """Widths that grow one group at a time as long as all targets hold."""

    def __init__(self, within: Budget, widths: Widths) -> None:
        self._within = within
        self._tally = within.cost.tally(widths, [target.kind for target in within.targets])

    @property
    def widths(self) -> Widths:
        """The widths now."""
        return self._tally.widths

    def widen(self, group: int) -> bool:
        """Widen a group by one step if all targets hold then, and return True if they do. Costs only grow, so a group that does
        not fit once never does."""
        before = int(self.widths[group])
        wider = self._within.next(group, before)
        if wider is None:
            return False
        fits = self._within.allows(self._tally.change(group, wider))
        if not fits:
            self._tally.change(group, before)
        return fits
