"""Statistics of BatchNormalization from data, for scoring networks whose running statistics are still initial."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_reconvene.autodiff.prepare import prepare
from onnx_reconvene.calibration.backend import Run, compiled
from onnx_reconvene.graph import Source
from onnx_reconvene.shapes import Shape

Passes = Callable[[Callable[[int], Run]], Iterator[tuple[int, Run]]]
ShapesOf = Callable[[int], Mapping[str, Shape]]  # by name, for a number of samples
Statistics = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # mean and variance by the output of the normalization


def with_statistics(source: Source, shapes_of: ShapesOf, passes: Passes) -> tuple[Source, int]:
    """Return a copy of source whose BatchNormalizations have the mean and variance of what they get over all data, each behind
    others that normalize by the batch, as in training; and how many there are.

    A batch that is but one number per channel says nothing: where there is one, a normalization has the statistics of all data,
    gathered in a pass of its own, before those behind it are looked at. Without statistics scores at initialization collapse onto
    few layers (arXiv 2502.11450).
    """
    prepared = prepare(source)
    norms = [node for node in prepared.model.graph.node if node.op_type == "BatchNormalization"]
    known: Statistics = {}
    while True:
        found, single = _measured(prepared, norms, known, shapes_of, passes)
        waiting = [node.output[0] for node in norms if node.output[0] in single - known.keys()]
        if not waiting:
            return Source(_with(prepared.model, found), source.arrays, source.path), len(norms)
        known[waiting[0]] = found[waiting[0]]


def _measured(
    source: Source, norms: list[onnx.NodeProto], known: Statistics, shapes_of: ShapesOf, passes: Passes
) -> tuple[Statistics, set[str]]:
    """Return the statistics of what normalizations get in one pass over the data, when some have those that are known, and which
    of them get but one number per channel in some batch."""
    base = _with(source.model, known)
    wanted = [name for node in norms for name in _measures_of(node)]
    single: set[str] = set()

    def build(count: int) -> Run:
        shapes = shapes_of(count)
        own = {node.output[0] for node in norms if math.prod(shape := shapes[node.input[0]]) == shape[1]}
        single.update(own)
        return compiled(Source(_measuring(base, shapes, own | known.keys()), source.arrays), wanted)

    found = {node.output[0]: (np.zeros(()), np.zeros(())) for node in norms}
    seen = 0
    for count, run in passes(build):
        seen += count
        measured = iter(run({}))
        for name, (mean, variance) in found.items():
            found[name] = _merged(mean, variance, next(measured), next(measured), count / seen)
    return found, single


def _merged(
    mean: NDArray[np.float64], variance: NDArray[np.float64], new_mean: NDArray[Any], new_variance: NDArray[Any], share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and variance of all data, of which the new ones, that make up this share, had their own."""
    shift = new_mean.astype(np.float64) - mean
    return mean + share * shift, variance + share * (new_variance - variance + (1 - share) * shift**2)


def _statistics_of(node: onnx.NodeProto) -> list[str]:
    return [f"{node.output[0]}/batch_mean", f"{node.output[0]}/batch_variance"]


def _measures_of(node: onnx.NodeProto) -> list[str]:
    return [f"{node.output[0]}/measured_mean", f"{node.output[0]}/measured_variance"]


def _measuring(model: onnx.ModelProto, shapes: Mapping[str, Shape], given: Collection[str]) -> onnx.ModelProto:
    """Return model with the statistics of the input of each BatchNormalization, which has them unless it is given its own."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            mean, variance = _measures_of(node)
            axes = [axis for axis in range(len(shapes[node.input[0]])) if axis != 1]
            result.graph.initializer.append(numpy_helper.from_array(np.asarray(axes, np.int64), f"{mean}/axes"))
            centre, centred, squares = f"{mean}/kept", f"{mean}/centred", f"{mean}/squares"
            result.graph.node.extend(
                [
                    helper.make_node("ReduceMean", [node.input[0], f"{mean}/axes"], [mean], keepdims=0),
                    helper.make_node("ReduceMean", [node.input[0], f"{mean}/axes"], [centre], keepdims=1),
                    helper.make_node("Sub", [node.input[0], centre], [centred]),
                    helper.make_node("Mul", [centred, centred], [squares]),
                    helper.make_node("ReduceMean", [squares, f"{mean}/axes"], [variance], keepdims=0),
                ]
            )
        copy = result.graph.node.add()
        copy.CopyFrom(node)
        if node.op_type == "BatchNormalization" and node.output[0] not in given:
            copy.input[3:] = _measures_of(node)
    return result


def _with(model: onnx.ModelProto, statistics: Statistics) -> onnx.ModelProto:
    """Return model with these statistics in its BatchNormalizations."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(result.ir_version, 8)
    types = {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.graph.initializer}
    for node in result.graph.node:
        if node.op_type == "BatchNormalization" and node.output[0] in statistics:
            dtype = types.get(node.input[3], np.dtype(np.float32))
            for name, values in zip(_statistics_of(node), statistics[node.output[0]], strict=True):
                result.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), name))
            node.input[3:] = _statistics_of(node)
    return result
