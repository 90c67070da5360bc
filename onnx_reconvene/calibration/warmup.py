"""Statistics of BatchNormalization from data, for scoring networks whose running statistics are still initial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def with_statistics(source: Source, shapes: Mapping[str, Shape], passes: Passes) -> tuple[Source, int]:
    """Return a copy of source whose BatchNormalizations have the mean and variance of what they get in one pass over the data, each
    behind others that normalize by the batch, as in training; and how many there are. shapes: of the tensors, for their ranks.

    Without it scores at initialization collapse onto few layers (arXiv 2502.11450).
    """
    prepared = prepare(source)
    training, names = _normalizing_by_batch(prepared.model, shapes)
    totals: list[NDArray[Any]] = []
    seen = 0
    for count, run in passes(lambda _: compiled(Source(training, source.arrays), names)):
        seen += count
        weighted = [count * statistic.astype(np.float64) for statistic in run({})]
        totals = [a + b for a, b in zip(totals, weighted, strict=True)] if totals else weighted
    statistics = {name: total / seen for name, total in zip(names, totals, strict=True)}
    return Source(_with(prepared.model, statistics), source.arrays, source.path), len(names) // 2


def _statistics_of(node: onnx.NodeProto) -> list[str]:
    return [f"{node.output[0]}/batch_mean", f"{node.output[0]}/batch_variance"]


def _normalizing_by_batch(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> tuple[onnx.ModelProto, list[str]]:
    """Return model with each BatchNormalization given the statistics of its own input, and the names of these."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    names: list[str] = []
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            mean, variance = _statistics_of(node)
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
            names += [mean, variance]
        result.graph.node.add().CopyFrom(node)
        if node.op_type == "BatchNormalization":
            result.graph.node[-1].input[3:] = names[-2:]
    return result, names


def _with(model: onnx.ModelProto, statistics: Mapping[str, NDArray[np.float64]]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(result.ir_version, 8)
    types = {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.graph.initializer}
    for node in result.graph.node:
        if node.op_type == "BatchNormalization":
            dtype = types.get(node.input[3], np.dtype(np.float32))
            for name in _statistics_of(node):
                result.graph.initializer.append(numpy_helper.from_array(statistics[name].astype(dtype), name))
            node.input[3:] = _statistics_of(node)
    return result
