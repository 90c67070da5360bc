"""Where units show in feature maps: at the inputs and outputs of the layers that read and make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.calibration import Place
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency.criterion import Scores, SiteScores, combined
from onnx_reconvene.shapes import Shape

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # in a stored weight, and in what they read
TABLE = "Gather"  # linear in its stored weight alone


def reads(analysis: Analysis) -> list[Place]:
    """Return the inputs of layers that bear units, and the outputs of those that make units which no layer reads."""
    linear = _at_linear_layers(analysis)
    read = _bearing(analysis, [place for place in linear if place.is_input] + _inputs_of_others(analysis, stored=False))
    made, seen = _bearing(analysis, [place for place in linear if not place.is_input]), seen_at(analysis, read)
    return read + [place for place in made if not np.append(seen, False)[units_at(analysis, place)].any()]


def reads_and_makes(analysis: Analysis) -> list[Place]:
    """Return where x * dloss/dx sums to that of the weights of a unit: the inputs and outputs of linear layers that bear units, and
    what other layers, such as recurrent ones, store."""
    return _bearing(analysis, _at_linear_layers(analysis) + _inputs_of_others(analysis, stored=True))


def _weights(analysis: Analysis) -> set[str]:
    return {layer.weight for layer in analysis.layers if layer.stored}


def _bearing(analysis: Analysis, places: Sequence[Place]) -> list[Place]:
    return [place for place in places if (units := units_at(analysis, place)) is not None and (units >= 0).any()]


def _inputs_of_others(analysis: Analysis, stored: bool) -> list[Place]:
    """Return all axes of those inputs of layers that are not linear that are stored, or of those that are not."""
    weights = _weights(analysis)
    constants = weights | analysis.flow.weights.keys()
    return [
        Place(node, True, i, axis)
        for node in analysis.graph.nodes
        if node.op not in (*LINEAR, TABLE) and any(tensor.name in weights for tensor in node.inputs)
        for i, tensor in enumerate(node.inputs)
        if (tensor.name in constants) == stored
        for axis in range(len(analysis.shapes.get(tensor.name, ())))
    ]


def _at_linear_layers(analysis: Analysis) -> list[Place]:
    weights = _weights(analysis)
    return [place for node in analysis.graph.nodes for place in _of(node, weights, analysis)]


def _of(node: gs.Node, weights: set[str], analysis: Analysis) -> list[Place]:
    """Return the places at node, if it is a linear layer, for those axes of its weight that bear units: a depthwise kernel has but
    one."""
    stored = [i for i, tensor in enumerate(node.inputs[:2]) if tensor.name in weights]
    if node.op not in (*LINEAR, TABLE) or len(stored) != 1:
        return []
    weight, data = stored[0], 1 - stored[0]
    data_rank, out_rank = (len(analysis.shapes[tensor.name]) for tensor in (node.inputs[data], node.outputs[0]))
    if node.op == TABLE:
        return [Place(node, False, 0, axis) for axis in range(out_rank)]
    read, made, axis_read, axis_made = _axes(node, weight, data_rank, out_rank, analysis.shapes[node.inputs[weight].name])
    bearing = {axis for axis, units in analysis.bearings(node.inputs[weight].name).items() if (units >= 0).any()}
    places = [(axis_read, Place(node, True, data, read)), (axis_made, Place(_with_bias(node, made, analysis), False, 0, made))]
    return [place for axis, place in places if axis in bearing]


def _with_bias(node: gs.Node, made: int, analysis: Analysis) -> gs.Node:
    """Return the Add that alone reads what node makes and gives channels, along the axis `made`, their bias; node without one."""
    out = node.outputs[0]
    if len(out.outputs) != 1 or out.outputs[0].op != "Add" or any(out is tensor for tensor in analysis.graph.outputs):
        return node
    shape, (adding,) = analysis.shapes[out.name], out.outputs
    vector = tuple(n if axis == made else 1 for axis, n in enumerate(shape))
    for added in adding.inputs:
        own = analysis.shapes.get(added.name, ())
        if analysis.flow.is_static(added) and (1,) * (len(shape) - len(own)) + own == vector:
            return adding
    return node


def _axes(node: gs.Node, weight: int, data: int, out: int, stored: Shape) -> tuple[int, int, int, int]:
    """Return the axes of channels in what node reads and makes, and those in its weight; given two ranks and a shape. Where
    groups go as a whole, as those of a depthwise kernel do, the one axis that says so counts as made, as biases are."""
    if node.op == "ConvTranspose":
        groups = node.attrs.get("group", 1)
        return (1, 1, 1, 0) if groups > 1 and 1 in (stored[0] // groups, stored[1]) else (1, 1, 0, 1)
    if node.op == "Conv":
        return 1, 1, 1, 0
    if node.op == "Gemm":  # whose second operand it is
        read, made = (1, 0) if node.attrs.get("transB", 0) else (0, 1)
        return (0 if node.attrs.get("transA", 0) else 1), 1, read, made
    rank = len(stored)
    if weight:
        return data - 1, out - 1, max(rank - 2, 0), rank - 1
    return max(data - 2, 0), out - (2 if data > 1 else 1), rank - 1, max(rank - 2, 0)


def seen_at(analysis: Analysis, places: Sequence[Place]) -> NDArray[np.bool_]:
    """Return which units have a channel at one of places, [units]."""
    seen = np.zeros(analysis.width + 1, bool)  # the last one stands for no unit
    for place in places:
        seen[units_at(analysis, place)] = True
    return seen[:-1]


def units_at(analysis: Analysis, place: Place) -> NDArray[np.int64] | None:
    """Return the unit of each channel at a place, None where it has no channels."""
    return analysis.units_along(place.tensor, place.channels)


def combined_at(analysis: Analysis, places: Sequence[Place], values: Sequence[NDArray[Any]], aggregate: str) -> Scores:
    """Return one score per unit from values [..., channels] at places; see `combined`."""
    found = [(units_at(analysis, place), value) for place, value in zip(places, values, strict=True)]
    return combined(analysis, [SiteScores(units, value) for units, value in found if units is not None], aggregate)
