"""What a cut network costs, exactly and without building it: every size is a linear function of the group widths."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_reconvene.axes import Axes, Products, Sizes, Widths, plain_axes
from onnx_reconvene.flow import weight_constant
from onnx_reconvene.graph import dead_nodes, every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.memory import Activations
from onnx_reconvene.shapes import dtype_of

SUMS = ("params", "macs", "size")  # costs that are sums of products of sizes


class CostModel:
    """Costs of a network as functions of its group widths (units kept of each group).

    `KINDS` names what can be counted: `channels` (removable ones), `params` (elements of float weights), `macs` (multiply-
    accumulates for one input of the analysed size), `size` (bytes of float and of quantized initializers), `memory` (these and the
    largest number of bytes that activations take at any time), `latency` (milliseconds of a run, as the function that is given
    predicts them).
    """

    KINDS = ("channels", "params", "macs", "size", "memory", "latency")

    def __init__(self, analysis: Analysis, latency: Callable[[Widths], float] | None = None) -> None:
        self.latency = latency
        self.analysis = analysis
        self.dense = np.asarray([group.width for group in analysis.groups], np.int64)
        self.channels = np.asarray([group.channels for group in analysis.groups], np.int64)
        self.nodes = [term.node for term in analysis.flow.macs]
        initializers = _initializers(analysis.graph)
        self._before = _before(initializers.values())
        self._stored = stored = _left(analysis, initializers)
        shared = [[copy.name for _, _, copy in family.reads] for family in getattr(analysis.graph, "shared", ())]
        families = [found for family in shared if (found := [name for name in family if name in stored])]
        alone = [name for name in stored if not any(name in family for family in families)]
        weights = {name: plain_axes(analysis, name) for name in [*alone, *chain.from_iterable(families)]}
        macs, steps = [term.axes for term in analysis.flow.macs], [float(term.steps) for term in analysis.flow.macs]
        self._axes = Axes(analysis, chain.from_iterable([*macs, *weights.values()]))
        self.macs = Products.of(self._axes, macs, steps)
        axes = [weights[name] for name in alone]
        self.params = Products.of(self._axes, axes, [float(stored[name].is_float) for name in alone])
        self.size = Products.of(self._axes, axes, [stored[name].bytes_each for name in alone])
        self._families = [
            (Products.of(self._axes, [weights[name] for name in family], np.ones(len(family))), stored[family[0]].bytes_each)
            for family in families
        ]

    def __call__(self, kind: str, widths: Widths) -> float:
        """Return the cost of this kind at these widths."""
        if kind == "channels":
            return float((widths * self.channels).sum())
        if kind == "latency":
            assert self.latency is not None
            return self.latency(widths)
        if kind == "memory":
            return self("size", widths) + self.activations(widths)
        if kind in self._before and np.array_equal(widths, self.dense):
            return self._before[kind]
        sizes = self._axes(widths)
        products: Products = getattr(self, kind)
        return products(sizes) + (self._of_families(kind, sizes) if kind in self._before else 0.0)

    def _of_families(self, kind: str, sizes: Sizes) -> float:
        """Return what constants cost that are stored once for all readers of the same shape."""
        total = 0.0
        for family, bytes_each in self._families:
            shapes = {tuple(shape) for shape in sizes[family.axes].tolist()}
            total += sum(math.prod(shape) for shape in shapes) * (bytes_each if kind == "size" else 1.0)
        return total

    def tally(self, widths: Widths, kinds: Sequence[str]) -> Tally:
        """Return these kinds of cost at widths that are to change one group at a time."""
        return Tally(self, widths, kinds)

    @cached_property
    def activations(self) -> Activations:
        """The bytes that activations take."""
        return Activations(self.analysis)

    def all(self, widths: Widths) -> dict[str, float]:
        """Return every kind of cost at these widths that is counted, not measured."""
        return {kind: self(kind, widths) for kind in self.KINDS if kind != "latency"}

    def macs_by_node(self, widths: Widths) -> dict[str, float]:
        """Return the multiply-accumulates of each node that does any, by its first output."""
        counts: dict[str, float] = {}
        for node, macs in zip(self.nodes, self.macs.terms(self._axes(widths)), strict=True):
            counts[node] = counts.get(node, 0.0) + float(macs)
        return counts

    def macs_by_weight(self) -> dict[str, float]:
        """Return the multiply-accumulates with each stored weight of a layer, in the network as it is."""
        by_node = self.macs_by_node(self.dense)
        counts: dict[str, float] = {}
        for layer in self.analysis.layers:
            for name in layer.sources:
                counts[name] = counts.get(name, 0.0) + by_node.get(layer.node, 0.0)
        return counts

    def params_by_weight(self) -> dict[str, float]:
        """Return the elements of each stored weight of floating-point numbers."""
        return {name: float(math.prod(self.analysis.shapes[name])) for name, stored in self._stored.items() if stored.is_float}

    def by_weight(self, kinds: Iterable[str]) -> dict[str, float]:
        """Return what each stored weight of a layer costs where these kinds of cost are bounded: its multiply-accumulates; empty
        where parameters alone are, of which each of its elements is one."""
        return {} if set(kinds) <= {"params", "size"} else self.macs_by_weight()


@dataclass(frozen=True)
class Counting:
    """What costs take for granted, and what they leave out.

    read_shapes: of tensors in a run, where sizes depend on data; assumed_shapes: those with sizes that nothing tells. By name of
    the node: the layers whose cost is not known and why (`uncounted`), the types of nodes that no rule knows and that read weights
    (`unruled`), and those of loops of which one step is counted, for nothing tells how many they make (`stepping`).
    """

    read_shapes: Mapping[str, Sequence[int]]
    assumed_shapes: Mapping[str, Sequence[int]]
    uncounted: Mapping[str, str]
    unruled: Mapping[str, str]
    stepping: Mapping[str, str]

    @classmethod
    def of(cls, analysis: Analysis) -> Counting:
        """Return what is said of the costs of an analysed network."""
        flow = analysis.flow
        named = ({flow.names[output]: why for output, why in of.items()} for of in (flow.uncounted, flow.unruled, flow.stepping))
        return cls(dict(analysis.read), dict(flow.accepted), *named)

    def lines(self) -> list[str]:
        """Return one line on each kind that there is."""
        said = [self._read()] if self.read_shapes else []
        if self.assumed_shapes:
            count = len(self.assumed_shapes)
            tensors = f"the shapes of {count} tensors are" if count > 1 else "the shape of 1 tensor is"
            said.append(f"{tensors} assumed in part, for nothing tells all sizes: {_shape(self.assumed_shapes)}")
        said += [uncounted_line(self.uncounted)] if self.uncounted else []
        if self.unruled:
            said.append(f"what operators without a rule do with their weights is not counted: {_first(self.unruled)}")
        if self.stepping:
            said.append(f"one step is counted of loops whose number of steps is not known before they run: {_first(self.stepping)}")
        return said

    def _read(self) -> str:
        empty = sum(0 in sizes for sizes in self.read_shapes.values())
        nothing = f"; {empty} held nothing there and count as one element" if empty else ""
        tensors = f"{len(self.read_shapes)} tensor{'s' if len(self.read_shapes) > 1 else ''} with sizes that depend on data"
        return f"{tensors}, as in a run on random inputs: {_shape(self.read_shapes)}{nothing}"


class Tally:
    """Costs at widths that change one group at a time, of which only what depends on that group is counted again."""

    def __init__(self, cost: CostModel, widths: Widths, kinds: Sequence[str]) -> None:
        self.widths = widths.copy()
        self._cost, self._kinds = cost, kinds
        self._sizes = cost._axes(widths)
        self._products: dict[str, Products] = {kind: getattr(cost, kind) for kind in kinds if kind in SUMS}
        self._sums = {kind: products(self._sizes) for kind, products in self._products.items()}

    def change(self, group: int, width: int) -> list[float]:
        """Return the costs, in the order of kinds, with a group of this width, which it has from now on."""
        rows, per_unit = self._cost._axes.of_group(group)
        parts = {kind: products.reading(rows) for kind, products in self._products.items()}
        before = {kind: part(self._sizes) for kind, part in parts.items()}
        self._sizes[rows] += per_unit * (width - self.widths[group])
        self.widths[group] = width
        for kind, part in parts.items():
            self._sums[kind] += part(self._sizes) - before[kind]
        return [self._now(kind) for kind in self._kinds]

    def _now(self, kind: str) -> float:
        stored = kind in self._cost._before
        if kind not in self._sums or (stored and np.array_equal(self.widths, self._cost.dense)):
            return self._cost(kind, self.widths)
        return self._sums[kind] + (self._cost._of_families(kind, self._sizes) if stored else 0.0)


def uncounted_line(uncounted: Mapping[str, str]) -> str:
    """Return one line on the layers (name and reason) whose cost is not known."""
    node, reason = next(iter(uncounted.items()))
    more = f", and {len(uncounted) - 1} more" if len(uncounted) > 1 else ""
    layers = "1 layer is" if len(uncounted) == 1 else f"{len(uncounted)} layers are"
    return f"{layers} not counted in MACs, latency and memory: '{node}' ({reason}){more}"


def _shape(shapes: Mapping[str, Sequence[int]]) -> str:
    name, shape = next(iter(shapes.items()))
    return f"'{name}' {'x'.join(map(str, shape)) or 'scalar'}" + (", ..." if len(shapes) > 1 else "")


def _first(types: Mapping[str, str]) -> str:
    node, op = next(iter(types.items()))
    return f"{op} '{node}'" + (f", and {len(types) - 1} more" if len(types) > 1 else "")


@dataclass(frozen=True)
class Stored:
    """A stored tensor that counts: of floating-point numbers, or quantized."""

    elements: int
    bytes_each: float
    is_float: bool


def _stored_as(dims: Iterable[int], dtype: np.dtype[Any], is_quantized: bool = False) -> Stored | None:
    """Return a stored tensor, None where it is of a type that weights do not have: so short integers are always quantized."""
    form = re.match(r"(b?float|u?int)(\d+)", dtype.name)
    if form is None or not (is_quantized or "float" in form[1] or int(form[2]) <= 16):
        return None
    return Stored(math.prod(dims), int(form[2]) / 8, "float" in form[1])


def _initializers(graph: gs.Graph) -> dict[str, Stored]:
    """Return the weights that the model stores and that count, sparse ones as if they were dense."""
    model = graph.source.model.graph
    readers = [node for node in every_node(graph) if node.op in ("DequantizeLinear", "QGemm", "QLinearConv")]
    quantized = {tensor.name for node in readers for tensor in node.inputs}  # biases have 32 bits
    weights = {t.name: _stored_as(t.dims, _dtype(t), t.name in quantized) for t in model.initializer}
    return {name: stored for name, stored in weights.items() if stored is not None}


def _dtype(tensor: onnx.TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _before(initializers: Collection[Stored]) -> dict[str, float]:
    """Return the elements of those of floating-point numbers, and the bytes of all."""
    params = sum(stored.elements for stored in initializers if stored.is_float)
    return {"params": float(params), "size": sum(stored.elements * stored.bytes_each for stored in initializers)}


def _left(analysis: Analysis, initializers: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the initializers that the network has once it is cut: without what computed weights that are folded, with these and
    what ConstantOfShape weights turn into."""
    graph = analysis.graph
    dead = {id(node) for node in dead_nodes(graph)}
    read = {t.name: t for node in every_node(graph) if id(node) not in dead for t in node.inputs if isinstance(t, gs.Constant)}
    gone = {t.name for node in every_node(graph) if id(node) in dead for t in node.inputs} - read.keys()
    found = {name: _stored_as(t.shape, dtype_of(t)) for name, t in read.items()}
    weights = analysis.flow.weights.items()
    computed = [name for name, t in weights if weight_constant(t) is None and analysis.bears_units(name)]
    found |= {name: _stored_as(analysis.shapes[name], np.dtype(np.float32)) for name in computed}
    found |= {name: stored for name, stored in initializers.items() if name not in gone}
    return {name: stored for name, stored in found.items() if stored is not None}
