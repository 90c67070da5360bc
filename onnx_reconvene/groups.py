"""Runs the rules over a graph and solves the labels: groups of units that can be removed, and what is frozen and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError
from onnx_reconvene.flow import Flow, Layer, Op, Unsupported, Value
from onnx_reconvene.labels import Labels, Solution
from onnx_reconvene.operators import OPERATORS
from onnx_reconvene.shapes import Integers, Shape, infer, input_sizes

STANDARD_DOMAINS = (None, "", "ai.onnx")


@dataclass(frozen=True)
class Site:
    """Where the units of a group live: positions[unit] along one axis of one weight tensor."""

    tensor: str
    axis: int
    positions: NDArray[np.int64]  # [width, positions per unit]


@dataclass(frozen=True)
class Group:
    """Units (channels that live and die together) that have the same sites but for position."""

    name: str
    width: int
    first: int  # its units are numbered first, first + 1, ...
    sites: tuple[Site, ...]
    layers: tuple[str, ...]  # the nodes that make these channels
    channels: int  # output channels of the first of these layers per unit
    inexact: str | None  # the operator that computes statistics over these channels, if any


@dataclass(frozen=True)
class Frozen:
    """Output channels of a weight tensor that must stay."""

    tensor: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Analysis:
    """What can be removed from a graph. Units are numbered through, group by group; -1 stands for a frozen channel."""

    graph: gs.Graph
    flow: Flow
    solution: Solution
    unit_of_component: Labels
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the graph inputs

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each tensor, by name."""
        return self.flow.shapes

    @property
    def integers(self) -> Integers:
        """The values of small integer tensors."""
        return self.flow.integers

    @property
    def layers(self) -> list[Layer]:
        """The weight-bearing nodes."""
        return self.flow.layers

    def matching(self, pattern: str) -> set[str]:
        """Return the names of the groups with channels at the nodes or initializers whose names match a shell pattern.

        A weight stands for the channels that its layer makes. Raises UsageError where nothing has such a name.
        """
        labels: list[Labels] = []
        names = 0
        made = {layer.weight: layer.out for layer in self.layers}
        for node in self.graph.nodes:
            if fnmatch.fnmatchcase(node.name, pattern):
                names += 1
                labels += [x for t in node.outputs for x in self.flow.values.get(t.name, Value()).labels.values()]
        for name in self.flow.weights:
            if fnmatch.fnmatchcase(name, pattern):
                names += 1
                labels += [made[name]] if name in made else self.flow.values[name].labels.values()
        if not names:
            raise UsageError(f"'{pattern}' matches no node and no weight (inspect lists them)")
        units = np.unique(np.concatenate([np.empty(0, np.int64), *(self.units(x) for x in labels)]))
        return {group.name for group in self.groups if np.isin(np.arange(group.first, group.first + group.width), units).any()}

    @property
    def width(self) -> int:
        """The number of units of all groups."""
        return sum(group.width for group in self.groups)

    def units(self, labels: Labels) -> Labels:
        """Return the unit of each label, -1 where it is frozen."""
        component = self.solution.of(labels)
        return np.where(component >= 0, self.unit_of_component[component], -1)

    def units_along(self, name: str, axis: int) -> Labels | None:
        """Return the unit of each position along an axis of a tensor, None where the axis carries no channels."""
        value = self.flow.values.get(name)
        if value is None or axis not in value.labels:
            return None
        return self.units(value.labels[axis])

    @cached_property
    def read_labels(self) -> NDArray[np.bool_]:
        """For each label whether it stands on the input axis of a layer's weight."""
        read = np.zeros(self.flow.equalities.count, bool)
        for layer in self.layers:
            read[layer.read[layer.read >= 0]] = True
        return read


