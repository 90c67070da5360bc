"""How levels and derivatives vary over the positions of maps: one rule for each kind of step.

A profile of levels u, and one of derivatives z, are arrays [positions], with mean(u) = 1 and mean(u * z) = 1. In a map whose
channels all have the profiles u and z, and the means f, the flow through a channel is the product of f with its derivative. Both
profiles take little: a layer passes them through its taps, each with the share of the flow that passes it, and no convolution of
the network itself is computed. Where the channels of a layer differ in profile, shares weigh the mean, and a maximum is taken of
that. Profiles change slowly as units go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reconvene.synflow.steps import EVEN, Floats, Layer, Pass, Pool, Product, Step, Sum, Window, ratio

TIED = 0.01  # of a maximum: positions that little below it are the maximum of as many channels


@dataclass
class Profiles:
    """The profiles of levels, and the flow through each position in terms of them, that is derivatives before they are scaled."""

    sizes: Sequence[int]
    levels: list[Floats]
    pulled: list[Floats]

    def level(self, profile: int, size: int) -> Floats:
        """Return the profile of levels over so many positions."""
        return np.broadcast_to(self.levels[profile], size)

    def derivative(self, profile: int) -> Floats:
        """Return the profile of derivatives, when all that reads the profile has been seen."""
        pulled, flow = self.pulled[profile], float((self.pulled[profile] * self.levels[profile]).mean())
        return pulled / flow if flow > 0 else np.ones(self.sizes[profile])

    def make(self, profile: int, values: Floats) -> float:
        """Set a profile of levels in proportion to values; return their mean."""
        mean = float(values.mean())
        if profile != EVEN and mean > 0:
            self.levels[profile] = np.asarray(values / mean)
        return mean

    def pull(self, profile: int, flow: Floats) -> None:
        """Add to what is pulled back to a profile."""
        if profile != EVEN:
            self.pulled[profile] += flow


def settle(steps: Sequence[Step], run: Pass, sizes: Sequence[int]) -> None:
    """Set the factors of steps to what the profiles say that follow from a pass over them; sizes are the positions of each."""
    found = Profiles(sizes, [np.ones(size) for size in sizes], [np.zeros(size) for size in sizes])
    for step in steps:
        FORWARD[type(step)](step, run, found)
    for step in reversed(steps):
        BACKWARD[type(step)](step, run, found)


def sampled(found: Profiles, profile: int, window: Window) -> Floats:
    """Return the profile of levels at the taps of a window, [taps, positions made]."""
    return np.asarray(np.append(found.level(profile, window.size), 0.0)[window.index])


def spread(window: Window, flow: Floats) -> Floats:
    """Return flow [taps, positions made] at the positions it comes from, as the mean over positions counts it."""
    taps, made = window.index.shape
    sums = np.bincount(window.index.ravel(), np.broadcast_to(flow, (taps, made)).ravel(), window.size + 1)
    return np.asarray(sums[:-1] * (window.size / made))


def layer(step: Layer, run: Pass, found: Profiles) -> None:
    """Taps add up what they read, by their share."""
    if step.window is None:
        return
    at_taps = [sampled(found, profile, step.window) for profile in step.kinds.reads[0]]
    step.mean = np.stack([values.mean(1) for values in at_taps])
    made = [np.einsum("t,tp->p", shares, values) for shares, values in zip(step.of_taps(), at_taps, strict=True)]
    found.make(step.kinds.made[0], np.sum(made, 0))


def layer_back(step: Layer, run: Pass, found: Profiles) -> None:
    """Taps send back what meets them."""
    if step.window is None:
        return
    derivative = found.derivative(step.kinds.made[0])
    met = [np.einsum("tp,p->t", sampled(found, profile, step.window), derivative) for profile in step.kinds.reads[0]]
    step.met = np.stack(met) / step.window.index.shape[1]
    for shares, profile in zip(step.of_taps(), step.kinds.reads[0], strict=True):
        found.pull(profile, spread(step.window, shares[:, None] * derivative))
    step.fold()


def add(step: Sum, run: Pass, found: Profiles) -> None:
    """Terms count by their share."""
    for kind, shares in _kinds(step, step.parts * run.shares[step.made]):
        size = found.sizes[step.kinds.made[kind]]
        terms = [found.level(profile, size) for profile in step.kinds.reads[:, kind]]
        found.make(step.kinds.made[kind], np.einsum("t,tp->p", shares, np.stack(terms)))


def add_back(step: Sum, run: Pass, found: Profiles) -> None:
    """Terms get what meets them."""
    step.met = np.ones(step.kinds.reads.shape)
    for kind, shares in _kinds(step, step.parts * run.shares[step.made]):
        derivative = found.derivative(step.kinds.made[kind])
        for k, profile in enumerate(step.kinds.reads[:, kind]):
            step.met[k, kind] = (found.level(profile, derivative.size) * derivative).mean()
            found.pull(profile, shares[k] * derivative)


def multiply(step: Product, run: Pass, found: Profiles) -> None:
    """The geometric mean of profiles."""
    step.gain = np.zeros(step.kinds.made.size)
    for kind, made in enumerate(step.kinds.made):
        factors = [found.level(profile, found.sizes[made]) for profile in step.kinds.reads[:, kind]]
        mean = found.make(made, np.prod(factors, 0) ** (1 / len(factors)))
        step.gain[kind] = np.log2(mean) if mean > 0 else 0


def multiply_back(step: Product, run: Pass, found: Profiles) -> None:
    """Each operand gets an equal part of what flows at each position."""
    each = np.broadcast_to(run.shares[step.made] / len(step.factors), step.factors.shape)
    for kind, shares in _kinds(step, each):
        made = step.kinds.made[kind]
        flow = found.derivative(made) * found.levels[made]
        for k, profile in enumerate(step.kinds.reads[:, kind]):
            found.pull(profile, shares[k] * ratio(flow, found.level(profile, flow.size)))


def pool(step: Pool, run: Pass, found: Profiles) -> None:
    """The mean or the maximum of profiles over the window."""
    step.gain = np.zeros(step.kinds.made.size)
    for kind, made in enumerate(step.kinds.made):
        values = sampled(found, step.kinds.reads[0, kind], step.window)
        mean = found.make(made, values.max(0) if step.divisor is None else values.sum(0) / step.divisor)
        step.gain[kind] = np.log2(mean) if mean > 0 else 0


def pool_back(step: Pool, run: Pass, found: Profiles) -> None:
    """A mean sends back to all taps, a maximum to those that have it: where maps are symmetric, channels differ in which."""
    for kind, shares in _kinds(step, run.shares[step.made][None]):
        profile = step.kinds.reads[0, kind]
        if profile == EVEN:
            continue
        values = sampled(found, profile, step.window)
        largest = values >= values.max(0) * (1 - TIED)
        weight = largest / largest.sum(0) if step.divisor is None else 1 / step.divisor
        flow = shares * found.derivative(step.kinds.made[kind]) / 2.0 ** step.gain[kind]
        found.pull(profile, spread(step.window, weight * flow))


def _kinds(step: Sum | Product | Pool, shares: Floats) -> Iterator[tuple[int, Floats]]:
    """Yield each kind with the sum over its channels of shares [operands, channels]."""
    for kind in range(step.kinds.made.size):
        yield kind, shares[:, step.kinds.of == kind].sum(1)


FORWARD: dict[type[Step], Callable[..., None]] = {Layer: layer, Sum: add, Product: multiply, Pool: pool}
BACKWARD: dict[type[Step], Callable[..., None]] = {Layer: layer_back, Sum: add_back, Product: multiply_back, Pool: pool_back}
