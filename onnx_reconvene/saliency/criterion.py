"""The registry of criteria, and the one function that combines the scores at its sites to that of a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.calibration.given import SOURCES
from onnx_reconvene.errors import UsageError
from onnx_reconvene.flow import weight_values
from onnx_reconvene.groups import Analysis
from onnx_reconvene.labels import Labels
from onnx_reconvene.shapes import Shape

if TYPE_CHECKING:
    from onnx_reconvene.calibration import Objective

Scores = NDArray[np.float64]  # [units of all groups]
Elements = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]
PerPosition = Callable[[str, NDArray[np.float32], Mapping[int, Shape]], Mapping[int, NDArray[np.float64]]]


@dataclass
class Context:
    """What a criterion is given beside the network.

    rng: the only source of randomness. aggregate: one of AGGREGATES, see `combined`. objective: the loss of the network on data,
    for criteria that say they need it.
    """

    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    aggregate: str = "sum"
    make_objective: Callable[[], Objective] | None = None

    @cached_property
    def objective(self) -> Objective:
        """The loss of the network on data. Raises UsageError where there are no data."""
        if self.make_objective is None:
            raise UsageError(f"this criterion needs data: give --data {SOURCES}")
        return self.make_objective()

    @property
    def seen(self) -> dict[str, Any] | None:
        """What was seen of the data, see `Objective.summary`; None where nothing has looked at them."""
        return self.objective.summary() if "objective" in vars(self) else None


Score = Callable[[Analysis, Context], Scores]
ElementScore = Callable[[Analysis, Context], Elements]


@dataclass(frozen=True)
class Criterion:
    """A saliency: `score(analysis, context)` gives one number per unit, higher where the unit matters more.

    elements: the same per element of each weight, for criteria that have it. conserved: what elements of a layer score in all stays
    the same when some are removed and the rest is scored again.
    """

    name: str
    summary: str
    source: str
    score: Score
    needs_data: bool = False
    elements: ElementScore | None = None
    conserved: bool = False


criteria: dict[str, Criterion] = {}


def criterion(
    name: str, source: str, needs_data: bool = False, elements: ElementScore | None = None, conserved: bool = False
) -> Callable[[Score], Criterion]:
    """Register the decorated function as criterion `name`; the first line of its docstring is its summary."""

    def register(function: Score) -> Criterion:
        criteria[name] = Criterion(name, _summary(function), source, function, needs_data, elements, conserved)
        return criteria[name]

    return register


def element_criterion(name: str, source: str, needs_data: bool = False) -> Callable[[ElementScore], Criterion]:
    """Register the decorated function, which returns a function of the name and values of a weight that scores its elements, as
    criterion `name`: a unit scores the sum over its elements."""

    def register(function: ElementScore) -> Criterion:
        def score(analysis: Analysis, context: Context) -> Scores:
            return by_elements(analysis, context, function(analysis, context))

        criteria[name] = Criterion(name, _summary(function), source, score, needs_data, function)
        return criteria[name]

    return register


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class ElementScores:
    """Scores of the elements of each weight that bears units, float32, by its name. conserved: see `Criterion`."""

    by_weight: dict[str, NDArray[np.float32]]
    conserved: bool


def element_scores(analysis: Analysis, method: str, context: Context) -> ElementScores:
    """Return the scores of single weights by a criterion. Raises UsageError where it scores units alone."""
    chosen = criteria[method]
    if chosen.elements is None:
        able = ", ".join(c.name for c in criteria.values() if c.elements is not None)
        raise UsageError(f"--criterion {method} scores no single weights; these do: {able}")
    score = chosen.elements(analysis, context)
    by_weight = {name: score(name, values) for name, (values, _) in layer_weights(analysis).items()}
    return ElementScores(by_weight, chosen.conserved)


@dataclass(frozen=True)
class SiteScores:
    """Scores along one axis of one tensor that bears units."""

    units: Labels  # [positions]; -1 where there is none
    scores: NDArray[np.floating[Any]]  # [positions], or [samples, positions]

    def by_unit(self, width: int) -> Scores:
        """Return the sum of the scores of each of `width` units, [..., units]."""
        free = self.units >= 0
        rows = self.scores.reshape(-1, self.units.size)
        sums = np.stack([np.bincount(self.units[free], row[free], width) for row in rows])
        return sums.astype(np.float64).reshape(*self.scores.shape[:-1], width)


AGGREGATES = ("sum", "mean", "max", "normalized")


def combined(analysis: Analysis, sites: Iterable[SiteScores], aggregate: str) -> Scores:
    """Return one score per unit from those at all of its sites, [units] or [samples, units].

    aggregate: "sum" or "mean" over the sites, "max" for the one of largest magnitude, or "normalized" for the mean over sites
    after the scores at each are divided by the mean of their magnitudes there, so that every layer counts alike.
    """
    width = analysis.width
    total: Any = np.zeros(width)
    count = np.zeros(width)
    for site in sites:
        found = site.by_unit(width)
        own = np.unique(site.units[site.units >= 0])
        count[own] += 1
        if aggregate == "normalized":
            scale = np.abs(found[..., own]).mean()
            found = found / scale if scale > 0 else found
        total = np.where(np.abs(found) > np.abs(total), found, total) if aggregate == "max" else total + found
    result: Scores = total / np.maximum(count, 1) if aggregate in ("mean", "normalized") else total
    return result


def unit_scores(analysis: Analysis, context: Context, score: PerPosition) -> Scores:
    """Combine the scores of weights over the sites of each unit.

    score is called with the name and values of each layer's weight (no biases, no normalizations) and, by axis that bears units,
    the shape in which a score is wanted: that of the weight with 1 for the axes to be summed over.
    """

    def sites() -> Iterator[SiteScores]:
        for name, (values, axes) in layer_weights(analysis).items():
            shapes = {axis: units.shape for axis, units in axes.items()}
            for axis, found in score(name, values, shapes).items():
                yield SiteScores(axes[axis].ravel(), found.ravel())

    return combined(analysis, sites(), context.aggregate)


def layer_weights(analysis: Analysis) -> dict[str, tuple[NDArray[np.float32], dict[int, Labels]]]:
    """Return the values of each layer's weight that bears units, those that it stands for where it is quantized, and these units
    along its axes, shaped to be broadcast to it."""
    weights, quantized = {name for layer in analysis.layers for name in layer.sources}, analysis.flow.quantized
    by_name = {}
    for name, axes in axes_with_units(analysis).items():
        values = weight_values(analysis.flow.weights[name])
        if values is not None and values.ndim >= 2 and name in weights:
            by_name[name] = (quantized[name].real(values) if name in quantized else np.asarray(values, np.float32), axes)
    return by_name


def differentiable_weights(analysis: Analysis) -> dict[str, NDArray[np.float32]]:
    """Return the values of each layer's weight that bears units. Raises UsageError where one is quantized."""
    for name in (by_name := layer_weights(analysis)):
        if name in analysis.flow.quantized:
            raise UsageError(f"'{name}' is quantized and has no gradient: choose a --criterion without, such as l1 or synflow")
    return {name: values for name, (values, _) in by_name.items()}


