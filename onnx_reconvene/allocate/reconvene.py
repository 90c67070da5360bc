"""Reconvene (arXiv 2404.16877): widths from an unstructured method, cut where that is least felt.

The publication fixes the steps: an unstructured pruning-at-initialization method says how dense each layer should be, a pruning
sensitivity evaluator (PSE) ranks layers, a resilient layer rectifier (RLR) prunes the least sensitive ones and re-initializes what
it touched. The formulas are this project's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.density import DensitySolver
from onnx_reconvene.allocate.registry import Allocation, allocator
from onnx_reconvene.allocate.response import responses
from onnx_reconvene.allocate.search import closest, largest
from onnx_reconvene.allocate.unstructured import Unstructured
from onnx_reconvene.axes import Widths
from onnx_reconvene.errors import ModelError
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Scores, layer_weights
from onnx_reconvene.saliency.criterion import marginals

Floats = NDArray[np.float64]
CHOICES = 24  # of how many groups to cut
TINY = 1e-12


@dataclass(frozen=True)
class Shares:
    """How much of the network's score is left with the units of a group.

    A layer passes on what its remaining elements score, and layers compose, so what is left of a network is the product of what is
    left of each of its layers. Groups that many layers share lose most.
    """

    curves: tuple[tuple[Floats, ...], ...]  # by group and site: the share of its layer's score in the best k units, k = 0, 1, ...

    def lost(self, widths: Widths) -> Floats:
        """Return, for each group cut alone to its width, the share of the network's score that is lost, [groups]."""
        return 1 - np.exp([self.log_kept(g, width) for g, width in enumerate(widths.tolist())])

    def log_kept(self, group: int, width: int) -> float:
        """Return the logarithm of the share of the network's score that is left when group is cut to width."""
        kept = np.asarray([curve[width] for curve in self.curves[group]])
        return float(np.log(np.maximum(kept, TINY)).sum())


def shares_of_units(analysis: Analysis, scores: Scores, elements: Mapping[str, NDArray[np.float32]]) -> Shares:
    """Return the shares of a network whose units go in the order of scores, given the scores of elements."""
    curves: list[list[Floats]] = [[] for _ in analysis.groups]
    order = [np.argsort(-group.by_block(scores), 1, kind="stable") for group in analysis.groups]
    for name, (_, axes) in layer_weights(analysis).items():
        sums = marginals(elements[name], {axis: units.shape for axis, units in axes.items()})
        for axis, units in axes.items():
            free = units >= 0
            mass = np.bincount(units[free], sums[axis][free], analysis.width)
            total = float(sums[axis].sum()) or 1.0
            for g in np.unique(analysis.group_of_unit[units[free]]).tolist():
                best_first = np.take_along_axis(analysis.groups[g].by_block(mass), order[g], 1).sum(0)
                lost = np.append(np.cumsum(best_first[::-1])[::-1], 0.0) / total
                curves[g].append(1 - lost)
    return Shares(tuple(tuple(own) for own in curves))


def sensitivity(analysis: Analysis, scores: Scores, widths: Widths, shares: Shares, macs: float) -> Floats:
    """Return how sensitive the network is to each group, cut alone to its width (the PSE), from 0 to 1, [groups]: how its outputs
    change, or for very large networks, and those that onnxruntime does not run, the share of its score that is lost."""
    try:
        measured = responses(analysis, scores, widths, macs)
    except ModelError:
        measured = None
    return shares.lost(widths) if measured is None else measured


@allocator("reconvene")
def reconvene(analysis: Analysis, scores: Scores, within: Budget) -> Allocation:
    """Take widths from the layer densities of an unstructured method; cut the groups whose loss is felt least."""
    elements = within.upai()
    density = Unstructured.of(elements, within.cost.by_weight(target.kind for target in within.targets)).log_density
    shares = shares_of_units(analysis, scores, elements.by_weight)
    solver, dense = DensitySolver.of(analysis), within.cost.dense

    def wanted(cut: NDArray[np.bool_], x: float) -> Floats:
        return np.where(cut, solver.fractions(density(x)), 1.0) * dense

    widths = closest(within, lambda x: wanted(np.ones(dense.size, bool), x))
    felt = sensitivity(analysis, scores, widths, shares, within.cost("macs", dense))
    choices = _choices(np.argsort(felt, kind="stable"))
    best = max(choices, key=lambda cut: _kept(shares, within, functools.partial(wanted, cut)))
    return Allocation(closest(within, functools.partial(wanted, best)), felt)


def _choices(least_first: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """Yield which groups to cut: all, and fewer and fewer of those that are least sensitive."""
    for count in np.unique(np.linspace(least_first.size, 1, CHOICES).astype(int))[::-1]:
        cut = np.zeros(least_first.size, bool)
        cut[least_first[:count]] = True
        yield cut


def _kept(shares: Shares, within: Budget, wanted: Callable[[float], Floats]) -> float:
    """Return the logarithm of the score that the network keeps when the targets hold, minus infinity where they cannot. Widths are
    whole units here: where they are to be rounded, what is left of a target is chance."""
    if not within.holds(within.whole(wanted(0.0))):
        return -np.inf
    widths = within.whole(wanted(largest(lambda x: within.holds(within.whole(wanted(x))))))
    return sum(shares.log_kept(g, width) for g, width in enumerate(widths.tolist()))
