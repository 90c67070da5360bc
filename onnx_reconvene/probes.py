"""What a verification sees: tensors inside that both networks compute, and deliberate faults that must show in them.

A fault shifts the channels of one cut group where a layer of the pruned network reads them, in a copy of that layer: as a permuted
weight or a wrong mask would. Whether the copy returns something else than the layer says whether such a fault would have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_reconvene.cutting import Cutting
from onnx_reconvene.flow import Value
from onnx_reconvene.graph import bodies_of, every_node
from onnx_reconvene.labels import Labels
from onnx_reconvene.names import first_output
from onnx_reconvene.plain import bodies, graphs_in, nodes_in

PREFIX = "onnx_reconvene.probe"
MANY, POSITIONS = 2**14, 8  # a tensor of more elements is compared at about so many positions along an axis without removable ones


@dataclass(frozen=True)
class Probe:
    """A tensor to compare at the positions that stay and, along axes without removable channels, at one of every few."""

    tensor: str
    stays: dict[int, Labels]  # axis -> which positions of the network before the cut stay
    steps: dict[int, int]  # axis -> from one position to the next

    @property
    def output(self) -> str:
        """The name under which a model returns it."""
        return f"{PREFIX}/{self.tensor}"


@dataclass(frozen=True)
class Fault:
    """Channels of one group taken for others where a node reads them."""

    group: str
    node: str  # the first output of the node that reads them
    tensor: str  # which of its inputs
    axis: int
    order: Labels  # nothing if there is only one, which is negated
    seen: tuple[Probe, ...]  # what that node returns, or the node of the main graph whose body it is in

    def output(self, of: str) -> str:
        """The name under which a model returns what a tensor is with the fault."""
        return f"{PREFIX}/{self.group}/{of}"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The names under which a model returns what is seen, with the fault and without it."""
        return [(f"{self.output(probe.tensor)}/seen", probe.output) for probe in self.seen]


@dataclass(frozen=True)
class Probes:
    """What is compared besides outputs, and the faults that must show in it."""

    tensors: tuple[Probe, ...]
    faults: tuple[Fault, ...]
    blind: tuple[str, ...]  # cut groups of which no fault can be made


@dataclass(frozen=True)
class _Reading:
    """A node that reads channels of a group along an axis of an input, and the probes behind it."""

    group: int
    node: gs.Node
    tensor: str
    axis: int
    seen: tuple[Probe, ...]
    by_layer: bool


def probes(cutting: Cutting, before: onnx.GraphProto, after: onnx.GraphProto) -> Probes:
    """Return the probes of a cut: what each layer returns that lost inputs, and what the last nodes read.

    They are in the main graphs of both networks, made by the same operator after the cut as in the analysis.
    """
    cut = {k for k, group in enumerate(cutting.analysis.groups) if not cutting.keep[group.units].all()}
    search = _Search(cutting, _live(before), {name: node.op_type for node in after.node for name in node.output})
    layers = list(search.readings(cut, layers=True))
    others = list(search.readings(cut - {reading.group for reading in layers}))
    others += search.readings(cut - {reading.group for reading in [*layers, *others]}, static=True)
    least: dict[int, _Reading] = {}
    for reading in sorted([*layers, *others], key=search.cost, reverse=True):
        least[reading.group] = reading
    faults = tuple(_fault(cutting, reading) for reading in least.values())
    last = (
        search.probe(t, t.inputs[0]) for output in cutting.graph.outputs for node in output.inputs for t in node.inputs if t.inputs
    )
    seen = [probe for reading in [*layers, *least.values()] for probe in reading.seen]
    blind = tuple(cutting.analysis.groups[group].name for group in sorted(search.borne(cut - set(least))))
    return Probes(tuple({probe.tensor: probe for probe in [*seen, *filter(None, last)]}.values()), faults, blind)


