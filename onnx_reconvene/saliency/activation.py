"""Criteria that look at feature maps, as the layers that read the unit see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency.criterion import Context, Scores, criterion
from onnx_reconvene.saliency.sites import combined_at, reads, reads_and_makes, seen_at

if TYPE_CHECKING:
    from onnx_reconvene.autodiff.builder import Tensor


@criterion("activation-mean", "Molchanov et al. 2017, arXiv 1611.06440", needs_data=True)
def activation_mean(analysis: Analysis, context: Context) -> Scores:
    """Mean magnitude of the unit's feature map."""
    return _means(analysis, context, lambda x: x.apply("Abs"))


@criterion("activation-apoz", "Hu et al. 2016, arXiv 1607.03250", needs_data=True)
def activation_apoz(analysis: Analysis, context: Context) -> Scores:
    """Share of the unit's feature map that is not zero: 1 - the average percentage of zeros."""
    return _means(analysis, context, lambda x: x.equals(0).apply("Not").cast(x))


def _means(analysis: Analysis, context: Context, of: Callable[[Tensor], Tensor]) -> Scores:
    """Return the mean over samples and positions of a function of the unit's feature map, where a layer reads it."""
    places, objective = reads(analysis), context.objective
    if unseen := (~seen_at(analysis, places + reads_and_makes(analysis))).sum():
        objective.data.remark(f"{unseen} channels show in no feature map but within control flow or a weight: they score 0")
    return combined_at(analysis, places, objective.activations(places, of), context.aggregate)
