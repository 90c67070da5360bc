"""Distributions from which frameworks draw initial weights: which of them fits a tensor, and drawing from it anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SAMPLE = 8192  # elements of a tensor that are looked at
LEVELS = 512  # at which distributions are compared
LARGEST_GAP = math.sqrt(math.log(2 / 1e-6) / 2)  # of Kolmogorov's distribution, at a level of one in a million
CUT = 2.0  # where truncated normals end, in deviations before the cut
CUT_DEVIATION = 0.87962566103423978  # of a unit normal that is cut there
BOUND = {"normal": math.inf, "uniform": math.sqrt(3), "truncated normal": CUT / CUT_DEVIATION}  # in deviations
RANDOM_BITS = 24  # of a uniform float32
EPSILONS = (0.0, 1e-5, 1e-3)  # of no norm, or of one that is folded


@dataclass(frozen=True)
class Initializer:
    """A distribution of mean zero. Its variance is `variance` over a fan, the name of one of those of a layer, or `variance`."""

    name: str
    law: str  # a key of BOUND
    variance: float
    fan: str | None

    def deviation(self, fans: Mapping[str, float]) -> float | None:
        """Return the standard deviation at a layer with these fans, None where it has no such fan."""
        if self.fan is None:
            return math.sqrt(self.variance)
        return math.sqrt(self.variance / fans[self.fan]) if fans.get(self.fan) else None

    def fits(self, sample: Sample, fans: Mapping[str, float]) -> bool:
        """Return True if sample may have been drawn from this distribution: by its moments, by its bound, and by the test of
        Kolmogorov and Smirnov (with the correction for few values of Stephens, 1970)."""
        deviation = self.deviation(fans)
        if deviation is None or not sample.agrees(deviation):
            return False
        if sample.largest > BOUND[self.law] * deviation * (1 + sample.resolution):
            return False
        root = math.sqrt(sample.values.size)
        return (root + 0.12 + 0.11 / root) * sample.gap(deviation * quantiles(self.law)) < LARGEST_GAP

    def draw(self, shape: tuple[int, ...], fans: Mapping[str, float], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return values of this distribution at a layer with these fans."""
        deviation = self.deviation(fans)
        assert deviation is not None
        if self.law == "normal":
            unit = rng.standard_normal(shape, np.float32)
        elif self.law == "uniform":
            unit = (2 * rng.random(shape, np.float32) - 1) * np.float32(BOUND["uniform"])
        else:
            unit = _truncated(rng, shape)
        return unit * np.float32(deviation)


