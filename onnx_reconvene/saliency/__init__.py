"""Saliency: how much a unit matters. Criteria register themselves; `criteria` holds them by name."""

from onnx_reconvene.saliency import magnitude as magnitude
from onnx_reconvene.saliency import synflow as synflow
from onnx_reconvene.saliency.criterion import Criterion, Scores, axes_with_units, by_elements, criteria, criterion, unit_scores

__all__ = ["Criterion", "Scores", "axes_with_units", "by_elements", "criteria", "criterion", "unit_scores"]
