"""The zeroed-consumer counterpart of a cut: the network before it, made to compute without the channels that go.

Every weight slice that reads a removed channel is zero. Operators that compute over channels (statistics, contractions) would still
see the removed ones; in the counterpart they are given the remaining channels alone, and what they return is put back in place,
copies of it where channels are gone (nothing reads them, and zeros might be divided by).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene.files import write_data
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import Source, plain_source, put_values
from onnx_reconvene.groups import Analysis
from onnx_reconvene.plain import graphs_in

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Slices:
    """Positions along axes of one weight that read removed channels."""

    tensor: str
    values: NDArray[Any]
    gone: tuple[Mask, ...]  # broadcastable to the values
    zero: NDArray[Any]  # what stands for zero, broadcastable to the values

    def zeroed(self) -> NDArray[Any]:
        """Return a copy of the weight with these slices set to zero."""
        values = np.array(self.values)
        for gone in self.gone:
            np.copyto(values, self.zero, where=gone)
        return values


@dataclass(frozen=True)
class Masked:
    """An operator that computes over channels: which of them stay along the axes of its inputs and outputs."""

    output: str  # its first output, to find it by
    inputs: tuple[tuple[str, int, Mask], ...]  # (tensor, axis, which stay)
    outputs: tuple[tuple[str, int, Mask], ...]


@dataclass(frozen=True)
class Reference:
    """The network before a cut and what has to be done to it to equal the network after. Holds no copies of weights."""

    source: Source
    zero: tuple[Slices, ...]
    masked: tuple[Masked, ...]
    inexact: str | None  # the first operator that computes statistics over removed channels, if any
    sizes: Mapping[str, Sequence[int]]  # of the graph inputs


def reference(analysis: Analysis, keep: Mask) -> Reference:
    """Return the counterpart of cutting analysis by keep; call it before the cut."""
    masked = tuple(_masked(analysis, keep))
    inexact = next((g.inexact for g in analysis.groups if g.inexact and not keep[g.units].all()), None)
    return Reference(plain_source(analysis.graph), tuple(_zeroed(analysis, keep)), masked, inexact, analysis.sizes)


def _zeroed(analysis: Analysis, keep: Mask) -> list[Slices]:
    found = []
    for name, tensor in analysis.flow.weights.items():
        gone = [analysis.is_read(labels) & ~analysis.stays(labels, keep) for labels in analysis.spread(name).values()]
        if any(mask.any() for mask in gone):
            values = weight_values(tensor)
            assert values is not None
            zero = analysis.flow.zero_points.get(name, np.zeros((), values.dtype))
            found.append(Slices(name, values, tuple(gone), zero))
    return found


def _masked(analysis: Analysis, keep: Mask) -> list[Masked]:
    found = []
    for node in analysis.flow.over_channels:
        inputs = _axes_losing(analysis, keep, [t.name for t in node.inputs])
        outputs = _axes_losing(analysis, keep, [t.name for t in node.outputs])
        if inputs or outputs:
            found.append(Masked(node.outputs[0].name, tuple(inputs), tuple(outputs)))
    return found


def _axes_losing(analysis: Analysis, keep: Mask, names: list[str]) -> list[tuple[str, int, Mask]]:
    found = []
    for name in dict.fromkeys(names):
        value = analysis.flow.values.get(name)
        for axis, labels in value.labels.items() if value else ():
            stays = analysis.stays(labels, keep)
            if not stays.all():
                found.append((name, axis, stays))
    return found


def store(source: Source, folder: str, name: str, zero: Sequence[Slices] = (), masked: Sequence[Masked] = ()) -> str:
    """Write a model to folder, its weights as external data, and return its path.

    Weights to be partly zeroed are written one at a time; those that a Constant or ConstantOfShape node makes become initializers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    for operator in masked:
        _mask(model.graph, operator)
    makers = {output: (graph, node) for graph in graphs_in(model.graph) for node in graph.node for output in node.output}
    initializers = {t.name: t for t in model.graph.initializer}
    with open(os.path.join(folder, name + ".data"), "wb") as file:
        write_data(Source(model, {n: a for n, a in source.arrays.items() if n not in {s.tensor for s in zero}}), file)
        for slices in zero:
            if slices.tensor in makers:
                graph, node = makers[slices.tensor]
                graph.node.remove(node)
            tensor = initializers.get(slices.tensor) or model.graph.initializer.add(name=slices.tensor)
            arrays: dict[str, NDArray[Any]] = {}
            put_values(tensor, slices.zeroed(), arrays)
            write_data(Source(model, arrays), file)
    path = os.path.join(folder, name + ".onnx")
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    return path


def _mask(graph: onnx.GraphProto, operator: Masked) -> None:
    """Surround a node: Gather what stays before it, put its results back in place after it."""
    home, at = next((g, k) for g in graphs_in(graph) for k, node in enumerate(g.node) if operator.output in node.output)
    node = onnx.NodeProto()
    node.CopyFrom(home.node[at])
    stem = f"{operator.output}/masked"
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for k, (tensor, axis, stays) in enumerate(operator.inputs):
        index = _constant(graph, f"{stem}/in{k}/index", np.flatnonzero(stays))
        for i, name in enumerate(node.input):
            if name == tensor or name.startswith(f"{stem}/of/{tensor}/"):
                node.input[i] = f"{stem}/of/{tensor}/{k}"
                before.append(helper.make_node("Gather", [name, index], [node.input[i]], axis=axis))
    for k, (tensor, axis, stays) in enumerate(operator.outputs):
        index = _constant(graph, f"{stem}/out{k}/index", np.maximum(np.cumsum(stays) - 1, 0))
        part = f"{stem}/part/{tensor}/{k}"
        for earlier in [node, *after]:
            earlier.output[:] = [part if name == tensor else name for name in earlier.output]
        after.append(helper.make_node("Gather", [part, index], [tensor], axis=axis))
    del home.node[at]
    for k, new in enumerate([*_unique(before), node, *after]):
        home.node.insert(at + k, new)


def _unique(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return list({node.output[0]: node for node in nodes}.values())


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[np.generic]) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return name
