"""Latency targets: widths are chosen by prediction, judged by measurement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.registry import Allocation
from onnx_reconvene.axes import Widths
from onnx_reconvene.errors import TargetError

ROUNDS = 8
AIM, NEAR = 0.985, 0.97  # of the target: what is aimed at, and what is near enough

Measure = Callable[[Widths], float]


def meet(within: Budget, allocate: Callable[[Budget], Allocation], measure: Measure) -> Allocation:
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
