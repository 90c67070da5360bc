"""Reconvene (arXiv 2404.16877): widths from an unstructured method, cut where that is least felt.

The publication fixes the steps: an unstructured pruning-at-initialization method says how dense each layer should be, a pruning
sensitivity evaluator (PSE) ranks layers, a resilient layer rectifier (RLR) prunes the least sensitive ones and re-initializes what
it touched. The formulas are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.density import DensitySolver
from onnx_reconvene.allocate.registry import Allocation, allocator
from onnx_reconvene.allocate.search import closest
from onnx_reconvene.allocate.unstructured import Histogram, Unstructured
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Scores, layer_weights
from onnx_reconvene.saliency.criterion import marginals

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sensitivity:
    """What groups lose where whole channels go, measured against what single weights would lose (the PSE)."""

    analysis: Analysis
    histograms: Mapping[str, Histogram]  # by weight
    curves: tuple[tuple[tuple[str, Floats], ...], ...]  # by group: weight and its score in the best k units, k = 0, 1, ...

    def __call__(self, widths: Widths) -> Floats:
        """Return, for each group, one minus the score kept in whole channels over that which as many single weights of the same
        layers keep: 0 where whole channels lose nothing, [groups]."""
        result = np.zeros(len(widths))
        for g, (group, width) in enumerate(zip(self.analysis.groups, widths.tolist(), strict=True)):
            kept = sum(float(curve[width]) for _, curve in self.curves[g])
            single = sum(float(curve[-1]) * self.histograms[name].share(width / group.width) for name, curve in self.curves[g])
            result[g] = 1 - kept / single if single > 0 else 0.0
        return result.clip(0, 1)


def sensitivity(
    analysis: Analysis, scores: Scores, elements: Mapping[str, NDArray[np.float32]], found: Mapping[str, Histogram]
) -> Sensitivity:
    """Return the sensitivity of the groups of a network whose units go in the order of scores."""
    curves: list[list[tuple[str, Floats]]] = [[] for _ in analysis.groups]
    for name, (_, axes) in layer_weights(analysis).items():
        sums = marginals(elements[name], {axis: units.shape for axis, units in axes.items()})
        for axis, units in axes.items():
            free = units >= 0
            mass = np.bincount(units[free], sums[axis][free], analysis.width)
            there = np.bincount(units[free], minlength=analysis.width) > 0
            for g, group in enumerate(analysis.groups):
                if there[group.units].any():
                    order = np.argsort(-group.by_block(scores), 1, kind="stable")
                    ranked = np.take_along_axis(group.by_block(mass), order, 1).sum(0)
                    curves[g].append((name, np.append(0.0, np.cumsum(ranked))))
    return Sensitivity(analysis, found, tuple(tuple(own) for own in curves))


@allocator("reconvene")
def reconvene(analysis: Analysis, scores: Scores, within: Budget) -> Allocation:
    """Take widths from the layer densities of an unstructured method; cut the groups that are least sensitive to it."""
    upai = within.upai()
    elements = {name: upai.score(name, values) for name, (values, _) in layer_weights(analysis).items()}
    histograms = {name: Histogram.of(scored) for name, scored in elements.items()}
    compared = [h.conserved() if upai.conserved else h for h in histograms.values()]
    solver, dense = DensitySolver.of(analysis), within.cost.dense
    density = Unstructured(compared).log_density
    widths = closest(within, lambda x: solver.fractions(density(x)) * dense)
    evaluator = sensitivity(analysis, scores, elements, histograms)
    return Allocation(widths, evaluator(widths))
