"""Runs the flow rules over a graph and solves the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.control import may_run
from onnx_reconvene.errors import ModelError, one_line
from onnx_reconvene.flow import MOST, NO_CHANNELS, Flow, Split, UnsupportedError, weight_values
from onnx_reconvene.fold import moved_constants
from onnx_reconvene.graph import bodies_of, dead_nodes, every_graph, every_node
from onnx_reconvene.groups import Analysis, collect
from onnx_reconvene.inference import infer_all
from onnx_reconvene.labels import Labels, Solution
from onnx_reconvene.names import names_of
from onnx_reconvene.op import Op
from onnx_reconvene.operators import FROZEN, Operator, rule_for, why_frozen
from onnx_reconvene.shapes import Integers, Shape
from onnx_reconvene.sizes import MOST as MOST_ELEMENTS
from onnx_reconvene.sizes import input_sizes, origins_of

UNFIT = (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError)  # of what goes into a rule


def analyze(
    graph: gs.Graph,
    sizes: Mapping[str, Sequence[int]] | None = None,
    attention: str = "heads",
    read: Mapping[str, Shape] | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    accept: bool = False,
) -> Analysis:
    """Return what can be removed from graph, its free dimensions fixed as sizes says, or else as large as those of samples, or of
    ordinary inputs.

    read: shapes of tensors in a run, for those that cannot be inferred; accept: sizes that nothing tells count as assumed.
    attention: "heads" removes attention heads whole, "dims" as many dimensions of every head. Where a split axis turns out frozen
    because its innermost part absorbs the removal, or is reduced, the next one out is tried; of splits in a row, the last one
    first. That is taken which lets layers lose most channels, if each keeps a unit; of equals what falls into most units.
    """
    requested, samples = sizes or {}, samples or {}
    inputs = input_sizes(graph, {**samples, **requested})
    inferred = infer_all(graph, inputs, read or {}, accept)
    shapes, integers = inferred.shapes, inferred.integers
    _check_sizes(shapes)
    static = moved_constants(graph, integers)
    program = _program(graph, integers)
    outward: dict[str, int] = {}
    best: tuple[tuple[float, ...], Flow, Solution] | None = None
    while True:
        flow = Flow(graph, shapes, integers, static, program.results, outward, program.names, attention == "dims")
        flow.assumed, flow.accepted, flow.proven = inferred.assumed, inferred.accepted, inferred.proven
        _run(flow, program)
        solution = flow.equalities.solve()
        score = _removable(flow, solution), solution.free.size, -len(solution.inexact)
        if best is None or score > best[0]:
            best = score, flow, solution
        further = _further(flow, solution, outward)
        if not further:
            return collect(graph, *best[1:], inputs, origins_of(graph, requested, samples), read or {})
        outward = {**outward, **further}


def _check_sizes(shapes: Mapping[str, Shape]) -> None:
    for name, shape in shapes.items():
        if math.prod(shape) > MOST_ELEMENTS:
            raise ModelError(f"'{name}' of shape {list(shape)} is more than any tensor holds; give sizes with --input-shape")


def _removable(flow: Flow, solution: Solution) -> float:
    """Return how many output channels layers can lose: of u units in which they go, all but one."""
    layers = [layer for layer in flow.layers if layer.stored]
    made = np.concatenate([np.empty(0, np.int64), *(layer.out for layer in layers)])
    layer = np.repeat(np.arange(len(layers)), [layer.out.size for layer in layers])
    component = np.where(solution.why(made) < 0, solution.of(made), -1)
    free = component >= 0
    units = np.unique(layer[free] * solution.reason.size + component[free]) // max(1, solution.reason.size)
    channels, parts = (np.bincount(of, minlength=len(layers)) for of in (layer[free], units))
    return float((channels * (1 - 1 / np.maximum(parts, 1))).sum())


def _further(flow: Flow, solution: Solution, outward: dict[str, int]) -> dict[str, int]:
    """Return the splits to be tried one axis further out, whose labels no other such split splits again: frozen ones, those whose
    other axes freeze some of these, and reduced ones."""
    frozen = {name for name, split in flow.settled.items() if (solution.why(split.absorbing) >= 0).any()}
    why = np.unique(np.concatenate([np.empty(0, np.int64), *(solution.why(flow.settled[name].absorbing) for name in frozen)]))
    reasons = [solution.reasons[r] for r in why]

    def ends(name: str, split: Split) -> bool:
        freezes_others = any(reason.endswith(f"of '{name}' {NO_CHANNELS}") for reason in reasons)
        return name in frozen or freezes_others or any(among(split.absorbing, others) for others in (flow.preferred, flow.reduced))

    def among(labels: Labels, others: Sequence[Labels]) -> bool:
        found = solution.of(np.concatenate([np.empty(0, np.int64), *others]))
        return bool(np.isin(solution.of(labels), found).all())

    made = [layer.out for layer in flow.layers if layer.stored]
    open_ = {name: split for name, split in flow.settled.items() if outward.get(name, 0) + 1 < split.ways}
    ending = {name: split for name, split in open_.items() if ends(name, split) and among(split.absorbing, made)}
    return {
        name: outward.get(name, 0) + 1
        for name, split in ending.items()
        if not any(other is not split and np.isin(other.labels, split.absorbing).all() for other in ending.values())
    }


@dataclass(frozen=True)
class _Program:
    """What there is to do, found once for all rounds."""

    nodes: list[gs.Node]  # of the graph, those that need a rule
    settled: frozenset[int]  # ids of nodes, in bodies too, that need none
    unread: list[gs.Tensor]  # outputs of nodes that nothing reads
    results: frozenset[str]  # names of the outputs of the graph and of bodies
    names: dict[str, str]  # of nodes, in bodies too, by their first output


def _program(graph: gs.Graph, integers: Integers) -> _Program:
    every = list(every_node(graph))
    dead = {id(node) for node in dead_nodes(graph)}  # layers read a constant of what they compute
    settled = frozenset(id(node) for node in every if id(node) in dead or _is_settled(integers, node))
    unread = [t for node in every if id(node) not in settled for t in node.outputs if not t.outputs]
    results = frozenset(t.name for part in every_graph(graph) for t in part.outputs)
    return _Program([node for node in graph.nodes if id(node) not in settled], settled, unread, results, names_of(every))


def _is_settled(integers: Integers, node: gs.Node) -> bool:
    """Return True if node needs no rule: it makes a weight, or does arithmetic on shapes."""
    if node.op == "ConstantOfShape" and weight_values(node.outputs[0]) is not None:
        return True
    return node.op == "Constant" or integers.computes(node)


def _run(flow: Flow, program: _Program) -> None:
    for tensor in flow.graph.inputs:
        flow.values[tensor.name] = flow.frozen_value(tensor.name, f"'{tensor.name}' is a graph input")
    for node in program.nodes:
        _visit(flow, node, program.settled)
    for tensor in program.unread:
        flow.settle(tensor)  # what nobody reads has to keep a shape, too
    for tensor in flow.graph.outputs:
        flow.freeze(tensor, f"'{tensor.name}' is a graph output")


def _visit(flow: Flow, node: gs.Node, settled: frozenset[int]) -> None:
    """Let labels flow through node, and before that through the bodies that it runs."""
    op = Op(flow, node)
    operator, why = rule_for(node), why_frozen(node)
    if operator is not None and (large := _enlarged(op)) is not None:
        operator, why = None, f"it makes an axis of {large:,} positions"
    if operator is not None and operator.enter is not None:
        operator, why = _try(operator, operator.enter, op)
    if operator is None:
        _freeze_inputs(op, why)
    steps, each = flow.steps, flow.steps * _steps(op)
    for body in bodies_of(node):
        flow.steps = each if may_run(node, body, flow.integers) else 0
        for inner in body.nodes:
            if id(inner) not in settled:
                _visit(flow, inner, settled)
    flow.steps = steps
    if operator is not None:
        operator, why = _try(operator, operator.flow, op)
    _count(op)
    if operator is None:
        _freeze_node(flow, op, why)
        return
    for i in op.inputs():
        if i not in op.seen:
            flow.freeze(node.inputs[i], f"{op} reads them as they are")
    silent = [node.outputs[o].name for o in op.outputs() if node.outputs[o].name not in flow.values]
    if any(t.outputs or t.name in flow.results for t in node.outputs if t.name in silent):
        _freeze_node(flow, op, f"no rule says what is in '{silent[0]}'")


def _steps(op: Op) -> int:
    """Return how often a node runs its bodies; where that is not known they count once."""
    operator = rule_for(op.node)
    if operator is None or operator.steps is None:
        return 1
    try:
        steps = operator.steps(op)
    except (UnsupportedError, *UNFIT):
        steps = None
    if steps is None:
        op.flow.stepping[op.output] = op.type
    return 1 if steps is None else steps


def _count(op: Op) -> None:
    """Enter the multiply-accumulates of a layer, or that they cannot be counted."""
    operator, counted = rule_for(op.node), len(op.flow.macs)
    if operator is None and op.type not in FROZEN and any(_is_matrix(t) for t in op.node.inputs):
        op.flow.unruled[op.output] = op.type
    if operator is None or operator.macs is None:
        return
    try:
        operator.macs(op)
        shapes, assumed = op.flow.shapes, op.flow.assumed
        axes = [axis for term in op.flow.macs[counted:] for axis in term.axes]
        if unknown := [name for name, axis in axes if axis >= len(shapes.get(name, ())) or axis in assumed.get(name, ())]:
            raise UnsupportedError(f"the shape of '{unknown[0]}' is not known")
    except (UnsupportedError, *UNFIT) as error:
        del op.flow.macs[counted:]
        op.flow.uncounted[op.output] = one_line(str(error))


def _enlarged(op: Op) -> int | None:
    """Return the size of an axis that is too large to follow and that no input of op has, None if there is none."""
    sizes = [{size for t in tensors for size in op.flow.shapes.get(t.name, ())} for tensors in (op.node.outputs, op.node.inputs)]
    return max((size for size in sizes[0] - sizes[1] if size > MOST), default=None)


def _is_matrix(tensor: gs.Tensor) -> bool:
    """Return True for a weight of more than one axis."""
    values = weight_values(tensor)
    return values is not None and values.dtype.kind != "b" and sum(n > 1 for n in values.shape) > 1


def _try(operator: Operator, rule: Callable[[Op], None], op: Op) -> tuple[Operator | None, str]:
    """Run one rule of operator; return it, or None and why it cannot follow the node."""
    try:
        rule(op)
    except UnsupportedError as error:
        return None, str(error)
    except UNFIT as error:  # the node is not what its rule takes it for
        return None, f"its inputs do not fit each other ({one_line(str(error))})"
    return operator, ""


def _freeze_inputs(op: Op, why: str) -> None:
    """Freeze what goes into a node, and into the bodies that it runs."""
    inner = [tensor for body in bodies_of(op.node) for tensor in body.inputs]
    for tensor in [*(op.node.inputs[i] for i in op.inputs()), *inner]:
        op.stop(tensor, why)


def _freeze_node(flow: Flow, op: Op, why: str) -> None:
    _freeze_inputs(op, why)
    for body in bodies_of(op.node):
        for tensor in body.outputs:
            op.stop(tensor, why)
    for o in op.outputs():
        name = op.node.outputs[o].name
        flow.values[name] = flow.frozen_value(name, f"{op}: {why}")
