"""The allocator that lets scores decide alone."""

from __future__ import annotations

import math

import numpy as np

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.registry import allocator
from onnx_reconvene.allocate.search import fill, largest
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis, Group
from onnx_reconvene.saliency import Scores


@allocator("global")
def global_(analysis: Analysis, scores: Scores, within: Budget) -> Widths:
    """Keep the units above one threshold on scores whose mean is 1 in every group."""
    left = within.largest
    pairs = zip(analysis.groups, left.tolist(), strict=True)
    scaled = np.concatenate([np.empty(0), *(_mean_one(_of_all_blocks(group, scores)[:most]) for group, most in pairs)])
    order = np.argsort(-scaled, kind="stable")  # best first
    group_of_unit = np.repeat(np.arange(len(analysis.groups)), left)

    def kept(share: float) -> Widths:
        best = order[: math.floor(share * order.size)]
        return within.nearest(np.bincount(group_of_unit[best], minlength=len(analysis.groups)).astype(float))

    share = largest(lambda s: within.holds(kept(s)))
    widths = kept(share)
    rest = group_of_unit[order[math.floor(share * order.size) :]]
    return fill(within, widths, dict.fromkeys(rest.tolist()))


def _of_all_blocks(group: Group, scores: Scores) -> Scores:
    """Return the summed scores of the best unit of each block, of the second best, ..., [width]."""
    result: Scores = np.sort(group.by_block(scores), 1)[:, ::-1].sum(0)
    return result


def _mean_one(scores: Scores) -> Scores:
    mean = scores.mean()
    return scores / mean if mean > 0 else np.ones_like(scores)
