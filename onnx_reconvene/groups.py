"""What solved labels say of a network: groups of units that can be removed, and what is frozen and why."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError
from onnx_reconvene.flow import NO_CHANNELS, Flow, Layer, Value, along
from onnx_reconvene.graph import every_node
from onnx_reconvene.labels import Labels, Solution
from onnx_reconvene.names import first_output
from onnx_reconvene.shapes import Integers, Shape

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, repr=False)
class Site:
    """Where the units of a group live along one axis of one weight tensor."""

    tensor: str
    axis: int
    units: Labels  # of the group, counted from 0; -1 where others are; broadcastable to the tensor

    def __repr__(self) -> str:
        return f"Site({self.tensor!r}, axis={self.axis})"


@dataclass(frozen=True, repr=False)
class Group:
    """Units (channels that live and die together) that have the same sites but for position.

    Where an operator works in blocks of channels, each block holds `width` units of its own, of which as many stay in all blocks.
    """

    name: str
    width: int  # units of one block
    blocks: int
    first: int  # its units are numbered first, first + 1, ..., block by block
    layers: tuple[str, ...]  # the nodes that make these channels
    outputs: tuple[str, ...]  # the first output of each of these
    channels: int  # output channels of one unit of every block, at the layer that has most
    inexact: str | None  # the operator that computes statistics over these channels, if any
    _index: int
    _sites: _Sites

    def __repr__(self) -> str:
        blocks = f", blocks={self.blocks}" if self.blocks > 1 else ""
        return f"Group({self.name!r}, width={self.width}{blocks}, sites={len(self.sites)})"

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the units live."""
        return self._sites.by_group[self._index]

    @property
    def units(self) -> slice:
        """The place of its units among those of all groups."""
        return slice(self.first, self.first + self.blocks * self.width)

    def by_block(self, per_unit: NDArray[T]) -> NDArray[T]:
        """Return what an array [units of all groups] says of its units, as [blocks, width]."""
        return per_unit[self.units].reshape(self.blocks, self.width)


@dataclass(frozen=True)
class Frozen:
    """Output channels of a weight tensor that must stay."""

    tensor: str
    channels: int
    reason: str


