"""Latency as a function of group widths, from times of kernels at a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.axes import Axes, Axis, Widths
from onnx_reconvene.latency.kernels import BYTES, MACS, MOVING, MULTIPLYING, Kernel, Layer, Work

FRACTIONS = (0.25, 0.5, 1.0)  # of what a layer reads and of what it makes, at which it is measured
STEP, FINEST = 16, 4  # channels
Floats = NDArray[np.float64]
Times = Callable[[Sequence[Kernel]], Mapping[Kernel, float]]  # milliseconds


@dataclass(frozen=True)
class Surface:
    """Milliseconds over what a layer reads and makes (elements), linear in each between the points measured and on to zero."""

    read: Floats  # [points], ascending from 0
    made: Floats
    milliseconds: Floats  # [points of read, points of made]

    @classmethod
    def of(cls, read: Floats, made: Floats, milliseconds: Floats) -> Surface:
        """Return the surface through what was measured, [points, points]; times that shrink with more work are taken as noise."""
        rising = np.maximum.accumulate(np.maximum.accumulate(milliseconds, 0), 1)
        for axis, points in ((0, read), (1, made)):
            first, second = np.take(rising, 0, axis), np.take(rising, min(1, rising.shape[axis] - 1), axis)
            slope = (second - first) / (points[1] - points[0]) if len(points) > 1 else first / points[0]
            rising = np.insert(rising, 0, np.maximum(0, first - slope * points[0]), axis)
        return cls(np.append(0, read), np.append(0, made), rising)

    def __call__(self, read: float, made: float) -> float:
        """Return the milliseconds at this place."""
        i, a = _between(self.read, read)
        j, b = _between(self.made, made)
        low, high = ((1 - b) * self.milliseconds[k, j] + b * self.milliseconds[k, j + 1] for k in (i, i + 1))
        return float((1 - a) * low + a * high)


def _between(points: Floats, place: float) -> tuple[int, float]:
    """Return the interval of points in which a place lies, and how far along it."""
    left = min(max(int(np.searchsorted(points, place, "right")) - 1, 0), len(points) - 2)
    return left, float((place - points[left]) / (points[left + 1] - points[left]))


class LatencyModel:
    """Predicted milliseconds of one run at given widths.

    It is the sum over all layers of what their kernels take, of the bytes that other nodes move at the rate of an Add, and of what
    is multiplied elsewhere at that of a MatMul; times `scale`. The argument times gives the milliseconds of kernels. These are
    looked at where widths are multiples of STEP channels, as kernels like them.
    """

    def __init__(self, work: Work, times: Times) -> None:
        groups = work.analysis.groups
        self.work, self.scale = work, 1.0
        self.dense = np.asarray([group.width for group in groups], np.int64)
        channels = np.asarray([group.channels for group in groups], np.int64)
        self._sampled = [_rounded(fraction, self.dense, channels) for fraction in FRACTIONS]
        grids = [self._grid(layer) for layer in work.layers]
        kernels = [kernel for grid in grids for row in grid.kernels.tolist() for kernel in row]
        found = times(list(dict.fromkeys([MOVING, MULTIPLYING, *kernels])))
        self._per_byte, self._per_mac = found[MOVING] / BYTES, found[MULTIPLYING] / MACS
        self._surfaces = [Surface.of(g.read, g.made, np.vectorize(found.__getitem__, [float])(g.kernels)) for g in grids]
        self._free = np.asarray([grid.free for grid in grids], bool)
        self._read = np.asarray([grid.read[-1] for grid in grids])

    def _grid(self, layer: Layer) -> _Grid:
        """Return at which widths of what it reads and of what it makes a layer is measured; where these are of the same groups,
        only what it makes varies."""
        axes = self.work.axes
        reads, makes = axes.groups(layer.read), axes.groups(layer.made)
        together = np.intersect1d(reads, makes).size > 0
        free = reads.size > 0 and not together
        rows = self._sampled if free else [self.dense]
        columns = self._sampled if makes.size else [self.dense]
        varied = np.union1d(reads, makes) if together else makes
        found: dict[tuple[float, float], Kernel] = {}
        for row in rows:
            for column in columns:
                widths = self.dense.copy()
                widths[reads] = row[reads]
                widths[varied] = column[varied]
                sizes = axes(widths)
                place = (_elements(axes, sizes, layer.read if free else ()), _elements(axes, sizes, layer.made))
                found[place] = layer.kernel(axes, sizes)
        read, made = (np.unique([place[k] for place in found]) for k in (0, 1))
        kernels = np.empty((read.size, made.size), object)
        kernels[:] = [[found[r, m] for m in made] for r in read]
        return _Grid(read, made, kernels, free)

    def __call__(self, widths: Widths) -> float:
        """Return the milliseconds at these widths."""
        sizes = self.work.axes(widths)
        read, made = self.work.read.terms(sizes), self.work.made.terms(sizes)
        read = np.where(self._free, read, self._read)
        layers = sum(surface(r, m) for surface, r, m in zip(self._surfaces, read.tolist(), made.tolist(), strict=True))
        return self.scale * (layers + self.work.bytes(sizes) * self._per_byte + self.work.macs(sizes) * self._per_mac)


@dataclass(frozen=True)
class _Grid:
    """The kernels of a layer over what it reads and what it makes, in elements."""

    read: Floats
    made: Floats
    kernels: NDArray[np.object_]  # [read, made]
    free: bool  # whether what it reads varies, apart from what it makes


def _elements(axes: Axes, sizes: Floats, of: Sequence[Axis]) -> float:
    return float(np.prod([sizes[axes.row[axis]] for axis in of]))


def _rounded(fraction: float, dense: Widths, channels: Widths) -> Widths:
    """Return the multiples of STEP channels nearest to a fraction of the dense widths, in narrow groups of a part of STEP; at least
    one, and no more than dense."""
    steps = np.full_like(dense, STEP)
    while (narrow := (steps > FINEST) & (dense * channels < 4 * steps)).any():
        steps[narrow] //= 2
    steps //= np.gcd(steps, channels)
    result: Widths = np.minimum(np.maximum(1, np.rint(fraction * dense / steps)).astype(np.int64) * steps, dense)
    return dense if fraction == 1 else result
