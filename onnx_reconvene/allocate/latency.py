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

    The price of a step is the multiply-accumulates lost for each millisecond saved, over the shares of its score that the group
    keeps before and after it: the less is left of a group the dearer it is, and none is emptied. So where all layers do as many
    multiply-accumulates in a millisecond, all keep the same share; slow ones lose more.
    """
    market = _Market(analysis, scores, within)
    gone = []
    while not within.holds(market.widths):
        gone.append(market.buy())
    return fill(within, market.widths, dict.fromkeys(reversed(gone)))


@dataclass(order=True)
class _Offer:
    """A step of a group to a smaller width."""

    price: float
    group: int
    width: int


class _Market:
    """The next step of every group, cheapest first. Prices rise as other groups go, for less time is saved then; so an offer is
    looked at again only when it is the cheapest."""

    def __init__(self, analysis: Analysis, scores: Scores, within: Budget) -> None:
        self.within, cost = within, within.cost
        self.widths = within.largest.copy()
        self._shares = [_shares(group, scores) for group in analysis.groups]
        self._now = cost("macs", self.widths), cost("latency", self.widths)
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
        cost = self.within.cost
        self._now = cost("macs", self.widths), cost("latency", self.widths)
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
        macs, milliseconds = self._now
        lost, saved = macs - self.within.cost("macs", then), milliseconds - self.within.cost("latency", then)
        shares = self._shares[group][[width, next_]]
        return _Offer(lost / saved / float(shares.prod()) if lost > 0 and saved > 0 else math.inf, group, next_)


def _shares(group: Group, scores: Scores) -> NDArray[np.float64]:
    """Return the share of its score that a group keeps at each width, [width + 1]; that of its units where nothing is scored."""
    best = np.sort(np.maximum(group.by_block(scores), 0), 1)[:, ::-1].sum(0)
    kept = np.append(0, np.cumsum(best if best.any() else np.ones_like(best)))
    shares: NDArray[np.float64] = kept / kept[-1]
    return shares
