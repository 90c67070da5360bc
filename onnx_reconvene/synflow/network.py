"""A network reduced to its channels: per operator one map between vectors that hold the mean of each channel over its positions.

All maps are positive and homogeneous of degree one: weights count by magnitude; biases, shifts and activations are left out. Every
channel is a *state*. Forward, states hold the logarithm of their level, so that no depth overflows. Backward, they hold shares of
the flow, level times derivative of the sum of all outputs, over that sum: a cut through the network carries a total of one,
whatever its depth, so shares are comparable across layers (the conservation law of Tanaka et al. 2020, arXiv 2006.05467). How
levels and derivatives vary over positions, together, is the matter of `profiles`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_reconvene.synflow.profiles import settle
from onnx_reconvene.synflow.steps import INPUT, Floats, Ids, Keep, Layer, Pass, Step, ratio


@dataclass(frozen=True)
class ChannelNetwork:
    """The maps of a network, in the order in which they are computed."""

    states: int
    units: int
    steps: tuple[Step, ...]
    outputs: Ids  # states of the network's outputs
    positions: Floats  # how many elements each of outputs stands for
    averaged: tuple[str, ...]  # nodes for want of a rule taken to spread the mean of what they read evenly
    profiles: tuple[int, ...]  # how many positions each has

    @property
    def layers(self) -> list[Layer]:
        """The maps that have weights."""
        return [step for step in self.steps if isinstance(step, Layer)]

    def narrowed(self, keep: Keep) -> ChannelNetwork:
        """Return the network without the channels of units that keep [units] does not hold, with the profiles that it has then."""
        known = np.append(keep, True)
        network = replace(self, steps=tuple(step.narrowed(known) for step in self.steps))
        network.settle(keep)
        return network

    def settle(self, keep: Keep) -> None:
        """Compute profiles anew for the units that keep [units] holds."""
        run, _ = self._pass(keep)
        settle(self.steps, run, self.profiles)

    def shares(self, keep: Keep) -> Floats:
        """Return the share of the flow through each unit of those that keep [units] holds, summed over the sites of the unit: every
        layer that makes its channels, and every layer that reads them."""
        return self._pass(keep)[1]

    def _pass(self, keep: Keep) -> tuple[Pass, Floats]:
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
        return run, np.bincount(at[at >= 0], flow[at >= 0], self.units).astype(np.float64)

    def _forward(self, keep: Keep) -> Pass:
        run = Pass(np.full(self.states, -np.inf), np.zeros(self.states), np.append(keep, True))
        run.levels[INPUT] = 0
        for step in self.steps:
            step.forward(run)
        values, _ = run.read(self.outputs)
        flow = values * self.positions
        run.send(self.outputs, ratio(flow, flow.sum()))
        return run

    def levels(self, keep: Keep) -> Floats:
        """Return the logarithm, to base 2, of the mean of each state over its positions."""
        return self._forward(keep).levels

    def elements(self) -> dict[str, Floats]:
        """Return the score of each element of each stored weight: |w| times the derivative, as a share of the flow."""
        self.shares(np.ones(self.units, bool))
        found: dict[str, Floats] = {}
        for layer in self.layers:
            for name, scores in layer.elements(layer.slope, layer.at_taps()).items():
                found[name] = found[name] + scores if name in found else scores
        return found
