"""The head of a network: its name, opset, inputs and outputs, which a user may change on the graph of onnx-graphsurgeon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnx_reconvene.plain import graphs_in


def is_unknown(size: int | str | None) -> bool:
    """Return True for what is declared as the size of a dimension but says nothing: -1 and "?", as old exporters write."""
    return size == "?" or (isinstance(size, int) and size < 0)


def free_unknown(graph: onnx.GraphProto) -> None:
    """Forget sizes of dimensions that are none, as old exporters declare those that are free."""
    for part in graphs_in(graph):
        for value in [*part.input, *part.output, *part.value_info]:
            for dimension in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
                if is_unknown(dimension.dim_param or dimension.dim_value):
                    dimension.Clear()


def forget_shapes(graph: onnx.GraphProto) -> None:
    """Forget the shapes that a graph declares for what it computes."""
    stored = {t.name for t in graph.initializer}
    for value in [v for v in graph.value_info if v.name in stored]:
        graph.value_info.remove(value)
    for part in graphs_in(graph):
        for value in [*part.output, *part.value_info]:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")


def put_header(graph: gs.Graph, before: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Enter into model what has changed of the head of graph since it was imported from before."""
    if graph.name != before.graph.name:
        model.graph.name = graph.name
    for old, new in zip(before.opset_import, model.opset_import, strict=False):
        if old.domain in ("", "ai.onnx") and graph.opset != old.version:
            new.version = graph.opset
    stored = {tensor.name for tensor in before.graph.initializer}
    for name in ("input", "output"):
        _put_values(getattr(graph, f"{name}s"), getattr(before.graph, name), getattr(model.graph, name), stored)


def _put_values(tensors: Sequence[gs.Tensor], before: Any, values: Any, stored: set[str]) -> None:
    """Bring the declared inputs or outputs of a model up to date, but for inputs that only give an initializer its default."""
    old = {value.name: value for value in before if value.name not in stored}
    if [t.name for t in tensors] == list(old) and all(_is_as_declared(t, old[t.name]) for t in tensors):
        return
    kept = {value.name: value for value in values}
    new = [
        kept[t.name]
        if t.name in old and t.name in kept and _is_as_declared(t, old[t.name])
        else OnnxExporter.export_value_info_proto(t, do_type_check=False)
        for t in tensors
    ]
    new += [value for value in values if value.name in stored]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in new]
    del values[:]
    values.extend(copies)


def _is_as_declared(tensor: gs.Tensor, value: onnx.ValueInfoProto) -> bool:
    declared = OnnxImporter.import_tensor(value)
    return bool(tensor.dtype == declared.dtype and _dims(tensor.shape) == _dims(declared.shape))


def _dims(shape: Sequence[Any] | None) -> list[Any] | None:
    return None if shape is None else [None if is_unknown(size) else size for size in shape]
