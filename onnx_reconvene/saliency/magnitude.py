"""Criteria that look at the weights alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError
from onnx_reconvene.flow import Layer, weight_values
from onnx_reconvene.graph import every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.labels import Labels
from onnx_reconvene.saliency.criterion import (
    Context,
    Elements,
    Scores,
    SiteScores,
    combined,
    criterion,
    element_criterion,
    unit_scores,
)
from onnx_reconvene.shapes import Shape


@criterion("random", "baseline")
def random(analysis: Analysis, context: Context) -> Scores:
    """Uniform in (0, 1), seeded."""
    return context.rng.random(analysis.width)


@element_criterion("l1", "Li et al. 2017, arXiv 1608.08710; summed over coupled layers: Fang et al. 2023, arXiv 2301.12900")
def l1(analysis: Analysis, context: Context) -> Elements:
    """Sum of absolute weights over all coupled layers."""
    return lambda _, values: np.abs(values)


@element_criterion("l2", "Li et al. 2017, arXiv 1608.08710; summed over coupled layers: Fang et al. 2023, arXiv 2301.12900")
def l2(analysis: Analysis, context: Context) -> Elements:
    """Sum of squared weights over all coupled layers."""
    return lambda _, values: np.square(values)


@element_criterion("lamp", "Lee et al. 2021, arXiv 2010.07611")
def lamp(analysis: Analysis, context: Context) -> Elements:
    """Squared weight over the sum of squared weights of its layer that are not smaller."""
    return lambda _, values: _lamp(values)


def _lamp(values: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = np.square(values, dtype=np.float64).ravel()
    order = np.argsort(squares, kind="stable")
    not_smaller = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)
    return scores.reshape(values.shape).astype(np.float32)


@criterion("fpgm", "He et al. 2019, arXiv 1811.00250")
def fpgm(analysis: Analysis, context: Context) -> Scores:
    """Sum of distances of a filter to all filters of its layer: small near the geometric median."""
    made: dict[str, dict[int, Labels]] = {}
    for layer in analysis.layers:
        for name in layer.sources & analysis.flow.weights.keys():
            made.setdefault(name, {}).update(_made(analysis, layer, name))

    def score(name: str, values: NDArray[np.float32], shapes: Mapping[int, Shape]) -> dict[int, NDArray[np.float64]]:
        return {axis: _of_filters(values, channels) for axis, channels in made.get(name, {}).items() if axis in shapes}

    return unit_scores(analysis, context, score)


def _made(analysis: Analysis, layer: Layer, name: str) -> dict[int, Labels]:
    """Return, by the axes of a weight along which lie the channels that a layer makes, which of them is where, shaped to be
    broadcast to it. Such axes have the labels of these channels or, where the layer reads the same ones or the weight has none
    of them, their units, as gates and groups have."""
    spread, labels = analysis.spread(name), analysis.flow.values[name].labels
    found = [axis for axis, own in labels.items() if np.array_equal(own, layer.out)]
    if name == layer.weight and (not found or np.array_equal(layer.out, layer.read)):
        units = np.unique(analysis.units(layer.out))
        same = [axis for axis, own in spread.items() if np.array_equal(np.unique(analysis.units(own)), units)]
        found = [axis for axis in same if not np.isin(spread[axis], layer.read).all()] or same
    return {axis: _channels(analysis, spread[axis], layer.out) for axis in found}


def _channels(analysis: Analysis, labels: Labels, out: Labels) -> Labels:
    """Return labels as those of channels: of gates, each of which makes all channels of out, the numbers of these."""
    gates = labels.size % out.size == 0 and (analysis.units(labels).reshape(-1, out.size) == analysis.units(out)).all()
    return np.arange(labels.size).reshape(labels.shape) % out.size if gates else labels


def _of_filters(values: NDArray[np.float32], channels: Labels) -> NDArray[np.float64]:
    """Return the distances of the filter of each channel to all, in the shape of channels, whose positions share them."""
    own, number, positions = np.unique(channels, return_inverse=True, return_counts=True)
    axis = int(np.argmax(channels.shape))
    if own.size == channels.shape[axis] == channels.size:
        filters = np.moveaxis(values, axis, 0)[np.argsort(channels.ravel())]
    else:
        filters = values.ravel()[np.argsort(np.broadcast_to(channels, values.shape), axis=None, kind="stable")]
    shares: NDArray[np.float64] = _distances(filters.reshape(own.size, -1)) / positions
    return shares[number].reshape(channels.shape)


def _distances(filters: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum of distances of each of filters [filters, elements] to all."""
    filters = filters.astype(np.float64)
    norms = np.einsum("ij,ij->i", filters, filters, dtype=np.float64)
    squared = norms[:, None] + norms - 2.0 * (filters @ filters.T)
    np.fill_diagonal(squared, 0)
    distances = np.sqrt(np.maximum(squared, 0))[:, norms > 0].sum(1)  # a filter of zeros is gone
    result: NDArray[np.float64] = distances.astype(np.float32).astype(np.float64)  # threads decide what digits follow
    return result


@criterion("bn-scale", "Liu et al. 2017, arXiv 1708.06519")
def bn_scale(analysis: Analysis, context: Context) -> Scores:
    """Absolute scale of the batch normalizations behind the unit; needs BatchNormalization kept as nodes."""
    norms = [node for node in every_node(analysis.graph) if node.op == "BatchNormalization"]
    if not norms:
        raise UsageError("--criterion bn-scale: the network has no BatchNormalization (it may have been folded); choose another")
    sites = []
    for node in norms:
        scale = _through_identity(node.inputs[1])
        values, units = weight_values(scale), analysis.units_along(scale.name, 0)
        if values is not None and units is not None:
            sites.append(SiteScores(units, np.abs(values)))
    return combined(analysis, sites, context.aggregate)


def _through_identity(tensor: gs.Tensor) -> gs.Tensor:
    while tensor.inputs and tensor.inputs[0].op == "Identity":
        tensor = tensor.inputs[0].inputs[0]
    return tensor
