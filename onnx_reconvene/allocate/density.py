"""From how dense each layer should be to how wide each group is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.registry import allocator
from onnx_reconvene.allocate.search import closest
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Scores, layer_weights
from onnx_reconvene.shapes import Shape

Floats = NDArray[np.float64]
DIGITS = 9  # of the logarithm of a fraction
RANGE = 20.0  # of the logarithm of densities that are tried
SMOOTHNESS = 1.0  # weight of the second differences of the logarithm of widths, one layer's density weighing 1


@dataclass(frozen=True)
class DensitySolver:
    """Widths whose layers come nearest to wanted densities.

    A layer whose outputs are cut to the fraction r_out and whose inputs to r_in has density r_out * r_in, so the logarithms of the
    fractions kept solve a linear system, by least squares. Second differences of the logarithm of widths from group to group are
    held small, too: else, in a chain of layers, every other width could rise while those between fall. Those of the dense widths
    count in the measure in which the network gets sparse, so that one that stays dense keeps its own.
    """

    weights: tuple[str, ...]  # that bear units
    shares: Floats  # [weights, groups]: of the positions along the axes of a weight, those that belong to a group
    inverse: Floats  # [groups, weights]
    even: Floats  # [groups], added to the logarithm of fractions where hardly anything stays: makes for even widths

    @classmethod
    def of(cls, analysis: Analysis) -> DensitySolver:
        """Return the solver for the layers of a network."""
        axes = {name: along for name, (_, along) in layer_weights(analysis).items()}
        groups = len(analysis.groups)
        shares = np.zeros((len(axes), groups))
        for row, along in zip(shares, axes.values(), strict=True):
            for units in along.values():
                row += np.bincount(analysis.group_of_unit[units[units >= 0]], minlength=groups) / units.size
        bends = SMOOTHNESS * np.diff(np.eye(groups), 2, axis=0) if groups > 2 else np.zeros((0, groups))
        by_density, by_bend = np.split(np.linalg.pinv(np.concatenate([shares, bends])), [len(axes)], axis=1)
        channels = np.log([group.width * group.channels for group in analysis.groups])
        return cls(tuple(axes), shares, by_density, -by_bend @ bends @ channels)

    def fractions(self, log_density: Floats) -> Floats:
        """Return the fraction of each group to keep, at most 1, given the logarithm of each weight's density.

        Rounded, so that what a library for linear algebra makes of the last digits decides nothing.
        """
        sparse = 1 - np.exp(log_density.mean()) if log_density.size else 0.0
        kept: Floats = np.exp(np.minimum(np.round(self.inverse @ log_density + sparse * self.even, DIGITS), 0))
        return kept


def by_density(within: Budget, solver: DensitySolver, log_density: Callable[[float], Floats]) -> Widths:
    """Return the widths for densities that grow with x in [0, 1], at the largest x at which all targets hold."""
    return closest(within, lambda x: solver.fractions(log_density(x)) * within.cost.dense)


@allocator("erk")
def erk(analysis: Analysis, scores: Scores, within: Budget) -> Widths:
    """Keep a layer dense as the sum of its sizes over their product (Erdos-Renyi kernel; Evci et al. 2020, arXiv 1911.11134)."""
    solver = DensitySolver.of(analysis)
    shapes = [analysis.shapes[name] for name in solver.weights]
    return by_density(within, solver, _scaled(np.log([_of_kernel(shape) for shape in shapes])))


def _of_kernel(shape: Shape) -> float:
    return float(sum(shape) / np.prod(shape, dtype=float))


@allocator("precrop")
def precrop(analysis: Analysis, scores: Scores, within: Budget) -> Widths:
    """Keep a layer dense as one over its cost, which maximizes the sum of log density (Cai et al. 2022, arXiv 2203.02549)."""
    solver = DensitySolver.of(analysis)
    costs = within.cost.by_weight(target.kind for target in within.targets)
    params = {name: float(np.prod(analysis.shapes[name])) for name in solver.weights}
    return by_density(within, solver, _scaled(-np.log([max(costs.get(name, params[name]), 1.0) for name in solver.weights])))


def _scaled(log_density: Floats) -> Callable[[float], Floats]:
    """Return densities in the same proportions, but at most 1: all 1 at x = 1, none above 1 / e**RANGE at x = 0."""
    least, most = log_density.min(initial=0), log_density.max(initial=0)
    return lambda x: np.minimum(log_density - least - (1 - x) * (most - least + RANGE), 0)
