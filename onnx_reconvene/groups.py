"""What solved labels say of a network: groups of units that can be removed, and what is frozen and why."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError
from onnx_reconvene.flow import Flow, Layer, Value
from onnx_reconvene.labels import Labels, Solution
from onnx_reconvene.shapes import Integers, Shape

NO_CHANNELS = "carries no channels"


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
    layers: tuple[str, ...]  # the nodes that make these channels
    channels: int  # output channels per unit, at the layer that has most
    inexact: str | None  # the operator that computes statistics over these channels, if any
    _index: int
    _sites: _Sites

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the units live."""
        return self._sites.by_group[self._index]


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
    sizes: dict[str, Shape]  # of the graph inputs

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

    def matching(self, pattern: str, option: str = "pattern") -> set[str]:
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
            raise UsageError(f"{option} '{pattern}' matches no node and no weight (inspect lists them)")
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

    def bears_units(self, name: str) -> bool:
        """Tell whether some channel of a tensor can be removed."""
        return any((self.units(labels) >= 0).any() for labels in self.flow.values[name].labels.values())

    def stays(self, labels: Labels, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of labels stay when the units that keep [units] does not hold are removed."""
        stays: NDArray[np.bool_] = np.append(keep, True)[self.units(labels)]  # the last entry answers for -1
        return stays

    def units_along(self, name: str, axis: int) -> Labels | None:
        """Return the unit of each position along an axis of a tensor, None where the axis carries no channels."""
        value = self.flow.values.get(name)
        if value is None or axis not in value.labels:
            return None
        return self.units(value.labels[axis])

    @cached_property
    def read_labels(self) -> NDArray[np.bool_]:
        """For each label whether it stands on the input axis of a layer's weight, or of what that is computed from."""
        read = np.zeros(self.flow.equalities.count, bool)
        for layer in self.layers:
            read[layer.read[layer.read >= 0]] = True
            for name in (layer.sources - {layer.weight}) & self.flow.weights.keys():
                for labels in self.flow.values[name].labels.values():
                    same = np.isin(self.solution.of(labels), self.solution.of(layer.read))
                    read[labels[same & (labels >= 0)]] = True
        return read


@dataclass(frozen=True)
class _Bearing:
    """The components along one axis of one weight that carries channels."""

    tensor: str
    axis: int
    component: Labels


def collect(graph: gs.Graph, flow: Flow, solution: Solution, sizes: dict[str, Shape]) -> Analysis:
    """Return what the solved labels of flow say can be removed from graph."""
    borne = [(name, axis, labels) for name in flow.weights for axis, labels in sorted(flow.values[name].labels.items())]
    components = _components(solution, [labels for _, _, labels in borne])
    bearings = [_Bearing(name, axis, component) for (name, axis, _), component in zip(borne, components, strict=True)]
    unit_of_component, group_of_unit = _number(bearings, solution, flow)
    place = _Sites(tuple(bearings), unit_of_component, group_of_unit)
    groups = _groups(place, flow, solution)
    return Analysis(graph, flow, solution, unit_of_component, groups, _frozen(flow, solution), sizes)


def _signature(axes: list[Labels], components: int) -> NDArray[np.uint64]:
    """Return a hash of which axes bear each component, and how often: each axis adds a random number of its own."""
    component = np.concatenate([np.empty(0, np.int64), *axes])
    factors = np.random.default_rng(len(axes)).integers(0, 2**63, len(axes), dtype=np.uint64)
    added = np.repeat(factors, [axis.size for axis in axes])
    signature = np.zeros(components, np.uint64)
    np.add.at(signature, component[component >= 0], added[component >= 0])
    return signature


def _components(solution: Solution, axes: list[Labels]) -> list[Labels]:
    """Return the components along each of axes, looked up all at once."""
    every = solution.of(np.concatenate([np.empty(0, np.int64), *axes]))
    return np.split(every, np.cumsum([labels.size for labels in axes]))[: len(axes)]


def _number(bearings: list[_Bearing], solution: Solution, flow: Flow) -> tuple[Labels, Labels]:
    """Number the free components that some layer makes and some weight bears: units of equal signature, a group, come one after
    the other. Units that live in different activations are told apart too, so that none of these ever loses its last channel."""
    components = solution.reason.size
    none = np.empty(0, np.int64)
    component = np.concatenate([none, *(bearing.component for bearing in bearings)])
    place = np.flatnonzero(component >= 0)
    signature = _signature([bearing.component for bearing in bearings], components)
    activations = [value.labels.values() for name, value in flow.values.items() if name not in flow.weights]
    open_axes = [
        along for labels in activations for along in labels if along.size and along[0] >= 0 and along[-1] >= 0
    ]  # others keep a channel
    signature += _signature(_components(solution, open_axes), components)
    first = np.full(components, component.size)
    np.minimum.at(first, component[place], place)
    made = np.zeros(components + 1, bool)  # the last entry is for frozen labels
    for layer in flow.layers:
        made[solution.of(layer.out)] = True
    free = solution.free[(first[solution.free] < component.size) & made[solution.free]]
    _, group = np.unique(signature[free], return_inverse=True)
    start = np.full(group.max(initial=-1) + 1, component.size)
    np.minimum.at(start, group, first[free])
    order = np.lexsort((first[free], start[group]))
    unit = np.full(components + 1, -1)  # the last entry answers for component -1
    unit[free[order]] = np.arange(free.size)
    starts = start[group][order]
    return unit, np.cumsum(np.diff(starts, prepend=starts[:1]) != 0) if free.size else np.empty(0, np.int64)


@dataclass(frozen=True)
class _Sites:
    """The sites of all groups, listed when someone asks."""

    bearings: tuple[_Bearing, ...]
    unit_of_component: Labels
    group_of_unit: Labels

    @cached_property
    def bounds(self) -> Labels:
        """The first unit of each group, and the number of units."""
        return np.searchsorted(self.group_of_unit, np.arange(self.group_of_unit.max(initial=-1) + 2))

    @cached_property
    def by_group(self) -> list[tuple[Site, ...]]:
        """The sites of each group, in the order of weights."""
        sites: list[list[Site]] = [[] for _ in self.bounds[1:]]
        for bearing in self.bearings:
            unit = self.unit_of_component[bearing.component]
            order = np.argsort(unit, kind="stable")
            edges = np.searchsorted(unit[order], self.bounds)
            for g in np.flatnonzero(np.diff(edges)):
                positions = order[edges[g] : edges[g + 1]].reshape(self.bounds[g + 1] - self.bounds[g], -1)
                sites[g].append(Site(bearing.tensor, bearing.axis, positions))
        return [tuple(own) for own in sites]


def _groups(sites: _Sites, flow: Flow, solution: Solution) -> tuple[Group, ...]:
    bounds = sites.bounds
    makers: list[dict[str, int]] = [{} for _ in bounds[1:]]
    for layer in flow.layers:
        unit = sites.unit_of_component[solution.of(layer.out)]
        for g, n in zip(*np.unique(sites.group_of_unit[unit[unit >= 0]], return_counts=True), strict=True):
            makers[g][layer.name] = int(n // (bounds[g + 1] - bounds[g]))
    inexact = {int(sites.unit_of_component[c]): why for c, why in solution.inexact.items()}
    seen: dict[str, int] = {}
    groups = []
    for g, made in enumerate(makers):
        name = next(iter(made), "") or sites.by_group[g][0].tensor
        seen[name] = seen.get(name, 0) + 1
        first, end = int(bounds[g]), int(bounds[g + 1])
        why = next((inexact[u] for u in range(first, end) if u in inexact), None) if inexact else None
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        groups.append(Group(unique, end - first, first, tuple(made), max(made.values(), default=1), why, g, sites))
    return tuple(groups)


def _frozen(flow: Flow, solution: Solution) -> tuple[Frozen, ...]:
    found = []
    for layer in flow.layers:
        why = solution.why(layer.out)
        found += [Frozen(layer.weight, int((why == r).sum()), solution.reasons[r]) for r in dict.fromkeys(why[why >= 0].tolist())]
    made = {layer.weight for layer in flow.layers}
    for name in flow.weights:
        shape = flow.shapes.get(name, ())
        if name in made or sum(n > 1 for n in shape) < 2:
            continue
        why = np.concatenate([solution.why(labels) for labels in flow.values[name].labels.values()])
        reason = solution.reasons[why[0]] if (why >= 0).all() else ""
        if reason and NO_CHANNELS not in reason:  # tables of positions and masks are no news
            found.append(Frozen(name, shape[0], reason))
    return tuple(found)
