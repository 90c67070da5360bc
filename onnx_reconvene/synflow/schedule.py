"""Iterated scoring: units are taken away little by little, and what remains is scored again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.groups import Analysis, Group

Scores = NDArray[np.float64]
Keep = NDArray[np.bool_]

ROUNDS = 100
DENSITY = 0.1  # of units; about a hundredth of the weights


def iterated(analysis: Analysis, score: Callable[[Keep], Scores], rounds: int = ROUNDS, density: float = DENSITY) -> Scores:
    """Return scores [units] by which units go in the order in which an iterated criterion takes them away.

    score gives the scores of the units that stay; those of others do not matter. After round k, density**(k / rounds) of all units
    stay, the best of all groups (Tanaka et al. 2020), but at least one of each block of each group, and as many in all its blocks.
    A unit scores what it scored in the round that took it away, on top of the largest score that was taken away before; units that
    can only go together, one of each block, score their sum.

    Scores are shares of a flow that every group conserves: when units go, what they had passes through the others of their group.
    Within a round, each unit counts with what it will score when all lesser ones of its group are gone, so that a round comes out
    as ever smaller rounds would. Else it takes as much as it may from the group whose units score least, the next round from
    another, and the last digits of scores decide whose turn it is.
    """
    order = _Removal(analysis)
    keep, result, base = np.ones(analysis.width, bool), np.zeros(analysis.width), 0.0
    for k in range(1, rounds + 1):
        scores = order.foreseen(keep, score(keep))
        stay = order.best(keep, scores, round(density ** (k / rounds) * order.rows))
        gone = keep & ~stay
        result[gone] = base + scores[gone]
        base = result[gone].max(initial=base)
        keep = stay
    result[keep] = base + order.foreseen(keep, score(keep))[keep]
    return result


class _Removal:
    """Takes units away in rows: one unit of each block of a group, the best of each together, then the second best, and so on."""

    def __init__(self, analysis: Analysis) -> None:
        widths = [group.width for group in analysis.groups]
        self.rows = sum(widths)
        self._starts = np.append(0, np.cumsum(widths)).astype(np.int64)
        self._group = np.repeat(np.arange(len(widths)), widths)  # of each row
        self._row = np.zeros(analysis.width, np.int64)  # of each unit
        self._blocked: list[tuple[Group, int]] = []
        for group, first in zip(analysis.groups, self._starts.tolist(), strict=False):
            group.by_block(self._row)[:] = first + np.arange(group.width)
            if group.blocks > 1:
                self._blocked.append((group, first))

    def foreseen(self, keep: Keep, scores: Scores) -> Scores:
        """Return for each of the units in keep what its row will score when the lesser rows of its group are gone, and the others
        share what these had; 0 for other units."""
        for group, first in self._blocked:
            ranked = np.argsort(-np.where(group.by_block(keep), group.by_block(scores), -np.inf), 1, kind="stable")
            np.put_along_axis(group.by_block(self._row), ranked, first + np.arange(group.width)[None], 1)
        of_row = np.bincount(self._row, np.where(keep, scores, 0), self.rows)
        order = np.lexsort((of_row, self._group))
        ranked = of_row[order]
        lesser = np.cumsum(ranked) - ranked
        lesser -= lesser[self._starts[self._group]]
        whole = np.bincount(self._group, of_row)[self._group]
        of_row[order] = np.divide(ranked * whole, np.maximum(whole - lesser, ranked), out=np.zeros(self.rows), where=ranked > 0)
        return np.asarray(np.where(keep, of_row[self._row], 0))

    def best(self, keep: Keep, scores: Scores, rows: int) -> Keep:
        """Return which units stay of those in keep: the best rows, one of each group at least; scores are those of rows."""
        of_row = np.full(self.rows, -np.inf)
        of_row[self._row[keep]] = scores[keep]
        there = of_row > -np.inf
        of_row[list(self._leaders(of_row))] = np.inf
        stays = np.zeros(self.rows, bool)
        stays[np.argsort(-of_row, kind="stable")[: max(rows, self._starts.size - 1)]] = True
        return (stays & there)[self._row]

    def _leaders(self, of_row: Scores) -> Iterator[int]:
        """Yield the best row of each group."""
        for first, end in zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True):
            yield first + int(of_row[first:end].argmax())
