"""The allocator that spends a budget where it buys most speed."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.registry import allocator
from onnx_reconvene.allocate.search import fill
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis, Group
from onnx_reconvene.saliency import Scores

STEPS = 32  # in which the widest group may go, if its allowed widths are that close


@allocator("latency")
def latency(analysis: Analysis, scores: Scores, within: Budget) -> Widths:
    """Take away, step by step, what is least missed for the time that it saves, by prediction from measured layers.

    What is missed when a group goes from a width to a smaller one is the multiply-accumulates that depend on it, times the rise of
    one over the share of its score that it keeps: the less is left of a group the dearer it is, and none is emptied. So where all
    layers do as many multiply-accumulates in a millisecond, all keep the same share; slow ones lose more.
    """
    market = _Market(analysis, scores, within)
    gone = []
    while not within.holds(market.widths):
        gone.append(market.buy())
    return fill(within, market.widths, dict.fromkeys(reversed(gone)))


@dataclass(order=True)
class _Offer:
    """A step of a group to a smaller width, and the score that goes for each millisecond saved."""

    price: float
    group: int
    width: int


class _Market:
    """The next step of every group, cheapest first. Prices rise as other groups go, for less time is saved then; so an offer is
    looked at again only when it is the cheapest."""

    def __init__(self, analysis: Analysis, scores: Scores, within: Budget) -> None:
        self.within, cost = within, within.cost
        self.widths = np.asarray([allowed[-1] for allowed in within.allowed], np.int64)
        self._over_shares = [_over_shares(group, scores) for group in analysis.groups]
        self._worth = [_macs_that_depend(within, g) for g in range(len(analysis.groups))]
        self._time = cost("latency", self.widths)
        self._offers = [offer for g in range(len(analysis.groups)) if (offer := self._offer(g)) is not None]
        heapq.heapify(self._offers)

    def buy(self) -> int:
        """Take the cheapest step; return its group."""
        while True:
            group = heapq.heappop(self._offers).group
            offer = self._offer(group)
            assert offer is not None
            if not self._offers or offer <= self._offers[0]:
                break
            heapq.heappush(self._offers, offer)
        self.widths[group] = offer.width
        self._time = self.within.cost("latency", self.widths)
        following = self._offer(group)
        if following is not None:
            heapq.heappush(self._offers, following)
        return group

    def _offer(self, group: int) -> _Offer | None:
        allowed, width = self.within.allowed[group], int(self.widths[group])
        smaller = allowed[allowed < width]
        if not smaller.size:
            return None
        far = smaller[smaller <= width - self.within.cost.dense[group] / STEPS]
        next_ = int(far[-1] if far.size else smaller[0])
        then = self.widths.copy()
        then[group] = next_
        saved = self._time - self.within.cost("latency", then)
        lost = self._worth[group] * float(self._over_shares[group][next_] - self._over_shares[group][width])
        return _Offer(lost / saved if saved > 0 else math.inf, group, next_)


def _over_shares(group: Group, scores: Scores) -> NDArray[np.float64]:
    """Return one over the share of its score that a group keeps at each width, [width + 1]."""
    best = np.sort(np.maximum(group.by_block(scores), 0), 1)[:, ::-1].sum(0)
    kept = np.append(0, np.cumsum(best))
    shares = kept / kept[-1] if kept[-1] > 0 else np.linspace(0, 1, kept.size)
    result: NDArray[np.float64] = 1 / np.maximum(shares, np.finfo(float).tiny)
    return result


def _macs_that_depend(within: Budget, group: int) -> float:
    """Return the multiply-accumulates that go with a group."""
    least = within.cost.dense.copy()
    least[group] = 1
    return within.cost("macs", within.cost.dense) - within.cost("macs", least)
