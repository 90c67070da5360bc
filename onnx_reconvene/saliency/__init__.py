"""Saliency: how much a unit matters. Criteria register themselves; `criteria` holds them by name."""

from onnx_reconvene.saliency import activation as activation
from onnx_reconvene.saliency import magnitude as magnitude
from onnx_reconvene.saliency import sensitivity as sensitivity
from onnx_reconvene.saliency import synflow as synflow
from onnx_reconvene.saliency.criterion import (
    AGGREGATES,
    Context,
    Criterion,
    ElementScores,
    Scores,
    SiteScores,
    axes_with_units,
    by_elements,
    combined,
    criteria,
    criterion,
    element_scores,
    layer_weights,
    unit_scores,
)

__all__ = [
    "AGGREGATES",
    "Context",
    "Criterion",
    "ElementScores",
    "Scores",
    "SiteScores",
    "axes_with_units",
    "by_elements",
    "combined",
    "criteria",
    "criterion",
    "element_scores",
    "layer_weights",
    "unit_scores",
]