def axes_with_units(analysis: Analysis) -> dict[str, dict[int, Labels]]:
    """Return, for each weight that bears units, the units along its axes, shaped to be broadcast to it."""
    found = {name: {a: u for a, u in analysis.bearings(name).items() if (u >= 0).any()} for name in analysis.flow.weights}
    return {name: axes for name, axes in found.items() if axes}


def by_elements(analysis: Analysis, context: Context, elements: Elements) -> Scores:
    """Score units by the sum of a function of the elements of each weight, which is given its name and values."""
    return unit_scores(analysis, context, lambda name, values, shapes: marginals(elements(name, values), shapes))


def marginals(elements: NDArray[np.float32], shapes: Mapping[int, Shape]) -> dict[int, NDArray[np.float64]]:
    """Return elements summed to each of shapes, which have 1 for the axes to be summed over."""
    if elements.ndim > 2 and max(shapes) < 2:  # a kernel: sum its taps but once
        taps = elements.reshape(elements.shape[0] * elements.shape[1], -1)
        elements = (taps @ np.ones(taps.shape[1], np.float32)).reshape(elements.shape[:2] + (1,) * (elements.ndim - 2))
    return {
        axis: elements.sum(tuple(a for a, n in enumerate(shape) if n == 1), np.float64).reshape(shape)
        for axis, shape in shapes.items()
    }
