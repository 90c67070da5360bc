"""From how dense each layer should be to how wide each group is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
MOST_INVERTED = 512  # unknowns
PRECISION = 1e-11  # of the solution, relative to what it solves
SMOOTHNESS = 1.0  # weight of the second differences of the logarithm of widths, one layer's density weighing 1


@dataclass(frozen=True)
class Sparse:
    """A matrix of which only what is not zero is held."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    value: Floats
    shape: tuple[int, int]

    def __matmul__(self, x: Floats) -> Floats:
        return np.bincount(self.row, self.value * x[self.column], self.shape[0]).astype(np.float64, copy=False)

    @property
    def transposed(self) -> Sparse:
        """The matrix with rows for columns."""
        return Sparse(self.column, self.row, self.value, self.shape[::-1])

    def below(self, other: Sparse) -> Sparse:
        """Return this matrix under another one."""
        row, height = np.append(other.row, self.row + other.shape[0]), other.shape[0] + self.shape[0]
        column, value = np.append(other.column, self.column), np.append(other.value, self.value)
        return Sparse(row, column, value, (height, self.shape[1]))


def least_squares(matrix: Sparse) -> Callable[[Floats], Floats]:
    """Return what solves matrix x = b by least squares, the x of least norm: by the inverse, or for many unknowns by conjugate
    gradients (CGLS, Hestenes and Stiefel 1952), which take time in proportion to these."""
    if matrix.shape[1] > MOST_INVERTED:
        return partial(conjugate_gradients, matrix, matrix.transposed)
    dense = np.zeros(matrix.shape)
    np.add.at(dense, (matrix.row, matrix.column), matrix.value)
    inverse = np.linalg.pinv(dense)
    return lambda b: inverse @ b


def conjugate_gradients(matrix: Sparse, transposed: Sparse, b: Floats) -> Floats:
    """Return the x of least norm that solves matrix x = b by least squares."""
    x, rest = np.zeros(matrix.shape[1]), b
    along = gradient = transposed @ rest
    square = first = float(gradient @ gradient)
    for _ in range(x.size):
        if square <= first * PRECISION**2:
            break
        image = matrix @ along
        step = square / float(image @ image)
        x, rest = x + step * along, rest - step * image
        gradient = transposed @ rest
        square, before = float(gradient @ gradient), square
        along = gradient + square / before * along
    return x


@dataclass(frozen=True)
class DensitySolver:
    """Widths whose layers come nearest to wanted densities.

    A layer whose outputs are cut to the fraction r_out and whose inputs to r_in has density r_out * r_in, so the logarithms of the
    fractions kept solve a linear system, by least squares. Second differences of the logarithm of widths from group to group are
    held small, too: else, in a chain of layers, every other width could rise while those between fall. Those of the dense widths
    count in the measure in which the network gets sparse, so that one that stays dense keeps its own.
    """

    weights: tuple[str, ...]  # that bear units
    shares: Sparse  # [weights, groups]: of the positions along the axes of a weight, those that belong to a group
    bent: Floats  # second differences of the logarithm of dense widths
    solve: Callable[[Floats], Floats]  # logarithms of densities, and second differences -> logarithms of fractions

    @classmethod
    def of(cls, analysis: Analysis) -> DensitySolver:
        """Return the solver for the layers of a network."""
        axes = {name: along for name, (_, along) in layer_weights(analysis).items()}
        groups = len(analysis.groups)
        entries = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        for k, along in enumerate(axes.values()):
            for units in along.values():
                column, counts = np.unique(analysis.group_of_unit[units[units >= 0]], return_counts=True)
                entries.append((np.full(column.size, k), column, counts / units.size))
        row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
        shares, bends = Sparse(row, column, value, (len(axes), groups)), _bends(groups)
        bent = bends @ np.log([group.width * group.channels for group in analysis.groups])
        return cls(tuple(axes), shares, bent, least_squares(bends.below(shares)))

    def fractions(self, log_density: Floats) -> Floats:
        """Return the fraction of each group to keep, at most 1, given the logarithm of each weight's density.

        Rounded, so that what a library for linear algebra makes of the last digits decides nothing.
        """
        sparse = 1 - np.exp(log_density.mean()) if log_density.size else 0.0
        logs = self.solve(np.append(log_density, -sparse * self.bent))
        kept: Floats = np.exp(np.minimum(np.round(logs, DIGITS), 0))
        return kept


def _bends(groups: int) -> Sparse:
    """Return second differences from group to group."""
    row = np.arange(max(groups - 2, 0))
    columns, values = np.concatenate([row, row + 1, row + 2]), SMOOTHNESS * np.repeat([1.0, -2.0, 1.0], row.size)
    return Sparse(np.tile(row, 3), columns, values, (row.size, groups))


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
