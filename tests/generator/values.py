"""Tensors of a network being drawn, and sizes made from theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDEST = 24  # channels


@dataclass(frozen=True)
class Value:
    """A tensor of the network and the axis that its channels are on: the last, or 1 where space follows them."""

    name: str
    shape: tuple[int, ...]
    axis: int

    @property
    def width(self) -> int:
        """The number of channels."""
        return self.shape[self.axis]

    @property
    def kind(self) -> str:
        """An "image" x[n,c,...], "tokens" x[n,t,c], a "grid" x[n,h,w,c] or a "vector" x[n,c]."""
        return "vector" if len(self.shape) == 2 else "image" if self.axis == 1 else ("tokens", "grid")[self.axis - 2]


@dataclass(frozen=True)
class Dim:
    """One size of a target shape: a product of sizes of the tensor at hand, divided."""

    axes: tuple[int, ...]
    over: int = 1

    def of(self, shape: Sequence[int]) -> int:
        """Return what it comes to."""
        return int(np.prod([shape[axis] for axis in self.axes])) // self.over


def space(x: Value) -> tuple[int, ...]:
    """Return the sizes of x that count no channels."""
    return x.shape[: x.axis] + x.shape[x.axis + 1 :]


def resized(x: Value, width: int) -> tuple[int, ...]:
    """Return the shape of x with another number of channels."""
    return (*x.shape[: x.axis], width, *x.shape[x.axis + 1 :])
