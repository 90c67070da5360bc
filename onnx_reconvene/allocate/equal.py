"""Allocators that treat all groups alike: the same fraction, or the same width."""

from __future__ import annotations

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.allocate.registry import allocator
from onnx_reconvene.allocate.search import closest
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Scores


@allocator("uniform")
def uniform(analysis: Analysis, scores: Scores, within: Budget) -> Widths:
    """Keep the same fraction of every group."""
    return closest(within, lambda fraction: fraction * within.cost.dense)


@allocator("flat")
def flat(analysis: Analysis, scores: Scores, within: Budget) -> Widths:
    """Keep the same number of channels in every group that has as many; the others stay whole."""
    channels = within.cost.dense * within.cost.channels
    widest = channels.max(initial=1)
    return closest(within, lambda x: (x * widest / within.cost.channels).clip(max=within.cost.dense))
