"""Criteria that look at feature maps, as the layers that read the unit see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency.criterion import Context, Scores, criterion
from onnx_reconvene.saliency.sites import combined_at, reads

if TYPE_CHECKING:
    from onnx_reconvene.autodiff.builder import Tensor


@criterion("activation-mean", "Molchanov et al. 2017, arXiv 1611.06440", needs_data=True)
def activation_mean(analysis: Analysis, context: Context) -> Scores:
    """Mean magnitude of the unit's feature map."""
    places = reads(analysis)
    means = context.objective.activations(places, lambda x: x.apply("Abs"))
    return combined_at(analysis, places, means, context.aggregate)


@criterion("activation-apoz", "Hu et al. 2016, arXiv 1607.03250", needs_data=True)
def activation_apoz(analysis: Analysis, context: Context) -> Scores:
    """Share of the unit's feature map that is not zero: 1 - the average percentage of zeros."""
    places = reads(analysis)

    def is_active(x: Tensor) -> Tensor:
        return x.equals(0).apply("Not").cast(x)

    return combined_at(analysis, places, context.objective.activations(places, is_active), context.aggregate)
