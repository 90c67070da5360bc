"""The same network in another form: what is removed from it, and what remains, must not depend on the form."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator

import onnx
import onnx_graphsurgeon as gs

from onnx_reconvene.graph import from_model, load
from tests.oracle import graphs


def twins(model: onnx.ModelProto) -> dict[str, Callable[[], gs.Graph]]:
    """Return, by what is different, functions that read model: without names of nodes, with equal ones, with external data."""
    return {
        "nodes without names": lambda: from_model(nameless(model)),
        "nodes with equal names": lambda: from_model(alike(model)),
        "external data": lambda: stored_apart(model),
    }


def renamed(model: onnx.ModelProto, name: Callable[[onnx.NodeProto], str]) -> onnx.ModelProto:
    """Return model with other names for its nodes, in bodies and functions, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in every_node(copy):
        node.name = name(node)
    return copy


def nameless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model with no names of nodes."""
    return renamed(model, lambda node: "")


def alike(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model with each node named by its type, so that many have the same name."""
    return renamed(model, lambda node: node.op_type)


def stored_apart(model: onnx.ModelProto) -> gs.Graph:
    """Return the graph of model as it is read from a file whose weights are external data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder:
        path = os.path.join(folder, "model.onnx")
        onnx.save_model(copy, path, save_as_external_data=True, location="weights", size_threshold=0)
        return load(path)


def same_but_for_names(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Return True if two models differ in nothing but the names of nodes."""
    return nameless(a) == nameless(b)


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of model, those of bodies and local functions too."""
    for graph in graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node
