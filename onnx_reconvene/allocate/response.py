"""How much the outputs of a network change when channels go: what it loses with a group, measured on smooth noise."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene.allocate.budget import masks
from onnx_reconvene.axes import Widths
from onnx_reconvene.graph import Source, plain_source
from onnx_reconvene.groups import Analysis
from onnx_reconvene.plain import graphs_in
from onnx_reconvene.reference import Slices, zeroed_slices
from onnx_reconvene.saliency import Scores
from onnx_reconvene.shapes import dtype_of
from onnx_reconvene.values import with_values

Floats = NDArray[np.float64]
Feeds = dict[str, NDArray[np.generic]]
MACS, MOST_MACS = 1.6e10, 3.2e10  # that all runs together should take, and that those on a single input may take
PER_ELEMENT = 20  # multiply-accumulates in the time in which an element is made and read
PER_NODE = 1e5  # in the time in which a runtime comes to a node
DRAWS = 16  # inputs at most
BLOBS, DIGITS = 4, 6  # of noise along each spatial axis; of a response


def responses(analysis: Analysis, scores: Scores, widths: Widths, macs: float) -> Floats | None:
    """Return, for each group cut alone to its width, one minus the correlation of the outputs before and after, from 0 (nothing
    changes) to 1, [groups]; None for networks too large to be run once per group, and those that return no numbers but integers.

    The inputs are drawn. Images are noise in large blobs: white noise, which later layers average out, would tell little of them.
    macs: multiply-accumulates of one run.
    """
    from onnx_reconvene.calibration.backend import compiled

    elements, nodes = sum(map(prod, analysis.shapes.values())), len(analysis.graph.nodes)
    total = max(macs, PER_ELEMENT * elements, PER_NODE * nodes) * (len(widths) + 1)
    floats = [t.name for t in analysis.graph.outputs if np.issubdtype(dtype_of(t), np.floating)]
    if total > MOST_MACS or not floats:
        return None
    cuts = [_cut_alone(analysis, scores, widths, g) for g in range(len(widths))]
    source, weights = _with_weights_as_inputs(with_values(plain_source(analysis.graph), analysis.graph.input_values), cuts)
    run, rng = compiled(source, floats), np.random.default_rng(0)
    correlations = []
    for _ in range(int(np.clip(MACS / max(total, 1), 1, DRAWS))):
        feeds = {**weights, **_drawn(source.model, analysis.sizes, rng)}
        whole = _joined(run(feeds))
        after = [_joined(run({**feeds, **{s.tensor: s.zeroed() for s in cut}})) for cut in cuts]
        correlations.append([_correlation(whole, other) for other in after])
    felt: Floats = np.round(1 - np.mean(correlations, 0), DIGITS).clip(0, 1)
    return felt


def _cut_alone(analysis: Analysis, scores: Scores, widths: Widths, group: int) -> list[Slices]:
    """Return the slices of weights that are zero when one group is cut to its width."""
    alone = np.asarray([g.width for g in analysis.groups])
    alone[group] = widths[group]
    return zeroed_slices(analysis, masks(analysis, scores, alone))


def _with_weights_as_inputs(source: Source, cuts: list[list[Slices]]) -> tuple[Source, Feeds]:
    """Return a network that is given the weights that cuts change, stored or made by nodes such as Constant, and these."""
    own: Feeds = {slices.tensor: slices.values for cut in cuts for slices in cut}
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in own]:
        model.graph.initializer.remove(tensor)
    for graph in graphs_in(model.graph):
        for node in [node for node in graph.node if not own.keys().isdisjoint(node.output)]:
            graph.node.remove(node)
    inputs = {value.name for value in model.graph.input}  # in old models all initializers are
    for name in [name for name in own if name not in inputs]:
        kind = helper.np_dtype_to_tensor_dtype(own[name].dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, own[name].shape))
    return Source(model, {name: array for name, array in source.arrays.items() if name not in own}), own


def _drawn(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> Feeds:
    """Return random inputs: images of blobs, other numbers normal, integers 0 or 1, which are indices into anything."""
    found: Feeds = {}
    for value in model.graph.input:
        if value.name in sizes:
            dtype, shape = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type), sizes[value.name]
            floats = np.issubdtype(dtype, np.floating)
            found[value.name] = (_blobs(shape, rng) if floats else rng.integers(0, 2, shape)).astype(dtype)
    return found


def _blobs(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return normal noise, constant over blobs along the spatial axes of images."""
    spatial = range(2, len(shape)) if len(shape) > 3 else range(0)
    coarse = [min(BLOBS, size) if axis in spatial else size for axis, size in enumerate(shape)]
    noise = rng.standard_normal(coarse)
    for axis in spatial:
        noise = noise.take(np.arange(shape[axis]) * coarse[axis] // shape[axis], axis)
    return noise


def _joined(outputs: list[NDArray[np.generic]]) -> Floats:
    """Return outputs in a row, each about its mean."""
    floats = [np.nan_to_num(np.asarray(o, np.float64).ravel()) for o in outputs]
    return np.concatenate([np.empty(0), *(f - f.mean() for f in floats if f.size)])


def _correlation(a: Floats, b: Floats) -> float:
    if a.size != b.size:  # as many as the data say
        return 0.0
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float(np.array_equal(a, b))