def analyze(graph: gs.Graph, sizes: Mapping[str, Sequence[int]] | None = None) -> Analysis:
    """Return what can be removed from graph, its free dimensions fixed as sizes says (or at the smallest legal ones).

    Where a split axis turns out frozen because its innermost part absorbs the removal, the next one out is tried.
    """
    found = input_sizes(graph, sizes or {})
    shapes, integers = infer(graph, found)
    outward: dict[str, int] = {}
    best: tuple[int, Flow, Solution] | None = None
    while True:
        flow = _run(graph, shapes, integers, outward)
        solution = flow.equalities.solve()
        free = _count_free(solution)
        if best is None or free > best[0]:
            best = free, flow, solution
        further = {
            name: tried + 1
            for name, (labels, ways) in flow.settled.items()
            if (tried := outward.get(name, 0)) + 1 < ways and _all_frozen(solution, labels)
        }
        if not further:
            return replace(_collect(graph, *best[1:]), sizes=found)
        outward = {**outward, **further}


def _all_frozen(solution: Solution, labels: Labels) -> bool:
    return all(c < 0 or c in solution.frozen for c in solution.of(labels).tolist())


def _count_free(solution: Solution) -> int:
    return np.setdiff1d(solution.component, np.fromiter(solution.frozen, np.int64)).size


def _run(graph: gs.Graph, shapes: dict[str, Shape], integers: Integers, outward: dict[str, int]) -> Flow:
    flow = Flow(graph, shapes, integers, outward)
    for tensor in graph.inputs:
        flow.values[tensor.name] = _frozen_value(flow, tensor.name, f"'{tensor.name}' is a graph input")
    for node in graph.nodes:
        _visit(flow, node)
    for tensor in graph.outputs:
        flow.freeze(tensor, f"'{tensor.name}' is a graph output")
    return flow


def _visit(flow: Flow, node: gs.Node) -> None:
    if node.op in ("Constant", "ConstantOfShape") or computes_shapes(flow.integers, node):
        return
    op = Op(flow, node)
    _freeze_captured(flow, op)
    operator = OPERATORS.get(node.op) if node.domain in STANDARD_DOMAINS else None
    if operator is None:
        _freeze_node(flow, op, "no rule is known for it")
        return
    try:
        operator.flow(op)
    except Unsupported as error:
        _freeze_node(flow, op, str(error))


def computes_shapes(integers: Integers, node: gs.Node) -> bool:
    """Tell whether node does nothing but arithmetic on shapes and constants of known value."""
    names = [t.name for t in node.outputs]
    return all(n in integers and (n in integers.of_shapes or integers[n].dtype.kind in "iub") for n in names)


def _freeze_captured(flow: Flow, op: Op) -> None:
    """Freeze what the bodies of control flow read from outside."""
    for value in op.node.attrs.values():
        if isinstance(value, gs.Graph):
            for inner in value.nodes:
                for tensor in [*inner.inputs, *value.outputs]:
                    if tensor.name in flow.values or isinstance(tensor, gs.Constant):
                        flow.freeze(tensor, f"{op} reads it in a body")
                _freeze_captured(flow, Op(flow, inner))


def _freeze_node(flow: Flow, op: Op, why: str) -> None:
    reason = f"{op}: {why}"
    for i in op.inputs():
        flow.freeze(op.node.inputs[i], reason)
    for o in op.outputs():
        name = op.node.outputs[o].name
        flow.values[name] = _frozen_value(flow, name, reason)


def _frozen_value(flow: Flow, name: str, reason: str) -> Value:
    shape = flow.shapes.get(name, ())
    return Value({axis: flow.equalities.frozen(size, reason) for axis, size in enumerate(shape) if size > 1})


@dataclass(frozen=True)
class _Bearing:
    """The components along one axis of one weight."""

    tensor: str
    axis: int
    component: Labels


def _collect(graph: gs.Graph, flow: Flow, solution: Solution) -> Analysis:
    bearings = [
        _Bearing(name, axis, solution.of(labels))
        for name in flow.weights
        for axis, labels in sorted(flow.values[name].labels.items())
    ]
    unit_of_component, group_of_unit = _number(bearings, solution, flow)
    groups = _groups(bearings, unit_of_component, group_of_unit, flow, solution)
    return Analysis(graph, flow, solution, unit_of_component, groups, _frozen(flow, solution))


