"""The registry of criteria, and the one function that turns scores of weights into scores of units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.flow import weight_values
from onnx_reconvene.groups import Analysis

Scores = NDArray[np.float64]  # [units of all groups]
PerPosition = Callable[[str, NDArray[np.float32], list[int]], dict[int, NDArray[np.float64]]]


@dataclass(frozen=True)
class Criterion:
    """A saliency: `score(analysis, rng)` gives one number per unit, higher where the unit matters more."""

    name: str
    summary: str
    source: str
    score: Callable[[Analysis, np.random.Generator], Scores]


criteria: dict[str, Criterion] = {}


def criterion(name: str, source: str) -> Callable[[Callable[[Analysis, np.random.Generator], Scores]], Criterion]:
    """Register the decorated function as criterion `name`; the first line of its docstring is its summary."""

    def register(function: Callable[[Analysis, np.random.Generator], Scores]) -> Criterion:
        summary = (function.__doc__ or "").strip().splitlines()[0]
        criteria[name] = Criterion(name, summary, source, function)
        return criteria[name]

    return register


def unit_scores(analysis: Analysis, score: PerPosition) -> Scores:
    """Sum the scores of weights over the sites of each unit.

    score is called with the name and values of each layer's weight (no biases, no normalizations) and the axes that bear units,
    and returns for each of these a score per position.
    """
    total = np.zeros(analysis.width)
    weights = {name for layer in analysis.layers for name in layer.sources}
    for name, axes in axes_with_units(analysis).items():
        values = weight_values(analysis.flow.weights[name])
        if values is None or values.ndim < 2 or name not in weights:
            continue
        for axis, along in score(name, np.asarray(values, np.float32), list(axes)).items():
            free = axes[axis] >= 0
            total += np.bincount(axes[axis][free], along[free], analysis.width)
    return total


def axes_with_units(analysis: Analysis) -> dict[str, dict[int, NDArray[np.int64]]]:
    """Return, for each weight that bears units, the units along its axes."""
    found: dict[str, dict[int, NDArray[np.int64]]] = {}
    for name in analysis.flow.weights:
        for axis in analysis.flow.values[name].labels:
            units = analysis.units_along(name, axis)
            if units is not None and (units >= 0).any():
                found.setdefault(name, {})[axis] = units
    return found


def by_elements(analysis: Analysis, elements: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Scores:
    """Score units by the sum of a function of each weight element."""
    return unit_scores(analysis, lambda _, values, axes: marginals(elements(values), axes))


def marginals(elements: NDArray[np.float32], axes: list[int]) -> dict[int, NDArray[np.float64]]:
    """Return, for each of axes, the sum of elements over all others."""
    if elements.ndim > 2 and max(axes) < 2:  # a kernel: sum its taps but once
        taps = elements.reshape(elements.shape[0] * elements.shape[1], -1)
        elements = (taps @ np.ones(taps.shape[1], np.float32)).reshape(elements.shape[:2])
    return {axis: elements.sum(tuple(a for a in range(elements.ndim) if a != axis), np.float64) for axis in axes}
