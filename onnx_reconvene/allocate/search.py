"""Searches that allocators share: the most that a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    """Widen groups one step at a time, in this order, as long as all targets hold. Costs only grow, so a group that does not
    fit once never does: in the end no group can be widened."""
    widths = widths.copy()
    waiting = list(order)
    while waiting:
        fits = []
        for group in waiting:
            wider = within.next(group, int(widths[group]))
            if wider is None:
                continue
            before, widths[group] = widths[group], wider
            if within.holds(widths):
                fits.append(group)
            else:
                widths[group] = before
        waiting = fits
    return widths


def closest(within: Budget, wanted: Callable[[float], NDArray[np.floating]]) -> Widths:
    """Return the widths wanted(x), rounded down, at the largest x in [0, 1] at which all targets hold, the room that is left given
    to the groups that miss most."""
    ideal = wanted(largest(lambda x: within.holds(within.down(wanted(x)))))
    widths = within.down(ideal)
    return fill(within, widths, (widths - ideal).argsort(kind="stable").tolist())
