"""The registry of allocators, and the two searches that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Scores


@dataclass(frozen=True)
class Allocation:
    """Units that each group keeps (of each block), and how sensitive it is to that, if the allocator says."""

    widths: Widths
    sensitivity: NDArray | None = None  # [groups], 0 where nothing is lost


Allocator = Callable[[Analysis, Scores, Budget], "Widths | Allocation"]
allocators: dict[str, Allocator] = {}


def allocator(name: str) -> Callable[[Allocator], Allocator]:
    """Register the decorated function as allocator `name`."""

    def register(function: Allocator) -> Allocator:
        allocators[name] = function
        return function

    return register


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


def closest(within: Budget, wanted: Callable[[float], NDArray]) -> Widths:
    """Return the widths wanted(x), rounded down, at the largest x in [0, 1] at which all targets hold, the room that is left given
    to the groups that miss most."""
    ideal = wanted(largest(lambda x: within.holds(within.down(wanted(x)))))
    widths = within.down(ideal)
    return fill(within, widths, (widths - ideal).argsort(kind="stable").tolist())