def _truncated(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = rng.standard_normal(shape, np.float32)
    while (beyond := np.abs(values) > CUT).any():
        values[beyond] = rng.standard_normal(np.count_nonzero(beyond), np.float32)
    return values / np.float32(CUT_DEVIATION)


class Sample:
    """The values of a tensor as far as they are looked at: all of few, of many one at random from each of equal stretches."""

    def __init__(self, tensor: Array) -> None:
        flat = tensor.reshape(-1)
        size = min(flat.size, SAMPLE)
        stretch = (np.arange(size) + np.random.default_rng(0).random(size)) * (flat.size / size)
        chosen = flat if flat.size == size else flat[np.minimum(stretch.astype(np.int64), flat.size - 1)]
        self.tensor = flat
        self.values = np.sort(chosen.astype(np.float64))
        self.resolution = 2.0**-7 if flat.dtype.name == "bfloat16" else float(np.finfo(flat.dtype).eps)
        self.deviation = math.sqrt(float(np.mean(self.values**2)))  # from zero

    @property
    def largest(self) -> float:
        """The largest absolute value in the whole tensor."""
        return float(max(abs(self.tensor.min()), abs(self.tensor.max())))

    def agrees(self, deviation: float) -> bool:
        """Return True if a mean of zero and a standard deviation are those of the sample, to over five times what chance makes."""
        root = math.sqrt(self.values.size)
        moments = abs(float(self.values.mean())) < 5.6 * deviation / root
        return moments and self.deviation > 0 and abs(math.log(deviation / self.deviation)) < 4 / root

    def gap(self, quantiles_: NDArray[np.float64]) -> float:
        """Return the largest distance between the distribution of the sample and that which has these quantiles at even levels."""
        below = np.searchsorted(self.values, quantiles_, "right") / self.values.size
        return float(np.abs(below - _levels()).max())

    def is_on_grid(self, bound: float) -> bool | None:
        """Return True if the values near zero are whole multiples of the step between the uniform numbers of a generator: bound
        times 2**-24 where a scale is multiplied last, a power of two where an offset is added last; perhaps scaled by a folded
        norm at its start. Any training moves them to the finer floats in between. None where that cannot be told: too few values,
        or no float32."""
        near = self.values[np.abs(self.values) < bound / 256]
        if self.tensor.dtype != np.float32 or near.size < 8:
            return None
        steps = (bound * 2.0**-RANDOM_BITS, 2.0 ** (math.floor(math.log2(bound)) - RANDOM_BITS))
        return any(_is_whole(near * math.sqrt(1 + epsilon) / step) for step in steps for epsilon in EPSILONS)


def _is_whole(values: NDArray[np.float64]) -> bool:
    return bool((np.abs(values - np.rint(values)) < 0.02).all())


def _levels() -> NDArray[np.float64]:
    return (np.arange(LEVELS) + 0.5) / LEVELS


@cache
def quantiles(law: str) -> NDArray[np.float64]:
    """Return the quantiles of a distribution of unit variance at LEVELS even levels."""
    levels = _levels()
    if law == "uniform":
        return BOUND["uniform"] * (2 * levels - 1)
    normal, cut = NormalDist(), law == "truncated normal"
    below = normal.cdf(-CUT) if cut else 0.0
    found = np.asarray([normal.inv_cdf(below + level * (1 - 2 * below)) for level in levels.tolist()])
    return found / CUT_DEVIATION if cut else found


def _by_fan() -> list[Initializer]:
    """He (Kaiming) 2015, Glorot (Xavier) 2010, LeCun 1998, as torch and Keras draw them."""
    scales = [("kaiming", 2.0, fan) for fan in ("fan_in", "fan_out", "fan_out of a group")]
    scales += [("xavier", 1.0, "fan_avg"), ("xavier with gain sqrt(2)", 2.0, "fan_avg")]
    scales += [("lecun", 1.0, "fan_in"), ("lecun", 1.0, "fan_out"), ("lecun", 1.0, "fan_out of a group")]
    return [Initializer(f"{name} {law}, {fan}", law, gain, fan) for law in BOUND for name, gain, fan in scales]


def _constant() -> list[Initializer]:
    deviations = (0.02, 0.01, 0.001, 0.05, 1.0)
    return [
        *(Initializer(f"normal, deviation {d:g}", "normal", d**2, None) for d in deviations),
        Initializer("truncated normal, deviation 0.02", "truncated normal", (0.02 * CUT_DEVIATION) ** 2, None),
        Initializer("uniform, bound 0.05", "uniform", 0.05**2 / 3, None),
    ]


# torch draws weights and biases of Linear, Conv and recurrent layers uniformly within 1 / sqrt(fan).
BIASES = [
    Initializer(f"uniform, bound 1/sqrt({fan})", "uniform", 1 / 3, fan) for fan in ("fan_in", "fan_out", "inputs", "hidden units")
]
KNOWN = [*BIASES, *_by_fan(), *_constant()]


def of_wider_layers(sample: Sample, fans: Mapping[str, float]) -> list[Initializer]:
    """Return distributions as wide as a sample, which known ones are at layers of larger fans."""
    laws = {known.law for known in KNOWN if known.fan and (known.deviation(fans) or 0) > sample.deviation}
    deviations = {law: max(sample.deviation, sample.largest / bound) for law, bound in BOUND.items() if law in laws}
    return [Initializer(f"{law} for a wider layer", law, deviation**2, None) for law, deviation in deviations.items()]
