"""Doors to other tools: any kind of model in, the same kind out."""

from __future__ import annotations

import atexit
import copy
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnx_reconvene import notes
from onnx_reconvene.errors import UsageError
from onnx_reconvene.files import save
from onnx_reconvene.graph import from_model, load, reopen, to_model, without_weights


def open_model(model: Any, in_place: bool = False) -> tuple[gs.Graph, Callable[[gs.Graph], Any]]:
    """Return model as a graph to work on, and the function that turns such a graph back into the type of model.

    model: a path, onnx.ModelProto, onnx_graphsurgeon.Graph, onnx_ir.Model or torch.onnx.ONNXProgram. None of them is modified,
    but in_place for a graph that came from here. A path comes back as the path of a temporary file.
    """
    if isinstance(model, str | os.PathLike):
        return load(model), lambda graph: _to_path(graph, type(model))
    if isinstance(model, onnx.ModelProto):
        return from_model(model), _to_proto
    if isinstance(model, gs.Graph):
        if not hasattr(model, "source"):
            return from_model(gs.export_onnx(model, do_type_check=False)), (lambda graph: graph) if in_place else reopen
        return (model, lambda graph: graph) if in_place else (reopen(model), reopen)
    kind = type(model)
    if kind.__module__.partition(".")[0] == "onnx_ir" and kind.__name__ == "Model":
        return _from_ir(model)
    if kind.__name__ == "ONNXProgram":
        return _from_program(model)
    raise UsageError(
        f"a {kind.__module__}.{kind.__name__} is no model: give a path, ModelProto, gs.Graph, onnx_ir.Model or ONNXProgram"
    )


def _to_proto(graph: gs.Graph) -> onnx.ModelProto:
    notes.restore(graph)
    model = to_model(graph)
    notes.write(graph, model)
    return model


def _to_path(graph: gs.Graph, kind: type) -> Any:
    folder = tempfile.mkdtemp(prefix="reconvene-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, os.path.basename(graph.source.path or "model.onnx"))
    notes.restore(graph)
    bare = without_weights(graph)
    notes.write(graph, bare.model)
    save(bare, path)
    return path if kind is str else pathlib.Path(path)


def _from_ir(model: Any) -> tuple[gs.Graph, Callable[[gs.Graph], Any]]:
    import onnx_ir

    values = (value.const_value for value in model.graph.initializers.values())
    folders = {os.fspath(v.base_dir) for v in values if isinstance(v, onnx_ir.ExternalTensor)}
    graph = from_model(onnx_ir.to_proto(model), folders.pop() if folders else "")
    if notes.KEY in model.meta:
        graph.notes = replace(model.meta[notes.KEY], analysis=None, restore=None)

    def back(graph: gs.Graph) -> Any:
        notes.restore(graph)
        result = onnx_ir.from_proto(to_model(graph))
        found = notes.notes_of(graph)
        if found != notes.Notes():
            result.meta[notes.KEY] = replace(found, analysis=None, restore=None)
        return result

    return graph, back


def _from_program(program: Any) -> tuple[gs.Graph, Callable[[gs.Graph], Any]]:
    graph, back = _from_ir(program.model)

    def wrap(graph: gs.Graph) -> Any:
        result = copy.copy(program)
        result.model = back(graph)
        return result

    return graph, wrap
