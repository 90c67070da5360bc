"""The zeroed-consumer counterpart of a cut: the network before it, made to compute without the channels that go.

Every weight slice that reads a removed channel is zero. Operators that compute over channels (statistics, contractions) would still
see the removed ones; in the counterpart they are given the remaining channels alone, and what they return is put back in place,
copies of it where channels are gone (nothing reads them, and zeros might be divided by).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene.cutting import Cutting
from onnx_reconvene.files import write_data
from onnx_reconvene.flow import Value, weight_values
from onnx_reconvene.graph import Source, plain_source, put_values
from onnx_reconvene.groups import Analysis
from onnx_reconvene.labels import Labels
from onnx_reconvene.names import clear_equal_names
from onnx_reconvene.plain import graphs_in, nodes_in
from onnx_reconvene.shapes import Shape
from onnx_reconvene.sizes import small_sizes

Mask = NDArray[np.bool_]
SUMS = ("Einsum", "FusedMatMul", "MatMul")  # to which zeros are as good as nothing


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
class Losing:
    """An axis of a tensor, or with a mask of two dimensions an axis of blocks and the next, and which positions stay there; with
    a mask broadcastable to the tensor what is to be zero."""

    tensor: str
    axis: int
    stays: Mask
    shape: Shape  # of the tensor


@dataclass(frozen=True)
class Masked:
    """An operator that computes over channels: which of them stay along the axes of its inputs and outputs."""

    output: str  # its first output, to find it by
    inputs: tuple[Losing, ...]
    outputs: tuple[Losing, ...]


@dataclass(frozen=True)
class Reference:
    """The network before a cut and what has to be done to it to equal the network after. Holds no copies of weights."""

    source: Source
    zero: tuple[Slices, ...]
    masked: tuple[Masked, ...]
    inexact: str | None  # the first operator that computes statistics over removed channels, if any
    sizes: Mapping[str, Sequence[int]]  # of the graph inputs, small ones where they were assumed
    cutting: Cutting

    def stays(self, name: str, axis: int) -> Mask:
        """Return which positions along an axis of a tensor stay."""
        return self.cutting.kept_along(name, axis)


def reference(analysis: Analysis, keep: Mask) -> Reference:
    """Return the counterpart of cutting analysis by keep; call it before the cut."""
    masked = tuple(_masked(analysis, keep))
    inexact = next((g.inexact for g in analysis.groups if g.inexact and not keep[g.units].all()), None)
    source, zero = plain_source(analysis.graph), tuple(zeroed_slices(analysis, keep))
    sizes = small_sizes(analysis.graph, analysis.sizes, analysis.origins)
    return Reference(source, zero, masked, inexact, sizes, Cutting(analysis, keep))


def zeroed_slices(analysis: Analysis, keep: Mask) -> list[Slices]:
    """Return the positions of weights that read removed channels."""
    found = []
    for name, tensor in analysis.flow.weights.items():
        gone = [analysis.is_read(labels) & ~analysis.stays(labels, keep) for labels in analysis.spread(name).values()]
        if any(mask.any() for mask in gone):
            values = weight_values(tensor)
            assert values is not None
            zero = analysis.flow.zero_of(name, values.dtype)
            found.append(Slices(name, values, tuple(gone), zero))
    return found


def _masked(analysis: Analysis, keep: Mask) -> list[Masked]:
    found = []
    for node, labels in analysis.flow.over_channels.values():
        over = analysis.units(np.concatenate(labels))
        inputs, outputs = (
            _axes_losing(analysis, keep, over, node.op, [t.name for t in tensors]) for tensors in (node.inputs, node.outputs)
        )
        if inputs or outputs:
            found.append(Masked(node.outputs[0].name, inputs, outputs))
    return found


def _axes_losing(analysis: Analysis, keep: Mask, over: Labels, op: str, names: list[str]) -> tuple[Losing, ...]:
    """Return the axes of tensors along which units go that a node computes over, and what stays there."""
    found = []
    for name in dict.fromkeys(names):
        value = analysis.flow.values.get(name, Value())
        borne = list(value.labels.items())
        if value.pending is not None:
            spread, axes = value.pending.spread, value.pending.axes
            next_to = len(axes) == 2 and axes[0] + 1 == axes[1] and op not in SUMS
            borne.append((axes[0], spread.reshape([spread.shape[axis] for axis in axes]) if next_to else spread))
        for axis, labels in borne:
            stays = analysis.stays(labels, keep)
            if not stays.all() and np.isin(analysis.units(labels)[~stays], over).any():
                found.append(Losing(name, axis, stays, analysis.shapes[name]))
    return tuple(found)


def store(source: Source, folder: str, name: str, zero: Sequence[Slices] = (), masked: Sequence[Masked] = ()) -> str:
    """Write a model to folder, its weights as external data, and return its path.

    Weights to be partly zeroed are written one at a time; those that a Constant or ConstantOfShape node makes become initializers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    for operator in masked:
        _mask(model.graph, operator)
    clear_equal_names(nodes_in(model.graph))
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
    recurrent_weight = node.input[2] if len(node.input) > 2 else ""
    stem = f"{operator.output}/masked"
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for k, losing in enumerate(operator.inputs):
        chosen = np.flatnonzero(losing.stays)
        names = {name for name in node.input if name == losing.tensor or name.startswith(f"{stem}/of/{losing.tensor}/")}
        for name in names:
            masked = f"{stem}/of/{losing.tensor}/{k}"
            node.input[:] = [masked if other == name else other for other in node.input]
            before += _gather(graph, name, masked, losing, chosen, np.ones_like(losing.stays))
    for size in [a for a in node.attribute if a.name == "hidden_size"]:
        size.i = next((int(losing.stays.sum()) for losing in operator.inputs if losing.tensor == recurrent_weight), size.i)
    for k, losing in enumerate(operator.outputs):
        part = f"{stem}/part/{losing.tensor}/{k}"
        for earlier in [node, *after]:
            earlier.output[:] = [part if name == losing.tensor else name for name in earlier.output]
        places = np.maximum(np.cumsum(losing.stays) - 1, 0)
        after += _gather(graph, part, losing.tensor, losing, places, losing.stays)
    del home.node[at]
    for k, new in enumerate([*before, node, *after]):
        home.node.insert(at + k, new)


