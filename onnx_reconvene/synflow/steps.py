"""The maps that a network of channels is made of, forward for levels, backward for shares of the flow.

A state stands for a channel of a map. Where the map is not the same everywhere, as zeros around it make it, all channels that are
made together have one *profile*: how their levels, and the derivatives with respect to them, vary over the positions of the map.
What maps need of profiles, they hold as factors, which `profiles.settle` computes; to begin with, maps are even.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Keep = NDArray[np.bool_]
Elements = Callable[[Floats, Floats], Floats]  # (slope, x at each tap) -> scores of the elements of a weight
EMPTY, INPUT = 0, 1  # the states of what holds zeros, and of what the graph inputs hold: ones
EVEN = 0  # the profile of what is the same everywhere


@dataclass
class Pass:
    """One pass over a network: levels forward, shares of the flow backward."""

    levels: Floats  # [states], log2 of means over positions
    shares: Floats  # [states]
    keep: Keep  # [units + 1], the last entry answers for frozen channels

    def read(self, ids: Ids) -> tuple[Floats, float]:
        """Return levels as values of which the largest is one, and the logarithm of what they are multiples of."""
        levels = self.levels[ids]
        peak = float(levels.max(initial=-np.inf))
        return (np.exp2(levels - peak), peak) if np.isfinite(peak) else (np.zeros(levels.shape), 0.0)

    def write(self, ids: Ids, values: Floats, peak: float) -> None:
        """Set levels to values times two to the peak."""
        with np.errstate(divide="ignore"):
            self.levels[ids] = np.log2(values) + peak

    def send(self, ids: Ids, shares: Floats) -> None:
        """Add to the shares of states, which may occur more than once."""
        first = ids.min(initial=self.shares.size)
        sent = np.bincount(ids.ravel() - first, shares.ravel())
        self.shares[first : first + sent.size] += sent


def ratio(share: Floats, value: Floats) -> Floats:
    """Return share / value, 0 where nothing flows."""
    return np.divide(share, value, out=np.zeros(np.broadcast_shapes(share.shape, value.shape)), where=value > 0)


@dataclass(frozen=True)
class Kinds:
    """Channels by the profiles of what they are computed from; none where that has one profile, which what is made has too."""

    of: Ids  # [channels] -> kind
    reads: Ids  # [operands, kinds] profiles
    made: Ids  # [kinds] profiles


@dataclass(frozen=True)
class Window:
    """Which positions of a map are read for each position of another."""

    index: Ids  # [taps, positions made] -> position read, `size` for a zero around the map
    size: int  # positions of the map that is read


@dataclass
class Layer:
    """y = A x, A the magnitudes of a weight, summed over its taps by how much of the mean of y comes from each.

    A is single precision, as weights are: it is what a pass waits for, and sums of positive numbers lose no digits. What A is
    multiplied by is scaled to a largest value of one.
    """

    kernel: NDArray[np.float32]  # [blocks, made by one, read by one, taps], magnitudes
    made: Ids  # [blocks * made by one] states
    reads: Ids  # [blocks * read by one] states; columns that read one state for one unit are summed
    made_units: Ids  # -1 where frozen
    read_units: Ids
    elements: Callable[[Floats, Floats], dict[str, Floats]]  # (slope, x at each tap) -> scores by stored weight
    kinds: Kinds  # of what it reads; all that it makes has one profile
    window: Window | None  # None: one tap, and positions one by one
    mean: Floats  # [kinds, taps], of what is read at each tap over the positions made
    met: Floats  # the same, weighted with the derivative there
    matrix: NDArray[np.float32] = field(init=False)  # [blocks, made by one, read by one]
    back: NDArray[np.float32] = field(init=False)  # the same for shares
    x: Floats = field(init=False)
    y: Floats = field(init=False)
    slope: Floats = field(init=False)  # share / y

    def __post_init__(self) -> None:
        self.fold()

    def fold(self) -> None:
        """Sum the kernel over its taps."""
        self.matrix = self._folded(self.mean)
        self.back = self.matrix if np.array_equal(self.mean, self.met) else self._folded(self.met)

    def _folded(self, factors: Floats) -> NDArray[np.float32]:
        """Return the kernel summed over its taps, each times its factor."""
        blocks, _, columns, taps = self.kernel.shape
        if taps == 1 and (factors == 1).all():
            return self.kernel[..., 0]
        if len(factors) == 1:
            return np.asarray(np.einsum("gmct,t->gmc", self.kernel, factors[0].astype(np.float32)))
        spread = factors.astype(np.float32)[self.kinds.of].reshape(blocks, columns, taps)
        return np.asarray(np.einsum("gmct,gct->gmc", self.kernel, spread))

    def forward(self, run: Pass) -> None:
        """Set the levels of what the layer makes."""
        values, peak = run.read(self.reads)
        self.x = values * run.keep[self.read_units]
        self.y = _product("gmc,gc->gm", self.matrix, self.x) * run.keep[self.made_units]
        run.write(self.made, self.y, peak)

    def backward(self, run: Pass) -> tuple[Floats, Floats]:
        """Send shares on; return those at what the layer makes, and at what it reads."""
        share = run.shares[self.made]
        self.slope = ratio(share, self.y)
        sent = self.x * _product("gmc,gm->gc", self.back, self.slope)
        if self.back is not self.matrix:
            lost = float(ratio(share.sum(), sent.sum()))  # since profiles were computed
            self.slope, sent = self.slope * lost, sent * lost
            share = self.slope * _product("gmc,gc->gm", self.back, self.x)
        run.send(self.reads, sent)
        return share, sent

    def at_taps(self) -> Floats:
        """Return what is read, [blocks * read by one, taps], as derivatives meet it."""
        return np.asarray(self.x[:, None] * self.met[self.kinds.of])

    def of_taps(self) -> Floats:
        """Return the share of the flow that passes each tap, [kinds, taps], were profiles even."""
        blocks, rows, columns, taps = self.kernel.shape
        flat = self.kernel.reshape(blocks, rows, columns * taps)
        each = self.x[:, None] * _product("gmn,gm->gn", flat, self.slope).reshape(-1, taps)
        return np.stack([each[self.kinds.of == kind].sum(0) for kind in range(len(self.mean))])

    def narrowed(self, keep: Keep) -> Layer:
        """Return the layer without the channels of removed units."""
        rows, columns = keep[self.made_units], keep[self.read_units]
        if len(self.kernel) > 1 or (rows.all() and columns.all()):
            return copy(self)
        return replace(
            self,
            kernel=self.kernel[:, rows][:, :, columns],
            made=self.made[rows],
            reads=self.reads[columns],
            made_units=self.made_units[rows],
            read_units=self.read_units[columns],
            kinds=replace(self.kinds, of=self.kinds.of[columns]),
        )


def _product(equation: str, matrix: NDArray[np.float32], vector: Floats) -> Floats:
    """Return the product of the matrix of each block with its part of a vector. All products of maps are einsum's: those of BLAS
    wait for threads of their own, which takes longer than products of this size."""
    largest = vector.max(initial=0) or 1.0
    scaled = (vector / largest).astype(np.float32).reshape(len(matrix), -1)
    return np.asarray(np.einsum(equation, matrix, scaled).ravel() * np.float64(largest))


class Fixed:
    """A map that no unit is part of."""

    def narrowed(self, keep: Keep) -> Self:
        """Return the map: channels of removed units hold zeros."""
        return copy(self)


@dataclass
class Sum(Fixed):
    """y = sum over k of weight[k] * x[k]."""

    terms: Ids  # [terms, channels] states
    weights: Floats  # log2, of the same shape
    made: Ids
    kinds: Kinds
    met: Floats  # [terms, kinds], profile of each term, weighted with the derivative
    parts: Floats = field(init=False)  # of the sum, each term

    def forward(self, run: Pass) -> None:
        """Set the levels of the sum."""
        levels = run.levels[self.terms] + self.weights
        peak = levels.max(0)
        peak[np.isneginf(peak)] = 0
        parts = np.exp2(levels - peak)
        total = parts.sum(0)
        self.parts = ratio(parts, total)
        with np.errstate(divide="ignore"):
            run.levels[self.made] = np.log2(total) + peak

    def backward(self, run: Pass) -> None:
        """Give each term its part of the share."""
        share = run.shares[self.made]
        sent = self.parts * share
        if self.met.size:
            sent = sent * self.met[:, self.kinds.of]
            sent *= ratio(share.sum(), sent.sum())
        run.send(self.terms, sent)


@dataclass
class Product(Fixed):
    """y = the geometric mean over k of x[k]: through each operand goes an equal part of the flow."""

    factors: Ids  # [operands, channels] states
    made: Ids
    kinds: Kinds
    gain: Floats  # [kinds], log2 of the mean of the product of profiles

    def forward(self, run: Pass) -> None:
        """Set the levels of the product."""
        run.levels[self.made] = run.levels[self.factors].mean(0) + (self.gain[self.kinds.of] if self.gain.size else 0)

    def backward(self, run: Pass) -> None:
        """Give each operand an equal part of the share."""
        run.send(self.factors, np.broadcast_to(run.shares[self.made] / len(self.factors), self.factors.shape))


@dataclass
class Pool(Fixed):
    """y = the mean or the maximum of x over the taps of a window, in every channel."""

    reads: Ids
    made: Ids
    kinds: Kinds
    window: Window
    divisor: Floats | None  # [positions made], of the sum; None for the maximum
    gain: Floats  # [kinds], log2

    def forward(self, run: Pass) -> None:
        """Set the levels of what is made."""
        run.levels[self.made] = run.levels[self.reads] + self.gain[self.kinds.of]

    def backward(self, run: Pass) -> None:
        """Pass the shares on."""
        run.send(self.reads, run.shares[self.made])


Step = Layer | Sum | Product | Pool