@dataclass(frozen=True, repr=False)
class Analysis:
    """What can be removed from a graph. Units are numbered through, group by group; -1 stands for a frozen channel."""

    graph: gs.Graph
    flow: Flow
    solution: Solution
    unit_of_member: Labels
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    sizes: dict[str, Shape]  # of the graph inputs
    origins: Mapping[str, str]  # where the sizes of inputs with free dimensions come from, see `sizes.origins_of`
    read: Mapping[str, Shape]  # shapes of tensors in a run, of those that cannot be inferred

    def __repr__(self) -> str:
        frozen = sum(entry.channels for entry in self.frozen)
        return f"Analysis({len(self.groups)} groups of {self.width} removable units, {frozen} frozen channels, sizes={self.sizes})"

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
        """Return the names of the groups that match a shell pattern, or have channels at the nodes or initializers that do.

        A weight stands for the channels that its layer makes with it. A node that has no name, or one that
        others have too, goes by that of its first output. Raises UsageError where nothing has such a name.
        """

        def matches(name: str) -> bool:
            return name == pattern or fnmatch.fnmatchcase(name, pattern)

        every = np.arange(self.width)
        found = [every[group.units] for group in self.groups if matches(group.name)]
        names = len(found)
        tensors = [(name, [name]) for name in self.flow.weights.keys() | self._made_with.keys()]
        nodes = ((first_output(node), node) for node in every_node(self.graph))
        tensors += [(self.flow.names.get(output, output), [t.name for t in node.outputs]) for output, node in nodes]
        for name, own in tensors:
            if matches(name):
                names += 1
                found += [units for tensor in own for units in self._made_at(tensor)]
        if not names:
            raise UsageError(f"{option} '{pattern}' matches no node and no weight (inspect lists them)")
        matched = np.isin(every, np.concatenate([every[:0], *found]))
        return {group.name for group in self.groups if matched[group.units].any()}

    def _made_at(self, tensor: str) -> list[Labels]:
        """Return the units of a tensor; of a weight, and what it is moved from, those that layers make with it."""
        value = self.flow.values.get(tensor, Value())
        own = [self.units(labels) for labels in [*value.labels.values(), *([value.pending.labels] if value.pending else [])]]
        made = self._made_with.get(tensor)
        return own if made is None else [np.intersect1d(units, made) for units in own]

    @cached_property
    def _made_with(self) -> dict[str, Labels]:
        """The units of the channels that layers make with each weight, and with what it is moved from."""
        made: dict[str, list[Labels]] = {}
        for layer in self.layers:
            for name in layer.sources:
                made.setdefault(name, []).append(self.units(layer.out))
        return {name: np.unique(np.concatenate(units)) for name, units in made.items()}

    @property
    def width(self) -> int:
        """The number of units of all groups."""
        return self.groups[-1].units.stop if self.groups else 0

    @cached_property
    def group_of_unit(self) -> Labels:
        """The group of each unit, [units]."""
        return np.repeat(np.arange(len(self.groups)), [group.blocks * group.width for group in self.groups])

    def widths(self, keep: NDArray[np.bool_]) -> Labels:
        """Return how many units of each block of each group stay, [groups]."""
        return np.asarray([keep[group.units].sum() // group.blocks for group in self.groups], np.int64)

    def units(self, labels: Labels) -> Labels:
        """Return the unit of each label, -1 where it is frozen."""
        return self.unit_of_member[self.solution.member_of(labels)]

    def bears_units(self, name: str) -> bool:
        """Return True if some channel of a tensor can be removed."""
        return any((units >= 0).any() for units in self.bearings(name).values())

    def stays(self, labels: Labels, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of labels stay when the units that keep [units] does not hold are removed."""
        units = self.units(labels)
        if not keep.size:
            return np.ones(units.shape, bool)
        stays: NDArray[np.bool_] = keep[units] | (units < 0)  # -1 reads the last unit, whatever that is
        return stays

    def units_along(self, name: str, axis: int) -> Labels | None:
        """Return the unit of each position along an axis of a tensor, None where the axis carries no channels.

        In a tensor that holds blocks of channels these are the units of the first block.
        """
        labels = self.flow.values[name].over(axis) if name in self.flow.values else None
        return None if labels is None else self.units(labels)

    def spread(self, name: str) -> dict[int, Labels]:
        """Return the labels along each axis of a weight, shaped to be broadcast to it; those of blocks vary along axis 0, too."""
        value, rank = self.flow.values[name], len(self.shapes.get(name, ()))
        found = {axis: labels.reshape(along(axis, rank)) for axis, labels in value.labels.items()}
        return found if value.pending is None else {**found, value.pending.axis: value.pending.spread}

    def bearings(self, name: str) -> dict[int, Labels]:
        """Return the units along each axis of a weight, shaped to be broadcast to it."""
        return {axis: self.units(labels) for axis, labels in self.spread(name).items()}

    def is_read(self, labels: Labels) -> NDArray[np.bool_]:
        """Return which of labels stand on the input axis of a layer's weight, or of what that is computed from."""
        return np.append(self.read_labels, False)[np.maximum(labels, -1)]

    @cached_property
    def read_labels(self) -> NDArray[np.bool_]:
        """For each label whether it stands on the input axis of a layer's weight, or of what that is computed from."""
        read = np.zeros(self.flow.equalities.count, bool)
        for layer in self.layers:
            read[layer.read[layer.read >= 0]] = True
            for name in (layer.sources - {layer.weight}) & self.flow.weights.keys():
                for labels in self.spread(name).values():
                    same = np.isin(self.solution.of(labels), self.solution.of(layer.read))
                    read[labels[same & (labels >= 0)]] = True
        return read


def collect(
    graph: gs.Graph,
    flow: Flow,
    solution: Solution,
    sizes: dict[str, Shape],
    origins: Mapping[str, str],
    read: Mapping[str, Shape],
) -> Analysis:
    """Return what the solved labels of flow say can be removed from graph."""
    borne = [(name, axis, labels) for name in flow.weights for axis, labels in sorted(flow.values[name].by_axis().items())]
    units = _number([labels for _, _, labels in borne], solution, flow)
    analysis = Analysis(graph, flow, solution, units.of_member, (), _frozen(flow, solution), sizes, origins, read)
    return replace(analysis, groups=_groups(analysis, units, [(name, axis) for name, axis, _ in borne]))


def _signature(axes: list[Labels], count: int) -> NDArray[np.uint64]:
    """Return, for each of count components, a hash of which axes bear it, and how often: each axis adds a random number."""
    component = np.concatenate([np.empty(0, np.int64), *axes])
    factors = np.random.default_rng(len(axes)).integers(0, 2**63, len(axes), dtype=np.uint64)
    added = np.repeat(factors, [axis.size for axis in axes])
    signature = np.zeros(count, np.uint64)
    np.add.at(signature, component[component >= 0], added[component >= 0])
    return signature


def _split(found: Labels, axes: list[Labels]) -> list[Labels]:
    """Split what was looked up for all of axes at once."""
    return np.split(found, np.cumsum([labels.size for labels in axes]))[: len(axes)]


def _joined(axes: list[Labels]) -> Labels:
    return np.concatenate([np.empty(0, np.int64), *axes])


@dataclass(frozen=True)
class _Units:
    """Units numbered group by group, in each block by block."""

    of_member: Labels  # [members + 1] -> unit, -1 where there is none; the last entry answers for member -1
    width: Labels  # [groups]
    blocks: Labels  # [groups]
    group_of_component: Labels  # -1 where it has none

    @cached_property
    def bounds(self) -> Labels:
        """The first unit of each group, and the number of units."""
        return np.append(0, np.cumsum(self.width * self.blocks))

    @cached_property
    def group(self) -> Labels:
        """The group of each unit; the last entry answers for unit -1."""
        return np.append(np.repeat(np.arange(self.width.size), self.width * self.blocks), -1)


def _number(borne: list[Labels], solution: Solution, flow: Flow) -> _Units:
    """Number the free components that some layer makes and some weight bears: units of equal signature, a group, come one after
    the other. Units that live in different activations are told apart too, so that none of these ever loses its last channel."""
    components = solution.reason.size
    component = solution.of(_joined(borne))
    place = np.flatnonzero(component >= 0)
    activations = [value.labels.values() for name, value in flow.values.items() if name not in flow.weights]
    open_axes = [x for labels in activations for x in labels if x.size and x[0] >= 0 and x[-1] >= 0]  # others keep a channel
    signature = _signature(_split(component, borne), components)
    signature += _signature(_split(solution.of(_joined(open_axes)), open_axes), components)
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
    rank = np.full(components + 1, -1)  # the last entry answers for component -1
    rank[free[order]] = np.arange(free.size)
    starts = start[group][order]
    group = np.cumsum(np.diff(starts, prepend=starts[:1]) != 0) if free.size else np.empty(0, np.int64)
    return _apart(rank, group, [*borne, *open_axes], solution)


def _apart(rank: Labels, group: Labels, axes: list[Labels], solution: Solution) -> _Units:
    """Return the units of components that are ranked and grouped: their members where balance alone ties these, block by block.

    For that the components of a group must consist of the same members, but for position: equal in what bears them and in the
    blocks in which they are. Else the component as a whole is one unit.
    """
    width, of_component = np.bincount(group), np.append(group, -1)[rank[:-1]]
    members = solution.member.max(initial=-1) + 1
    component = np.zeros(members, np.int64)
    component[solution.member] = solution.component
    rank_of_member = np.append(rank[component], -1)
    if not solution.balanced:
        return _Units(rank_of_member, width, np.ones_like(width), of_component)
    rows = [row for blocks in solution.balanced for row in blocks]
    signature = _signature(_split(solution.member_of(_joined([*axes, *rows])), [*axes, *rows]), members)
    own = np.flatnonzero(rank_of_member[:-1] >= 0)
    own = own[np.lexsort((own, signature[own], rank_of_member[own]))]  # component by component, like members at like places
    each = np.bincount(rank_of_member[own], minlength=group.size)
    edges = np.append(0, np.cumsum(each))
    blocks = np.ones_like(width)
    unit, number = np.full(members + 1, -1), 0
    for g, (first, end) in enumerate(itertools.pairwise(np.append(0, np.cumsum(width)))):
        part = own[edges[first] : edges[end]]
        alike = (each[first:end] == each[first]).all()
        table = part.reshape(end - first, -1) if alike else part[None]
        if alike and (signature[table] == signature[table[:1]]).all():
            blocks[g] = each[first]
            table = table[:, np.argsort(table[0])]
            unit[table] = number + np.arange(table.size).reshape(table.T.shape).T
        else:
            unit[part] = number + rank_of_member[part] - first
        number += int(blocks[g]) * (end - first)
    return _Units(unit, width, blocks, of_component)


@dataclass(frozen=True)
class _Sites:
    """The sites of all groups, listed when someone asks."""

    analysis: Analysis
    units: _Units
    borne: list[tuple[str, int]]

    @cached_property
    def by_group(self) -> list[tuple[Site, ...]]:
        """The sites of each group, in the order of weights."""
        sites: list[list[Site]] = [[] for _ in self.units.width]
        for name, axis in self.borne:
            unit = self.analysis.bearings(name)[axis]
            group = self.units.group[unit]
            for g in np.unique(group[group >= 0]):
                sites[g].append(Site(name, axis, np.where(group == g, unit - self.units.bounds[g], -1)))
        return [tuple(own) for own in sites]


def _groups(analysis: Analysis, units: _Units, borne: list[tuple[str, int]]) -> tuple[Group, ...]:
    sites = _Sites(analysis, units, borne)
    makers: list[dict[str, int]] = [{} for _ in units.width]
    for layer in analysis.layers:
        group = units.group[analysis.units(layer.out)]
        for g, n in zip(*np.unique(group[group >= 0], return_counts=True), strict=True):
            makers[g][layer.node] = int(n // units.width[g])
    inexact = {int(units.group_of_component[c]): why for c, why in reversed(analysis.solution.inexact.items())}
    seen: dict[str, int] = {}
    groups = []
    for g, made in enumerate(makers):
        layers = tuple(analysis.flow.names[output] for output in made)
        name = next(iter(layers), "") or sites.by_group[g][0].tensor
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        width, blocks, first = int(units.width[g]), int(units.blocks[g]), int(units.bounds[g])
        most = max(made.values(), default=1)
        groups.append(Group(unique, width, blocks, first, layers, tuple(made), most, inexact.get(g), g, sites))
    return tuple(groups)


def _frozen(flow: Flow, solution: Solution) -> tuple[Frozen, ...]:
    found = []
    for layer in [layer for layer in flow.layers if layer.stored]:
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