class _Search:
    """Where nodes read groups, and what can be compared behind them."""

    def __init__(self, cutting: Cutting, live: set[str], makers: Mapping[str, str]) -> None:
        self.cutting, self.analysis, self.flow = cutting, cutting.analysis, cutting.analysis.flow
        self.live, self.makers = live, makers  # tensors on which the outputs depend, and the operators that make them after the cut
        self.nodes = list(every_node(cutting.graph))
        self.outer = {id(node): node for node in cutting.graph.nodes}  # by the id of a node, that of the main graph which runs it
        for node in cutting.graph.nodes:
            self.outer.update((id(inner), node) for body in bodies_of(node) for inner in every_node(body))

    def readings(self, groups: set[int], layers: bool = False, static: bool = False) -> Iterator[_Reading]:
        """Yield where nodes, or only layers, read groups in what is computed from data, or in weights, too."""
        names = {layer.node for layer in self.analysis.layers}
        for node in self.nodes if groups else ():
            if layers and first_output(node) not in names:
                continue
            inputs = dict.fromkeys(t.name for t in node.inputs if t.name and (static or not self.flow.is_static(t)))
            read = [reading for name in inputs for reading in self._read(name, groups)]
            maker = self.outer[id(node)]
            seen = tuple(probe for t in maker.outputs if (probe := self.probe(t, maker))) if read else ()
            yield from (_Reading(group, node, name, axis, seen, layers) for group, name, axis in read if seen)

    def _read(self, name: str, groups: set[int]) -> Iterator[tuple[int, str, int]]:
        for axis, labels in self.flow.values.get(name, Value()).labels.items():
            for group in groups.intersection(groups_of(self.cutting, labels).tolist()):
                yield group, name, axis

    def probe(self, tensor: gs.Tensor, maker: gs.Node) -> Probe | None:
        """Return how to compare a tensor; None where it holds no channels, or blocks that may lose different ones, or where not
        both networks have it."""
        shape, value = self.analysis.shapes.get(tensor.name), self.flow.values.get(tensor.name, Value())
        in_both = tensor.name in self.live and self.makers.get(tensor.name) == maker.op != "Constant"
        if not in_both or not shape or not value.labels or value.pending is not None:
            return None
        kept = {axis: self.cutting.kept(labels) for axis, labels in value.labels.items()}
        stays = {axis: np.flatnonzero(mask) for axis, mask in kept.items() if not mask.all()}
        bears = {axis for axis, labels in value.labels.items() if (self.analysis.units(labels) >= 0).any()}
        long = [axis for axis, size in enumerate(shape) if axis not in bears and size >= 2 * POSITIONS]
        return Probe(tensor.name, stays, {axis: shape[axis] // POSITIONS for axis in long} if math.prod(shape) > MANY else {})

    def cost(self, reading: _Reading) -> int:
        """Return a number that grows with what a node computes."""
        sizes = [math.prod(self.flow.shapes.get(t.name, ())) for t in reading.node.inputs if self.flow.is_static(t)]
        return max(sizes, default=1) * math.prod(self.analysis.shapes.get(reading.node.outputs[0].name, ()))

    def borne(self, groups: set[int]) -> set[int]:
        """Return those of groups on which some output depends."""
        values = [self.flow.values[name] for name in self.live & self.flow.values.keys()] if groups else []
        labels = [x for value in values for x in (*value.labels.values(), *([value.pending.labels] if value.pending else []))]
        return groups.intersection(groups_of(self.cutting, np.concatenate([np.empty(0, np.int64), *labels])).tolist())


def groups_of(cutting: Cutting, labels: Labels) -> Labels:
    """Return the group of each label, -1 where it has none."""
    return np.append(cutting.analysis.group_of_unit, -1)[cutting.analysis.units(labels)]


def _fault(cutting: Cutting, reading: _Reading) -> Fault:
    """Return the fault that each channel of a group is taken for the next: of all along the axis where what is no layer may select
    some, and where no two of the group remain."""
    analysis = cutting.analysis
    labels = analysis.flow.values[reading.tensor].labels[reading.axis]
    remaining = labels[cutting.kept(labels)]
    units, members = analysis.units(remaining), np.flatnonzero(groups_of(cutting, remaining) == reading.group)
    if not reading.by_layer or np.unique(units[members]).size < 2:
        members = np.arange(units.size)
    order = np.arange(units.size)
    order[members[:-1]] = members[1:]
    order[members[-1]] = members[min(1, members.size - 1)]  # so that a sum over them changes, too
    name, alone = analysis.groups[reading.group].name, np.unique(units).size < 2
    return Fault(name, reading.node.outputs[0].name, reading.tensor, reading.axis, order[:0] if alone else order, reading.seen)


def _live(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors on which outputs of a graph depend."""
    live = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if live.intersection(node.output):
            live.update(node.input)
            live.update(name for body in bodies(node) for inner in nodes_in(body) for name in inner.input)
    return live


def add_probes(graph: onnx.GraphProto, tensors: Iterable[Probe]) -> None:
    """Let a graph return tensors inside, too."""
    for probe in tensors:
        _return(graph, probe.tensor, probe.output, probe.steps)


def add_faults(graph: onnx.GraphProto, faults: Iterable[Fault]) -> None:
    """Let a graph return what each fault leads to, too: what a copy of the node returns that is to show it."""
    makers = {name: node for node in graph.node for name in node.output}
    for fault in faults:
        copy, wrong = graph.node.add(), fault.output("wrong")
        copy.CopyFrom(makers[fault.seen[0].tensor])
        copy.ClearField("name")
        home, at = _reader(graph, fault.node)
        reader = home.node[at]
        reader.input[:] = [wrong if name == fault.tensor else name for name in reader.input]
        copy.output[:] = [name and fault.output(name) for name in copy.output]
        home.node.insert(at, slip(graph, fault, wrong))
        for probe, (output, _) in zip(fault.seen, fault.pairs, strict=True):
            _return(graph, fault.output(probe.tensor), output, probe.steps)


def _reader(graph: onnx.GraphProto, output: str) -> tuple[onnx.GraphProto, int]:
    """Return where a node is, by its first output: in a body of the last node of graph, or else this is the node."""
    for body in (inner for outer in bodies(graph.node[-1]) for inner in graphs_in(outer)):
        for k, node in enumerate(body.node):
            if node.output[0] == output:
                return body, k
    return graph, len(graph.node) - 1


def slip(graph: onnx.GraphProto, fault: Fault, wrong: str) -> onnx.NodeProto:
    """Return the node that makes a fault."""
    if not fault.order.size:
        return helper.make_node("Neg", [fault.tensor], [wrong])
    order = _constant(graph, f"{wrong}/order", fault.order)
    return helper.make_node("Gather", [fault.tensor, order], [wrong], axis=fault.axis)


def _return(graph: onnx.GraphProto, tensor: str, output: str, steps: Mapping[int, int]) -> None:
    """Let a graph return a tensor, at one of every few positions along some axes."""
    if steps:
        bounds = ([0] * len(steps), [np.iinfo(np.int64).max] * len(steps), list(steps), list(steps.values()))
        words = [_constant(graph, f"{output}/slice{k}", np.asarray(values, np.int64)) for k, values in enumerate(bounds)]
        graph.node.append(helper.make_node("Slice", [tensor, *words], [output]))
    else:
        graph.node.append(helper.make_node("Identity", [tensor], [output]))
    graph.output.append(helper.make_empty_tensor_value_info(output))


def _constant(graph: onnx.GraphProto, name: str, values: Labels) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name
