"""Where units show in feature maps: at the inputs and outputs of the layers that read and make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.calibration import Place
from onnx_reconvene.errors import UsageError
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency.criterion import Scores, SiteScores, combined

SECOND_IS_WEIGHT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1}  # and the axis of channels in their feature maps


def reads(analysis: Analysis) -> list[Place]:
    """Return the inputs of layers that bear units."""
    return [place for place in _places(analysis) if place.is_input]


def reads_and_makes(analysis: Analysis) -> list[Place]:
    """Return the inputs and outputs of layers that bear units. Raises UsageError where a layer that makes units is not linear in
    one stored weight."""
    followed = {node.name for node in analysis.graph.nodes if node.op in (*SECOND_IS_WEIGHT, "MatMul")}
    for layer in analysis.layers:
        if layer.stored and layer.name not in followed and (analysis.units(layer.out) >= 0).any():
            raise UsageError(
                f"this criterion does not score {layer.op} '{layer.name}', whose channels can go; choose snip, or --ignore"
            )
    return _places(analysis)


def _places(analysis: Analysis) -> list[Place]:
    weights = {layer.weight for layer in analysis.layers if layer.stored}
    found = [place for node in analysis.graph.nodes for place in _of(node, weights, analysis)]
    return [place for place in found if (units := units_at(analysis, place)) is not None and (units >= 0).any()]


def _of(node: gs.Node, weights: set[str], analysis: Analysis) -> list[Place]:
    if node.op in SECOND_IS_WEIGHT and node.inputs[1].name in weights:
        transposed = node.op == "Gemm" and bool(node.attrs.get("transA", 0))
        return [Place(node, True, 0, 0 if transposed else 1), Place(node, False, 0, 1)]
    if node.op == "MatMul" and len({t.name for t in node.inputs} & weights) == 1:
        data = 0 if node.inputs[1].name in weights else 1
        rank, out = len(analysis.shapes[node.inputs[data].name]), len(analysis.shapes[node.outputs[0].name])
        back = 1 if data == 0 or rank == 1 else 2
        return [Place(node, True, data, rank - back), Place(node, False, 0, out - back)]
    return []


def units_at(analysis: Analysis, place: Place) -> NDArray[np.int64] | None:
    """Return the unit of each channel at a place, None where it has no channels."""
    return analysis.units_along(place.tensor, place.channels)


def combined_at(analysis: Analysis, places: Sequence[Place], values: Sequence[NDArray[Any]], aggregate: str) -> Scores:
    """Return one score per unit from values [..., channels] at places; see `combined`."""
    found = [(units_at(analysis, place), value) for place, value in zip(places, values, strict=True)]
    return combined(analysis, [SiteScores(units, value) for units, value in found if units is not None], aggregate)
