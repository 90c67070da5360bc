"""What nodes are called. Names may be missing or the same, so what tells one node from all others is its first output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_graphsurgeon as gs
from onnx import NodeProto


def first_output(node: gs.Node | NodeProto) -> str:
    """Return the name of the first output of a node that is not left out: no other node of a network in plain form has it."""
    names = node.output if isinstance(node, NodeProto) else (str(tensor.name) for tensor in node.outputs)
    return next(filter(None, names), "")


def name_of(node: gs.Node | NodeProto) -> str:
    """Return the name of a node, that of its first output where it has none."""
    return str(node.name or first_output(node))


def names_of(nodes: Iterable[gs.Node]) -> dict[str, str]:
    """Return what users call each node, by its first output: its name where no other has it, else that output."""
    by_output = {first_output(node): str(node.name) for node in nodes}
    count = Counter(by_output.values())
    return {output: name if name and count[name] == 1 else output for output, name in by_output.items()}


def clear_equal_names(nodes: Iterable[NodeProto]) -> None:
    """Clear the names that several nodes have: onnxruntime does not load such networks, though ONNX allows them."""
    nodes = list(nodes)
    count = Counter(node.name for node in nodes)
    for node in nodes:
        if count[node.name] > 1:
            node.name = ""