def _gather(
    graph: onnx.GraphProto, name: str, to: str, losing: Losing, index: NDArray[np.int64], held: Mask
) -> list[onnx.NodeProto]:
    """Return nodes that take index along the axis of losing from a tensor that holds what a mask says; an axis of blocks and the
    next are one for that, in as many rows as there are channels, for how long these are depends on free sizes."""
    indices = _constant(graph, f"{to}/index", index)
    if losing.stays.ndim > 2:
        mask = _constant(graph, f"{to}/mask", losing.stays)
        zero = helper.make_node("Sub", [name, name], [f"{to}/zero"])
        return [zero, helper.make_node("Where", [mask, name, f"{to}/zero"], [to])]
    if losing.stays.ndim == 1:
        return [helper.make_node("Gather", [name, indices], [to], axis=losing.axis)]
    before, after, run = [0] * losing.axis, losing.shape[losing.axis + 2 :], _run(losing.stays)
    indices = _constant(graph, f"{to}/runs", index[::run] // run)
    rows = _constant(graph, f"{to}/rows", np.asarray([*before, held.sum() // run, -1, *after], np.int64))
    split = _constant(graph, f"{to}/split", np.asarray([*before, len(losing.stays), -1, *after], np.int64))
    return [
        helper.make_node("Reshape", [name, rows], [f"{to}/row"]),
        helper.make_node("Gather", [f"{to}/row", indices], [f"{to}/taken"], axis=losing.axis),
        helper.make_node("Reshape", [f"{to}/taken", split], [to]),
    ]


def _run(stays: Mask) -> int:
    """Return how many positions in a row stay or go together all along a mask: those of one or more whole channels."""
    changes = np.flatnonzero(np.diff(stays.ravel())) + 1
    return math.gcd(stays.size, *changes.tolist())


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[np.generic]) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return name
