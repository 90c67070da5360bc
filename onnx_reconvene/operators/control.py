"""Control flow: labels flow through bodies as through any nodes; here they go in and come out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnx_reconvene.control import branches_taken, loop_steps, scan_axes
from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.labels import Labels
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

CHANGES = "what it carries from step to step changes its shape"
UNCOUNTED = "how many steps it makes is not known"


def branch(op: Op) -> None:
    """y is made by one branch or the other, so both make the same channels; before opset 11 even where one is never taken"""
    taken = branches_taken(op.node, op.flow.integers) if op.opset >= 11 else [op.attr("then_branch"), op.attr("else_branch")]
    for o in op.outputs():
        results = [branch.outputs[o] for branch in taken]
        shapes = {op.flow.shapes.get(result.name) for result in results}
        if len(shapes) > 1 or None in shapes:
            for tensor in [*results, op.node.outputs[o]]:
                op.stop(tensor, "its branches make tensors of different shapes, or of unknown ones")
            continue
        first, *others = [op.axes_of(result) for result in results]
        for other in others:
            for a, b in zip(first, other, strict=True):
                op.equate(a, b)
        op.emit(dict(enumerate(first)), o)


def enter_loop(op: Op) -> None:
    """count, condition, initial state -> step, condition, state in the body"""
    body = op.attr("body")
    op.ignore(0)
    op.ignore(1)
    _enter(op, body.inputs[2:], range(2, len(op.node.inputs)))


def loop(op: Op) -> None:
    """condition, state, a slice of y for each step from the body -> last state, y"""
    body = op.attr("body")
    carried = len(op.node.inputs) - 2
    _leave(op, body.inputs[2:], body.outputs[1:])
    _stack(op, carried, body.outputs[1 + carried :], [0] * (len(body.outputs) - 1 - carried))


def enter_scan(op: Op) -> None:
    """initial state, x -> state, a slice of x for each step in the body"""
    body, carried = op.attr("body"), _carried_by_scan(op)
    _enter(op, body.inputs[:carried], range(carried))
    for axis, i, inner in zip(scan_axes(op.node, "input"), range(carried, len(op.node.inputs)), body.inputs[carried:], strict=True):
        labels = op.axes(i)
        op.freeze(labels.pop(axis), "takes its input apart along them")
        op.put(inner, dict(enumerate(labels)))


def scan(op: Op) -> None:
    """state, a slice of y for each step from the body -> last state, y"""
    body, carried = op.attr("body"), _carried_by_scan(op)
    _leave(op, body.inputs[:carried], body.outputs)
    _stack(op, carried, body.outputs[carried:], scan_axes(op.node, "output"))


def steps_of_loop(op: Op) -> int | None:
    """the number that it is given, if no condition ends it before"""
    return loop_steps(op.node, op.flow.integers)


def steps_of_scan(op: Op) -> int | None:
    """as many as its inputs have slices"""
    i, axis = _carried_by_scan(op), scan_axes(op.node, "input")[0]
    axis %= len(op.shape(i))
    return None if axis in op.flow.assumed.get(op.node.inputs[i].name, ()) else op.shape(i)[axis]


def _carried_by_scan(op: Op) -> int:
    if op.opset < 9:
        raise UnsupportedError("opset 8 has batches of sequences")
    return len(op.node.inputs) - int(op.attr("num_scan_inputs"))


def _enter(op: Op, states: Sequence[gs.Tensor], initial: Sequence[int]) -> None:
    """Let what is carried from step to step begin with the labels of its initial value."""
    for inner, i in zip(states, initial, strict=True):
        if inner.name in op.flow.shapes:
            op.put(inner, dict(enumerate(op.axes(i))))
        else:
            op.ignore(i)
            for tensor in (op.node.inputs[i], inner):
                op.stop(tensor, CHANGES)


def _leave(op: Op, states: Sequence[gs.Tensor], results: Sequence[gs.Tensor]) -> None:
    """Tie what a step makes of the state to the state before it."""
    for o, (inner, result) in enumerate(zip(states, results, strict=False)):
        if inner.name not in op.flow.shapes:
            op.stop(result, CHANGES)
            if op.node.outputs[o].name:
                op.stop(op.node.outputs[o], CHANGES)
            continue
        labels = op.axes_of(inner)
        for before, after in zip(labels, op.axes_of(result), strict=True):
            op.equate(before, after)
        op.emit(dict(enumerate(labels)), o)


def _stack(op: Op, first: int, slices: Sequence[gs.Tensor], axes: Sequence[int]) -> None:
    """Let the labels of what each step makes go on into outputs that have one axis more."""
    for o, (each, axis) in enumerate(zip(slices, axes, strict=True), first):
        output = op.node.outputs[o] if o < len(op.node.outputs) else gs.Variable.empty()
        if output.name and output.name in op.flow.shapes:
            labels: list[Labels | None] = list(op.axes_of(each))
            labels.insert(axis % (len(labels) + 1), None)
            op.emit({a: along for a, along in enumerate(labels) if along is not None}, o)
        else:
            op.stop(each, UNCOUNTED)
            if output.name:
                op.stop(output, UNCOUNTED)


OPERATORS = {
    "If": Operator(branch),
    "Loop": Operator(loop, enter=enter_loop, steps=steps_of_loop),
    "Scan": Operator(scan, enter=enter_scan, steps=steps_of_scan),
}
