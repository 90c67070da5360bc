"""Which units of a network are left in a pruned one, read off the weights of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.cut import remaining
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import every_tensor
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import axes_with_units

Units = NDArray[np.int64]
Places = NDArray[np.int64]
Weight = NDArray[Any]
UNKNOWN, GONE, STAYS = -1, 0, 1
GUESSES = 256  # at most, each a recursion


def match(analysis: Analysis, pruned: gs.Graph) -> NDArray[np.bool_] | None:
    """Return which units [units] of the analysed network are left in pruned, None where its weights are no slices of those before.

    An axis of a weight is matched row by row once what is left along its other axes is known. Inputs and outputs of the networks
    are whole, so knowledge spreads from there. Which of equal rows is left other weights tell; where none does, one is tried after
    the other, until all weights agree.
    """
    after = {t.name: values for t in every_tensor(pruned).values() if (values := weight_values(t)) is not None}
    pairs = [(weight_values(analysis.flow.weights[name]), name, own) for name, own in axes_with_units(analysis).items()]
    weights = [
        _Pair(before, after[name], own)
        for before, name, own in pairs
        if before is not None and name in after and before.ndim == after[name].ndim
    ]
    weights.sort(key=lambda weight: weight.before.ndim == 1)  # vectors (biases, scales) may repeat
    state = _solved(np.full(analysis.width, UNKNOWN), weights, iter(range(GUESSES)))
    return None if state is None else np.asarray(state == STAYS)


@dataclass(frozen=True)
class _Pair:
    """A weight before and after, and the units along its axes."""

    before: Weight
    after: Weight
    axes: Mapping[int, Units]

    def open(self, state: Units) -> list[int]:
        """Return the axes along which not all is known."""
        return [axis for axis, units in self.axes.items() if (state[units[units >= 0]] == UNKNOWN).any()]

    def left(self, state: Units, but: int = -1) -> Weight:
        """Return what is left of the weight before, all of the axis `but`."""
        return remaining(self.before, {axis: _of(units, state) == STAYS for axis, units in self.axes.items() if axis != but})

    def agrees(self, state: Units) -> bool:
        """Return True if what is left of the weight is what it is after."""
        left = self.left(state)
        return left.shape == self.after.shape and left.tobytes() == self.after.tobytes()

    def row(self, state: Units) -> _Row | None:
        """Return the one axis that is open, None where there are more, or blocks, each with units of its own."""
        axes = self.open(state)
        if len(axes) != 1 or self.axes[axes[0]].size > self.axes[axes[0]].shape[axes[0]]:
            return None
        (axis,) = axes
        before, after = (np.moveaxis(values, axis, 0) for values in (self.left(state, axis), self.after))
        alike = before.shape[1:] == after.shape[1:]
        return _Row(self.axes[axis].ravel(), [row.tobytes() for row in before] if alike else [], [row.tobytes() for row in after])


@dataclass(frozen=True)
class _Row:
    """What stood along an axis of a weight, by unit, and what is left there, in the same order."""

    units: Units
    before: Sequence[bytes]
    after: Sequence[bytes]

    def bounds(self, state: Units) -> tuple[Places, Places] | None:
        """Return the first and the last place where each of what is left may have stood, None where one has no place."""
        known = _of(self.units, state)
        wanted = Counter(self.after)
        wanted.subtract(content for content, has in zip(self.before, known, strict=False) if has == STAYS)
        may = [has == STAYS or (has == UNKNOWN and wanted[c] > 0) for c, has in zip(self.before, known, strict=False)]
        first = _found(enumerate(self.before), self.after, may)
        last = _found(reversed(list(enumerate(self.before))), self.after[::-1], may)
        return None if first is None or last is None else (first, last[::-1])

    def settle(self, state: Units) -> bool:
        """Enter what is certain; False where it contradicts what is known."""
        bounds = self.bounds(state)
        if bounds is None:
            return False
        first, last = bounds
        ends, reach = dict(zip(first.tolist(), last.tolist(), strict=True)), dict.fromkeys(self.before, -1)
        gone = np.ones(len(self.units), bool)
        for place, content in enumerate(self.before):
            reach[content] = ends.get(place, reach[content])
            gone[place] = place > reach[content]
        stays = np.isin(np.arange(len(self.units)), first[first == last])
        return self.put(state, stays, gone)

    def put(self, state: Units, stays: NDArray[np.bool_], gone: NDArray[np.bool_]) -> bool:
        """Enter what stays and what is gone, by place; False where it contradicts itself or what is known."""
        known = _of(self.units, state)
        if (stays & (known == GONE)).any() or (gone & (known == STAYS)).any() or np.isin(self.units[stays], self.units[gone]).any():
            return False
        for mask, value in ((stays, STAYS), (gone, GONE)):
            units = self.units[mask]
            state[units[units >= 0]] = value
        return True

    def guesses(self, state: Units) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield what may stay and be gone, by place: first all as early as can be, then one place after the other."""
        bounds = self.bounds(state)
        assert bounds is not None
        first, last = bounds
        places = np.arange(len(self.units))
        early, one, none = np.isin(places, first), places == first[first != last][0], np.zeros(len(places), bool)
        yield from ((early, ~early), (none, one), (one, none))


def _solved(state: Units, weights: Sequence[_Pair], guesses: Iterator[int]) -> Units | None:
    """Return what is known of each unit once all are, given what is known at first; None where weights contradict."""
    waiting = _settled(state, weights)
    if waiting is None:
        return None
    if (state != UNKNOWN).all():
        return state
    row = next((row for weight in waiting if (row := weight.row(state)) is not None), None)
    if row is None:
        return None
    for stays, gone in row.guesses(state):
        further = state.copy()
        if next(guesses, None) is not None and row.put(further, stays, gone):
            solved = _solved(further, waiting, guesses)
            if solved is not None:
                return solved
    return None


def _settled(state: Units, weights: Sequence[_Pair]) -> Sequence[_Pair] | None:
    """Enter what is certain, as far as that spreads, and return the weights not all known then; None where one contradicts."""
    known = -1
    while known < (known := int((state != UNKNOWN).sum())):
        if not all(weight.agrees(state) for weight in weights if not weight.open(state)):
            return None
        weights = [weight for weight in weights if weight.open(state)]
        for weight in weights:
            row = weight.row(state)
            if row is not None and not row.settle(state):
                return None
    return weights


def _of(units: Units, state: Units) -> Units:
    """Return what is known of units; those that no cut removes stay."""
    return np.append(state, STAYS)[units]


def _found(rows: Iterable[tuple[int, bytes]], wanted: Sequence[bytes], may: Sequence[bool]) -> Places | None:
    """Return the place of the next row that is wanted, one after the other; None where there is none."""
    waiting = ((place, content) for place, content in rows if may[place])
    found = [next((place for place, content in waiting if content == one), -1) for one in wanted]
    return None if -1 in found else np.asarray(found, np.int64)
