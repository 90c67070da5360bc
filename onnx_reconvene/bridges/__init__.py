"""Doors to other tools: any kind of model in, the same kind out."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reconvene import notes
from onnx_reconvene.errors import ReconveneError, UsageError
from onnx_reconvene.graph import from_model, from_source, load, reopen, to_model, without_weights
from onnx_reconvene.process import workplace
from onnx_reconvene.state import KEY

DECLARED = "onnx_reconvene.declared"  # of the meta of an onnx_ir.Model: the tensors whose types were declared when it was made


def open_model(model: Any, in_place: bool = False) -> tuple[gs.Graph, Callable[[gs.Graph], Any]]:
    """Return model as a graph to work on, and the function that turns such a graph back into the type of model.

    model: a path, bytes, a binary file to read, onnx.ModelProto, onnx_graphsurgeon.Graph, onnx_ir.Model or torch.onnx.ONNXProgram.
    None of them is modified, but in_place for a graph that came from here. What is read comes back as a ModelProto.
    """
    if is_file(model):
        return _read(model), _to_proto
    if isinstance(model, onnx.ModelProto):
        return from_model(model), _to_proto
    if isinstance(model, gs.Graph):
        if not hasattr(model, "source"):
            return from_model(gs.export_onnx(model, do_type_check=False)), (lambda graph: graph) if in_place else _apart
        if not in_place:
            notes.restore(model)
        return (model, lambda graph: graph) if in_place else (reopen(model), _apart)
    kind = type(model)
    if kind.__module__.partition(".")[0] == "onnx_ir" and kind.__name__ == "Model":
        return _from_ir(model)
    if kind.__name__ == "ONNXProgram":
        return _from_program(model)
    kinds = "a path, bytes, a binary file, ModelProto, gs.Graph, onnx_ir.Model or ONNXProgram"
    raise UsageError(f"a {kind.__module__}.{kind.__name__} is no model: give {kinds}")


def _apart(graph: gs.Graph) -> gs.Graph:
    """Return a graph that shares no weight with this one or the one that this came from."""
    bare = without_weights(graph)
    return from_source(replace(bare, arrays={name: np.array(array) for name, array in bare.arrays.items()}))


def _to_proto(graph: gs.Graph) -> onnx.ModelProto:
    notes.restore(graph)
    model = to_model(graph)
    notes.write(graph, model)
    return model


def is_file(model: Any) -> bool:
    """Return True if model is a file or its content: what has to be read."""
    return isinstance(model, str | os.PathLike | bytes | bytearray | memoryview) or callable(getattr(model, "read", None))


def _read(file: Any) -> gs.Graph:
    if isinstance(file, str | os.PathLike):
        return load(file)
    if isinstance(file, bytes | bytearray | memoryview):
        return _spooled(io.BytesIO(file), "the model")
    name = str(getattr(file, "name", "the model"))
    return _spooled(file, "standard input" if name == "<stdin>" else name)


def _spooled(file: IO[bytes], name: str) -> gs.Graph:
    """Return the graph of the model in a binary file, which need not be seekable; large weights are mapped from a temporary copy
    of it that has no name any more."""
    with workplace(f"reading {name}") as folder:
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as copy_:
            while part := file.read(2**20):
                if isinstance(part, str):
                    raise UsageError(f"{name}: is read as text; open it in binary mode")
                copy_.write(part)
        try:
            graph = load(path)
        except ReconveneError as error:
            error.args = (str(error).replace(path, name),)
            raise
    graph.source.path = None
    return graph


def _from_ir(model: Any) -> tuple[gs.Graph, Callable[[gs.Graph], Any]]:
    import onnx_ir

    values = (value.const_value for value in model.graph.initializers.values())
    folders = {os.fspath(v.base_dir) for v in values if isinstance(v, onnx_ir.ExternalTensor)}
    proto = onnx_ir.to_proto(model)
    if DECLARED in model.meta:
        _undeclare(proto.graph, model.meta[DECLARED])
    graph = from_model(proto, folders.pop() if folders else "")
    if KEY in model.meta:
        notes.adopt(graph, replace(model.meta[KEY]))

    def back(graph: gs.Graph) -> Any:
        notes.restore(graph)
        proto = to_model(graph)
        result = onnx_ir.from_proto(proto)
        result.metadata_props.pop(KEY, None)
        result.meta[KEY] = notes.carried(graph)
        result.meta[DECLARED] = {value.name for value in proto.graph.value_info}
        return result

    return graph, back


def _undeclare(graph: onnx.GraphProto, declared: set[str]) -> None:
    """Remove the types that onnx_ir declares of initializers, where it was given none."""
    added = {tensor.name for tensor in graph.initializer} - declared
    for value in [value for value in graph.value_info if value.name in added]:
        graph.value_info.remove(value)


def _from_program(program: Any) -> tuple[gs.Graph, Callable[[gs.Graph], Any]]:
    graph, back = _from_ir(program.model)

    def wrap(graph: gs.Graph) -> Any:
        result = copy.copy(program)
        result.model = back(graph)
        return result

    return graph, wrap
