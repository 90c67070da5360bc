"""A network reduced to its channels: per operator one map between vectors that hold the mean of each channel over its positions.

All maps are positive and homogeneous of degree one: weights count by magnitude; biases, shifts and activations are left out. Every
channel is a *state*. Forward, states hold the logarithm of their level, so that no depth overflows. Backward, they hold shares of
the flow, level times derivative of the sum of all outputs, over that sum: a cut through the network carries a total of one,
whatever its depth, so shares are comparable across layers (the conservation law of Tanaka et al. 2020, arXiv 2006.05467).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Elements = Callable[[Floats, Floats], Floats]  # (slope, x) -> scores of the elements of a weight
EMPTY, INPUT = 0, 1  # the states of what holds zeros, and of what the graph inputs hold: ones


@dataclass
class Pass:
    """One pass over a network: levels forward, shares of the flow backward."""

    levels: Floats  # [states], log2
    shares: Floats  # [states]
    keep: NDArray[np.bool_]  # [units + 1], the last entry answers for frozen channels

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


@dataclass
class Layer:
    """y = A x, A the magnitudes of a weight summed over its kernel: [blocks, made by one, read by one].

    A is single precision, as weights are: it is what a pass waits for, and sums of positive numbers lose no digits. What A is
    multiplied by is scaled to a largest value of one.
    """

    matrix: NDArray[np.float32]
    made: Ids  # [blocks * made by one] states
    reads: Ids  # [blocks * read by one] states; columns that read one state for one unit are summed
    made_units: Ids  # -1 where frozen
    read_units: Ids
    elements: Callable[[Floats, Floats], dict[str, Floats]]  # (slope, x) -> scores by stored weight
    x: Floats = field(init=False)
    y: Floats = field(init=False)
    slope: Floats = field(init=False)  # share / y

    def forward(self, run: Pass) -> None:
        """Set the levels of what the layer makes."""
        values, peak = run.read(self.reads)
        self.x = values * run.keep[self.read_units]
        self.y = self._product("gmc,gc->gm", self.x) * run.keep[self.made_units]
        run.write(self.made, self.y, peak)

    def backward(self, run: Pass) -> tuple[Floats, Floats]:
        """Send shares on; return those at what the layer makes, and at what it reads."""
        share = run.shares[self.made]
        self.slope = ratio(share, self.y)
        sent = self.x * self._product("gmc,gm->gc", self.slope)
        run.send(self.reads, sent)
        return share, sent

    def _product(self, equation: str, vector: Floats) -> Floats:
        """Return the product of the matrix of each block with its part of a vector; einsum does not wait for other threads."""
        largest = vector.max(initial=0) or 1.0
        scaled = (vector / largest).astype(np.float32).reshape(len(self.matrix), -1)
        return np.asarray(np.einsum(equation, self.matrix, scaled).ravel() * np.float64(largest))

    def narrowed(self, keep: NDArray[np.bool_]) -> Layer:
        """Return the layer without the channels of removed units."""
        rows, columns = keep[self.made_units], keep[self.read_units]
        if len(self.matrix) > 1 or (rows.all() and columns.all()):
            return self
        return replace(
            self,
            matrix=self.matrix[:, rows][:, :, columns],
            made=self.made[rows],
            reads=self.reads[columns],
            made_units=self.made_units[rows],
            read_units=self.read_units[columns],
        )


@dataclass
class Sum:
    """y = sum over k of weight[k] * x[k]."""

    terms: Ids  # [terms, channels] states
    weights: Floats  # log2, of the same shape
    made: Ids
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
        run.send(self.terms, self.parts * run.shares[self.made])


@dataclass
class Product:
    """y = the geometric mean over k of x[k]: through each operand goes an equal part of the flow."""

    factors: Ids  # [operands, channels] states
    made: Ids

    def forward(self, run: Pass) -> None:
        """Set the levels of the product."""
        run.levels[self.made] = run.levels[self.factors].mean(0)

    def backward(self, run: Pass) -> None:
        """Give each operand an equal part of the share."""
        run.send(self.factors, np.broadcast_to(run.shares[self.made] / len(self.factors), self.factors.shape))


Step = Layer | Sum | Product


@dataclass(frozen=True)
class ChannelNetwork:
    """The maps of a network, in the order in which they are computed."""

    states: int
    units: int
    steps: tuple[Step, ...]
    outputs: Ids  # states of the network's outputs
    positions: Floats  # how many elements each of outputs stands for
    averaged: tuple[str, ...]  # nodes for want of a rule taken to spread the mean of what they read evenly

    @property
    def layers(self) -> list[Layer]:
        """The maps that have weights."""
        return [step for step in self.steps if isinstance(step, Layer)]

    def narrowed(self, keep: NDArray[np.bool_]) -> ChannelNetwork:
        """Return the network without the channels of units that keep [units] does not hold."""
        known = np.append(keep, True)
        return replace(self, steps=tuple(s.narrowed(known) if isinstance(s, Layer) else s for s in self.steps))

    def shares(self, keep: NDArray[np.bool_]) -> Floats:
        """Return the share of the flow through each unit of those that keep [units] holds, summed over the sites of the unit: every
        layer that makes its channels, and every layer that reads them."""
        run = self._forward(keep)
        units: list[Ids] = []
        shares: list[Floats] = []
        for step in reversed(self.steps):
            if isinstance(step, Layer):
                units += [step.made_units, step.read_units]
                shares += step.backward(run)
            else:
                step.backward(run)
        at, flow = np.concatenate([np.empty(0, np.int64), *units]), np.concatenate([np.empty(0), *shares])
        return np.bincount(at[at >= 0], flow[at >= 0], self.units).astype(np.float64)

    def _forward(self, keep: NDArray[np.bool_]) -> Pass:
        run = Pass(np.full(self.states, -np.inf), np.zeros(self.states), np.append(keep, True))
        run.levels[INPUT] = 0
        for step in self.steps:
            step.forward(run)
        values, _ = run.read(self.outputs)
        flow = values * self.positions
        run.send(self.outputs, ratio(flow, flow.sum()))
        return run

    def levels(self, keep: NDArray[np.bool_]) -> Floats:
        """Return the logarithm, to base 2, of the mean of each state over its positions."""
        return self._forward(keep).levels

    def elements(self) -> dict[str, Floats]:
        """Return the score of each element of each stored weight: |w| times the derivative, as a share of the flow."""
        self.shares(np.ones(self.units, bool))
        found: dict[str, Floats] = {}
        for layer in self.layers:
            for name, scores in layer.elements(layer.slope, layer.x).items():
                found[name] = found[name] + scores if name in found else scores
        return found
