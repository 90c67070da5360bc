"""What is known of control flow before it runs: which branch, how many steps, along which axes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnx_reconvene.graph import bodies_of
from onnx_reconvene.shapes import Integers
from onnx_reconvene.twins import qualified


def branches_taken(node: gs.Node, integers: Integers) -> list[gs.Graph]:
    """Return the branches of an If that can be run: one alone where the condition follows from constants, or from sizes that are
    not free."""
    condition = node.inputs[0]
    value = integers.get(condition)
    if value is None or integers.is_free(condition.name):
        return [node.attrs["then_branch"], node.attrs["else_branch"]]
    return [node.attrs["then_branch" if value.all() else "else_branch"]]


def may_run(node: gs.Node, body: gs.Graph, integers: Integers) -> bool:
    """Return False for the branch of an If that is not taken at the sizes and values that costs are counted at."""
    value = integers.get(node.inputs[0]) if qualified(node.op, node.domain) == "If" else None
    return value is None or body is node.attrs["then_branch" if value.all() else "else_branch"]


def running_nodes(graph: gs.Graph, integers: Integers) -> Iterator[gs.Node]:
    """Yield the nodes of graph and of the bodies in it that may run, those of a body before the node that runs it."""
    for node in graph.nodes:
        for body in bodies_of(node):
            if may_run(node, body, integers):
                yield from running_nodes(body, integers)
        yield node


def loop_steps(node: gs.Node, integers: Integers) -> int | None:
    """Return how many steps a Loop makes, None where that is not known before it runs."""
    count, condition, body = node.inputs[0], node.inputs[1], node.attrs["body"]
    result = body.outputs[0]
    while result.inputs and result.inputs[0].op in ("Identity", "Cast"):
        result = result.inputs[0].inputs[0]
    stays_true = result.name == body.inputs[1].name or _is_true(result, integers)
    steps = integers.get(count) if count.name and stays_true and (not condition.name or _is_true(condition, integers)) else None
    return None if steps is None else int(steps.item())


def _is_true(tensor: gs.Tensor, integers: Integers) -> bool:
    value = integers.get(tensor)
    return value is not None and bool(value.all())


def scan_axes(node: gs.Node, of: str) -> list[int]:
    """Return the axes along which a Scan node takes its scan inputs apart, or puts its scan outputs together."""
    count = int(node.attrs["num_scan_inputs"])
    number = count if of == "input" else len(node.outputs) - (len(node.inputs) - count)
    return [int(axis) for axis in node.attrs.get(f"scan_{of}_axes", [0] * number)]
