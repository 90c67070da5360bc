"""Targets that one allocation does not meet well: widths that are rounded too much, and latency, which is judged by measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.registry import Allocation
from onnx_reconvene.axes import Widths
from onnx_reconvene.errors import TargetError

ROUNDS = 8
AIM, NEAR = 0.985, 0.97  # of the target: what is aimed at, and what is near enough

MOST_UNUSED = 0.03  # of what a network costs: what rounding may leave of a target

Allocate = Callable[[Budget], Allocation]
Measure = Callable[[Widths], float]


def round_finely(spaces: Iterable[Budget], allocate: Allocate) -> tuple[Budget, Allocation]:
    """Return the first of ever finer search spaces in which rounding leaves little of the targets, with the allocation there; where
    it always leaves much, the space in which it leaves least."""
    least: tuple[float, Budget, Allocation] | None = None
    for within in spaces:
        allocation = allocate(within)
        unused = within.rounding(allocation.widths).unused
        if least is None or unused < least[0]:
            least = unused, within, allocation
        if unused <= MOST_UNUSED:
            break
    assert least is not None
    return least[1:]


def meet(within: Budget, allocate: Allocate, measure: Measure) -> Allocation:
    """Return the widest allocation found whose measured latency is within the target.

    The bound on predicted latency that allocate sees is moved by how far the measured latency was off, between the largest bound
    that did and the smallest that did not. Raises TargetError, naming the best reached, where none does.
    """
    asked = min(bound for target, bound in zip(within.targets, within.bounds, strict=True) if target.kind == "latency")
    least = low = within.cost("latency", within.smallest)
    high = 1.01 * max(asked, within.cost("latency", within.cost.dense))
    bound, best, fastest = max(asked, least), None, math.inf
    for _ in range(ROUNDS):
        found = allocate(bounded(within, bound))
        taken = measure(found.widths)
        fastest = min(fastest, taken)
        if taken > asked:
            high = bound
        elif best is not None and np.array_equal(best.widths, found.widths):
            break  # other targets hold it back
        else:
            best, low = found, bound
        if NEAR * asked <= taken <= asked or bound <= least or high <= 1.005 * low:
            break
        bound = within.cost("latency", found.widths) * AIM * asked / taken
        if not low < bound < high:
            bound = low if best is None and bound <= low else (low + high) / 2
    if best is None:
        raise TargetError(f"latency at most {asked:.3g} ms is asked, {fastest:.3g} ms is the best reachable that was measured")
    return best


def bounded(within: Budget, latency: float) -> Budget:
    """Return the same budget with another bound on predicted latency, in milliseconds."""
    bounds = [latency if t.kind == "latency" else b for t, b in zip(within.targets, within.bounds, strict=True)]
    return replace(within, bounds=tuple(bounds))
