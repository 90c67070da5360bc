"""The registry of criteria, and the one function that turns scores of weights into scores of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.flow import weight_values
from onnx_reconvene.groups import Analysis
from onnx_reconvene.labels import Labels
from onnx_reconvene.shapes import Shape

Scores = NDArray[np.float64]  # [units of all groups]
PerPosition = Callable[[str, NDArray[np.float32], Mapping[int, Shape]], Mapping[int, NDArray[np.float64]]]


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

    score is called with the name and values of each layer's weight (no biases, no normalizations) and, by axis that bears units,
    the shape in which a score is wanted: that of the weight with 1 for the axes to be summed over.
    """
    total = np.zeros(analysis.width)
    weights = {name for layer in analysis.layers for name in layer.sources}
    for name, axes in axes_with_units(analysis).items():
        values = weight_values(analysis.flow.weights[name])
        if values is None or values.ndim < 2 or name not in weights:
            continue
        shapes = {axis: units.shape for axis, units in axes.items()}
        for axis, found in score(name, np.asarray(values, np.float32), shapes).items():
            free = axes[axis] >= 0
            total += np.bincount(axes[axis][free], found[free], analysis.width)
    return total


def axes_with_units(analysis: Analysis) -> dict[str, dict[int, Labels]]:
    """Return, for each weight that bears units, the units along its axes, shaped to be broadcast to it."""
    found = {name: {a: u for a, u in analysis.bearings(name).items() if (u >= 0).any()} for name in analysis.flow.weights}
    return {name: axes for name, axes in found.items() if axes}


def by_elements(analysis: Analysis, elements: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Scores:
    """Score units by the sum of a function of each weight element."""
    return unit_scores(analysis, lambda _, values, shapes: marginals(elements(values), shapes))


def marginals(elements: NDArray[np.float32], shapes: Mapping[int, Shape]) -> dict[int, NDArray[np.float64]]:
    """Return elements summed to each of shapes, which have 1 for the axes to be summed over."""
    if elements.ndim > 2 and max(shapes) < 2:  # a kernel: sum its taps but once
        taps = elements.reshape(elements.shape[0] * elements.shape[1], -1)
        elements = (taps @ np.ones(taps.shape[1], np.float32)).reshape(elements.shape[:2] + (1,) * (elements.ndim - 2))
    return {
        axis: elements.sum(tuple(a for a, n in enumerate(shape) if n == 1), np.float64).reshape(shape)
        for axis, shape in shapes.items()
    }
