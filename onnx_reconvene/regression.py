"""Least squares of what a layer returned on what it reads, gathered batch by batch: memory does not grow with samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
RIDGE = 1e-3  # of the mean square of what a layer reads


class Moments:
    """Mean and variance of each channel."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, values: Array) -> None:
        """Take values [samples, channels, ...] in."""
        rows = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]).astype(np.float64)
        self._count += len(rows)
        self._sum, self._squares = self._sum + rows.sum(0), self._squares + (rows**2).sum(0)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of each channel."""
        return self._sum / self._count

    @property
    def variance(self) -> NDArray[np.float64]:
        """The variance of each channel."""
        return np.maximum(self._squares / self._count - self.mean**2, 0.0)


class Regression:
    """The normal equations of y ~ x @ weight + bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.rows = 0
        self._x, self._y = np.zeros(inputs), np.zeros(outputs)
        self._xx, self._xy = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))

    def add(self, x: Array, y: Array) -> None:
        """Take rows x [rows, inputs] and y [rows, outputs] in."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.rows += len(x)
        self._x, self._y = self._x + x.sum(0), self._y + y.sum(0)
        self._xx += x.T @ x
        self._xy += x.T @ y

    def solve(self, start: Array, with_bias: bool) -> tuple[Array, Array]:
        """Return the weight [inputs, outputs] and the bias [outputs]; ridge regression draws the weight towards start."""
        mean_x, mean_y = self._x / self.rows, self._y / self.rows
        xx, xy = self._xx / self.rows, self._xy / self.rows
        if with_bias:
            xx, xy = xx - np.outer(mean_x, mean_x), xy - np.outer(mean_x, mean_y)
        ridge = RIDGE * np.trace(xx) / len(xx) + np.finfo(np.float64).tiny
        weight = start + np.linalg.solve(xx + ridge * np.eye(len(xx)), xy - xx @ start)
        return weight, mean_y - mean_x @ weight


@dataclass(frozen=True)
class Window:
    """Where a convolution looks: by axis of space."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]  # zeros in front

    def patches(self, x: Array, places: tuple[Array, ...]) -> Array:
        """Return what of x [samples, channels, ...] the kernel covers at output places (by axis of space, [samples, n] each), as
        [samples * n, channels * kernel]."""
        samples, n = places[0].shape
        found = np.zeros((samples, n, *self.kernel, x.shape[1]), x.dtype)
        which = np.arange(samples)[:, None]
        for offset in np.ndindex(*self.kernel):
            at = [p * s + o * d - b for p, s, o, d, b in zip(places, self.strides, offset, self.dilations, self.begin, strict=True)]
            inside = np.all([(a >= 0) & (a < size) for a, size in zip(at, x.shape[2:], strict=True)], 0)
            clipped = [np.clip(a, 0, size - 1) for a, size in zip(at, x.shape[2:], strict=True)]
            found[(slice(None), slice(None), *offset)] = np.moveaxis(x, 1, -1)[(which, *clipped)] * inside[..., None]
        return np.moveaxis(found, -1, 2).reshape(samples * n, x.shape[1] * math.prod(self.kernel))
