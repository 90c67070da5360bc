"""Channel labels: integers that live and die together.

A label >= 0 stands for one channel of one tensor axis. Where two labels meet, an equality is recorded; a connected
component of equal labels is a *unit*, the smallest thing that can be removed. Where an operator works in blocks of channels,
each block may lose others, but all equally many: then a component falls into *members*, units of their own. A negative label is
frozen: it stands for the reason why a channel must stay. Nothing in this module knows ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """The solved equalities: a component and a member per label, and per component the reasons that were recorded for it."""

    component: Labels  # [labels] -> component, equal positions of balanced blocks taken for equal
    member: Labels  # [labels] -> member, labels apart that only their places in balanced blocks make equal
    balanced: tuple[Labels, ...]  # [blocks, labels of one] each
    reason: Labels  # [components] -> which of reasons freezes it, -1 where it is free
    reasons: tuple[str, ...]
    inexact: dict[int, str]  # component -> which operator computes statistics over it

    @cached_property
    def block_of_label(self) -> Labels:
        """For each label the block that it is in, numbered through; -1 for none. The last entry answers for frozen labels.

        A block that shares labels with one known before is that one: of the channels that an operator reads, some may be frozen
        that another one reads as free.
        """
        numbers = np.full(self.component.size + 1, -1)
        for number, block in enumerate(block for blocks in self.balanced for block in blocks):
            labels = block[block >= 0]
            known = np.unique(numbers[labels])
            known = known[known >= 0]
            numbers[labels] = known[0] if known.size == 1 else number
        return numbers

    def of(self, labels: Labels) -> Labels:
        """Return the components of labels, -1 where a channel is frozen."""
        if not self.component.size:
            return np.full(labels.shape, -1)
        return np.where(labels >= 0, self.component[np.maximum(labels, 0)], -1)

    def member_of(self, labels: Labels) -> Labels:
        """Return the members of labels, -1 where a channel is frozen."""
        if not self.member.size:
            return np.full(labels.shape, -1)
        return np.where(labels >= 0, self.member[np.maximum(labels, 0)], -1)

    def why(self, labels: Labels) -> Labels:
        """Return which of reasons freezes each label, -1 where it is free."""
        component = self.of(labels)
        return np.where(component >= 0, self.reason[component], -1 - labels) if self.reason.size else -1 - labels

    @property
    def free(self) -> Labels:
        """The components that can be removed."""
        return np.flatnonzero(self.reason < 0)


def all_frozen(labels: Labels) -> bool:
    """Return True if none of labels is free; at once for one label that is spread over many positions."""
    one = labels[:1] if labels.strides == (0,) else labels
    return bool(one.max(initial=-1) < 0)


class Equalities:
    """Hands out labels and records which of them are equal, frozen or inexact."""

    def __init__(self) -> None:
        self.count = 0
        self._reasons: dict[str, int] = {}
        self._pairs: list[tuple[Labels, Labels]] = []
        self._inexact: list[tuple[Labels, str]] = []
        self._balanced: list[Labels] = []

    def fresh(self, size: int) -> Labels:
        """Return `size` labels that were never used before."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def frozen(self, size: int, reason: str) -> Labels:
        """Return `size` labels that must stay because of `reason`: one, however many there are in memory."""
        return np.broadcast_to(np.int64(-1 - self._reasons.setdefault(reason, len(self._reasons))), (size,))

    def equate(self, a: Labels, b: Labels) -> None:
        """Record that a and b, broadcast together, are equal pair by pair."""
        if all_frozen(a) and all_frozen(b):
            return
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        if a is not b:
            self._pairs.append((a.ravel(), b.ravel()))

    def balance(self, blocks: Labels) -> None:
        """Record that as many labels must stay in each of blocks [blocks, labels of one]."""
        if len(blocks) > 1:
            self._balanced.append(blocks)

    def freeze(self, labels: Labels, reason: str) -> None:
        """Record that labels must stay."""
        if not all_frozen(labels):
            self.equate(labels, self.frozen(1, reason))

    def inexact(self, labels: Labels, reason: str) -> None:
        """Record that an operator computes statistics over labels, so that removal changes what remains."""
        self._inexact.append((labels.ravel(), reason))

    def solve(self) -> Solution:
        """Return the connected components of all recorded equalities."""
        ties = [np.broadcast_arrays(blocks, blocks[:1]) for blocks in self._balanced]
        left, right = self._ends([*self._pairs, *((a.ravel(), b.ravel()) for a, b in ties)])
        component = self._connected(left, right)
        member = self._connected(*self._ends(self._pairs)) if ties else component
        low, high = np.minimum(left, right), np.maximum(left, right)
        marked = (low < 0) & (high >= 0)
        reason = np.full(component.max(initial=-1) + 1, len(self._reasons))
        np.minimum.at(reason, component[high[marked]], -1 - low[marked])  # the first recorded reason is the one told
        reason[reason == len(self._reasons)] = -1
        inexact: dict[int, str] = {}
        for labels, what in self._inexact:
            inexact.update(dict.fromkeys(component[labels[labels >= 0]].tolist(), what))
        return Solution(component, member, tuple(self._balanced), reason, tuple(self._reasons), inexact)

    def _ends(self, pairs: list[tuple[Labels, Labels]]) -> tuple[Labels, Labels]:
        none = np.empty(0, np.int64)
        return np.concatenate([none, *(a for a, _ in pairs)]), np.concatenate([none, *(b for _, b in pairs)])

    def _connected(self, left: Labels, right: Labels) -> Labels:
        free = (left >= 0) & (right >= 0)
        return connected_components(self.count, left[free], right[free])


def connected_components(count: int, left: Labels, right: Labels) -> Labels:
    """Return a component number for each of `count` labels, the components of the edges (left, right), from 0.

    Every label points to a smaller one of its component; edges hook roots together and pointers are followed until nothing
    changes (Shiloach and Vishkin 1982). scipy has this too, but importing it would take a third of a whole run.
    """
    parent = np.arange(count)
    while left.size:
        a, b = parent[left], parent[right]
        apart = a != b
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
    number: Labels = np.cumsum(parent == np.arange(count)) - 1
    return number[parent]