def _number(bearings: list[_Bearing], solution: Solution, flow: Flow) -> tuple[Labels, Labels]:
    """Number the free components that some weight bears: units of equal signature, a group, come one after the other."""
    components = int(solution.component.max(initial=-1)) + 1
    signature = np.zeros(components, np.uint64)
    first = np.full(components, np.iinfo(np.int64).max)
    rng, place = np.random.default_rng(0), 0
    for bearing in bearings:
        on = bearing.component[bearing.component >= 0]
        counts = np.bincount(on, minlength=components).astype(np.uint64)
        with np.errstate(over="ignore"):  # a hash: the site's own random odd factor, times a mix of how often it bears the unit
            factor = rng.integers(0, 2**63, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            signature += counts * (counts * np.uint64(0x9E3779B97F4A7C15) + factor) * factor
        np.minimum.at(first, on, place + np.flatnonzero(bearing.component >= 0))
        place += bearing.component.size
    free = np.flatnonzero(first < np.iinfo(np.int64).max)
    free = np.setdiff1d(free, np.fromiter(solution.frozen, np.int64))
    _, group = np.unique(signature[free], return_inverse=True)
    start = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(start, group, first[free])
    order = np.lexsort((first[free], start[group]))
    unit = np.full(components + 1, -1)  # the last entry answers for component -1
    unit[free[order]] = np.arange(free.size)
    starts = start[group][order]
    return unit, np.cumsum(np.diff(starts, prepend=starts[:1]) != 0) if free.size else np.empty(0, np.int64)


def _groups(
    bearings: list[_Bearing], unit_of_component: Labels, group_of_unit: Labels, flow: Flow, solution: Solution
) -> tuple[Group, ...]:
    count = int(group_of_unit.max(initial=-1)) + 1
    bounds = np.searchsorted(group_of_unit, np.arange(count + 1))
    sites: list[list[Site]] = [[] for _ in range(count)]
    for bearing in bearings:
        unit = unit_of_component[bearing.component]
        order = np.argsort(unit, kind="stable")
        edges = np.searchsorted(unit[order], bounds)
        for g in np.flatnonzero(np.diff(edges)):
            positions = order[edges[g] : edges[g + 1]].reshape(bounds[g + 1] - bounds[g], -1)
            sites[g].append(Site(bearing.tensor, bearing.axis, positions))
    makers: list[dict[str, int]] = [{} for _ in range(count)]
    for layer in flow.layers:
        unit = unit_of_component[solution.of(layer.out)]
        for g, n in zip(*np.unique(group_of_unit[unit[unit >= 0]], return_counts=True), strict=True):
            makers[g][layer.name] = n // (bounds[g + 1] - bounds[g])
    inexact = {int(unit_of_component[c]): why for c, why in solution.inexact.items()}
    seen: dict[str, int] = {}
    groups = []
    for g in range(count):
        name = next(iter(makers[g]), sites[g][0].tensor)
        seen[name] = seen.get(name, 0) + 1
        why = next((inexact[u] for u in range(bounds[g], bounds[g + 1]) if u in inexact), None)
        groups.append(
            Group(
                name if seen[name] == 1 else f"{name}#{seen[name]}",
                int(bounds[g + 1] - bounds[g]),
                int(bounds[g]),
                tuple(sites[g]),
                tuple(makers[g]),
                next(iter(makers[g].values()), sites[g][0].positions.shape[1]),
                why,
            )
        )
    return tuple(groups)


def _frozen(flow: Flow, solution: Solution) -> tuple[Frozen, ...]:
    found = []
    for layer in flow.layers:
        why: dict[str, int] = {}
        for label, component in zip(layer.out.tolist(), solution.of(layer.out).tolist(), strict=True):
            reason = flow.equalities.reason(label) if label < 0 else solution.frozen.get(component)
            if reason:
                why[reason] = why.get(reason, 0) + 1
        found += [Frozen(layer.weight, channels, reason) for reason, channels in why.items()]
    made = {layer.weight for layer in flow.layers}
    for name in flow.weights:
        shape = flow.shapes.get(name, ())
        reasons = [
            solution.frozen[c]
            for labels in flow.values[name].labels.values()
            for c in set(solution.of(labels).tolist())
            if c in solution.frozen
        ]
        if name not in made and sum(n > 1 for n in shape) > 1 and reasons:
            found.append(Frozen(name, shape[0], reasons[0]))
    return tuple(found)
