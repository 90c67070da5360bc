"""One run of all flow rules over a graph: which channel of which tensor is equal to which.

A `Value` holds, for one tensor, the labels along each axis that carries channels; an axis without labels is frozen. A Reshape
that splits a labelled axis in two (channel shuffle, heads) leaves the labels *pending*: they vary along two axes at once. Where
later movement merges them again they are one axis of labels in another order, and nothing was lost; any other operator
settles them first: one of the two axes absorbs the removal, equal positions along the other go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnx_reconvene.labels import Equalities, Labels
from onnx_reconvene.shapes import Integers, Shape

Movement = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Pending:
    """Labels that vary along several axes: `labels[positions]`, moved by `moves` since they left axis `axis` of tensor `root`."""

    labels: Labels
    positions: NDArray[np.int64]  # broadcastable to the tensor's shape
    root: str
    axis: int
    moves: tuple[Movement, ...]


@dataclass
class Value:
    """The channel labels of one tensor: settled ones by axis, and pending ones."""

    labels: dict[int, Labels] = field(default_factory=dict)
    pending: Pending | None = None


@dataclass(frozen=True)
class Layer:
    """A weight-bearing node: its weight and the labels of the channels that it makes and reads."""

    name: str
    op: str
    tensor: gs.Tensor
    out: Labels
    read: Labels

    @property
    def weight(self) -> str:
        """The name of the weight."""
        return str(self.tensor.name)

    @property
    def sources(self) -> set[str]:
        """The names of the constants that the weight is computed from; its own where it is one."""
        found, waiting = set(), [self.tensor]
        while waiting:
            tensor = waiting.pop()
            found.add(tensor.name)
            waiting += [t for node in tensor.inputs for t in node.inputs if t.name not in found]
        return found


@dataclass(frozen=True)
class Split:
    """Labels that varied along several axes of a tensor, and those of the axis that absorbs the removal."""

    labels: Labels
    absorbing: Labels
    ways: int  # how many axes could absorb it


@dataclass(frozen=True)
class Permutation:
    """A chain of data movement that does nothing but reorder one axis: out = take(root, index, axis)."""

    root: str
    out: str
    axis: int
    index: NDArray[np.int64]
    split: tuple[tuple[str, NDArray[np.int64]], ...]  # the tensors on the way: (name, positions)


@dataclass(frozen=True)
class Macs:
    """The multiply-accumulates of one node: the product of the sizes of these axes."""

    node: str
    axes: tuple[tuple[str, int], ...]


class Flow:
    """The labels of every tensor of a graph, filled in by the rules of `operators`."""

    def __init__(
        self,
        graph: gs.Graph,
        shapes: dict[str, Shape],
        integers: Integers,
        static: frozenset[str],
        outward: dict[str, int],
        shrink_heads: bool = False,
    ) -> None:
        self.graph, self.shapes, self.integers = graph, shapes, integers
        self.static = static  # tensors computed from weights and constants alone
        self.shrink_heads = shrink_heads  # attention loses dimensions of every head, not heads
        self.outward = outward  # tensors where not the innermost of the split axes absorbs a removal, but one so far out
        self.equalities = Equalities()
        self.values: dict[str, Value] = {}
        self.weights: dict[str, gs.Tensor] = {}
        self.layers: list[Layer] = []
        self.permutations: list[Permutation] = []
        self.macs: list[Macs] = []
        self.settled: dict[str, Split] = {}  # by tensor
        self.over_channels: list[gs.Node] = []  # nodes that compute over removable channels
        self.zero_points: dict[str, NDArray[Any]] = {}  # of quantized weights
        self.trail: dict[str, tuple[tuple[str, NDArray[np.int64]], ...]] = {}

    def value(self, tensor: gs.Tensor) -> Value:
        """Return the labels of tensor; a weight that is looked at for the first time gets fresh ones on each axis."""
        if tensor.name not in self.values:
            self.values[tensor.name] = self._weight(tensor) if weight_values(tensor) is not None else Value()
        return self.values[tensor.name]

    def _weight(self, tensor: gs.Tensor) -> Value:
        self.weights[tensor.name] = tensor
        shape = self.shapes.get(tensor.name, ())
        return Value({axis: self.equalities.fresh(size) for axis, size in enumerate(shape) if size > 1})

    def is_static(self, tensor: gs.Tensor) -> bool:
        """Tell whether tensor is a constant or computed from constants alone."""
        return isinstance(tensor, gs.Constant) or tensor.name in self.static

    def freeze(self, tensor: gs.Tensor, reason: str, axes: Iterable[int] | None = None) -> None:
        """Record that the channels of tensor (along axes, or all) must stay."""
        self.settle(tensor)
        value = self.value(tensor)
        for axis in value.labels if axes is None else axes:
            if axis in value.labels:
                self.equalities.freeze(value.labels[axis], reason)

    def settle(self, tensor: gs.Tensor) -> None:
        """Let one axis of tensor absorb the removal of its pending labels; equal positions along the others go together."""
        value = self.value(tensor)
        pending = value.pending
        if pending is None:
            return
        labels = pending.labels[pending.positions]
        varying = [axis for axis, size in enumerate(labels.shape) if size > 1]
        absorbs = varying[-1 - self.outward.get(tensor.name, 0)]
        others = tuple(axis for axis in varying if axis != absorbs)
        first = labels[tuple(slice(0, 1) if axis in others else slice(None) for axis in range(labels.ndim))]
        self.equalities.equate(labels, first)
        self.settled[tensor.name] = Split(labels.ravel(), first.ravel(), len(varying))
        value.pending = None
        value.labels[absorbs] = first.ravel()


def weight_values(tensor: gs.Tensor) -> NDArray[Any] | None:
    """Return the values of a weight (initializer, Constant or floating-point ConstantOfShape), None for any other tensor."""
    constant = weight_constant(tensor)
    if constant is not None:
        return constant.values if holds_weights(constant) else None
    node = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    shape = weight_constant(node.inputs[0]) if node is not None and node.op == "ConstantOfShape" else None
    if node is None or shape is None:
        return None
    value = node.attrs["value"].values.reshape(-1)[0] if "value" in node.attrs else np.float32(0)
    return np.broadcast_to(value, tuple(shape.values.tolist())) if value.dtype.kind == "f" else None


def weight_constant(tensor: gs.Tensor) -> gs.Constant | None:
    """Return the constant that stores the values of tensor, if one does."""
    if isinstance(tensor, gs.Constant):
        return tensor
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        value = tensor.inputs[0].attrs.get("value")
        return value if isinstance(value, gs.Constant) else None
    return None


def holds_weights(constant: gs.Constant) -> bool:
    """Tell whether constant is a dense tensor of numbers; those of 64-bit integers are shapes and indices."""
    if isinstance(constant._values, SparseValues):
        return False
    dtype = constant.dtype  # graphsurgeon gives types that numpy lacks by their ONNX number
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)
    return dtype.name == "bfloat16" or (dtype.kind in "fiub" and dtype != np.int64)


class Op:
    """One node, as a flow rule sees it."""

    def __init__(self, flow: Flow, node: gs.Node) -> None:
        self.flow, self.node = flow, node
        self.type = node.op
        self.name = node.name or next((t.name for t in node.outputs if t.name), "")
        self.seen: set[int] = set()  # inputs whose labels the rule has looked at

    def __str__(self) -> str:
        return f"{self.type} '{self.name}'"

    @property
    def opset(self) -> int:
        """The version of ai.onnx that the model imports."""
        return int(self.flow.graph.opset or 1)

    def inputs(self) -> list[int]:
        """Return the indices of the inputs that are present."""
        return [i for i, tensor in enumerate(self.node.inputs) if tensor.name]

    def has(self, i: int) -> bool:
        """Tell whether optional input i is present."""
        return i < len(self.node.inputs) and bool(self.node.inputs[i].name)

    def is_static(self, i: int) -> bool:
        """Tell whether input i is a weight, or computed from weights alone."""
        return self.flow.is_static(self.node.inputs[i])

    def outputs(self) -> list[int]:
        """Return the indices of the outputs that are present."""
        return [o for o, tensor in enumerate(self.node.outputs) if tensor.name]

    def shape(self, i: int) -> Shape:
        """Return the shape of input i; a tensor of unknown shape is unsupported here."""
        return self._shape(self.node.inputs[i])

    def out_shape(self, o: int = 0) -> Shape:
        """Return the shape of output o."""
        return self._shape(self.node.outputs[o])

    def _shape(self, tensor: gs.Tensor) -> Shape:
        if tensor.name not in self.flow.shapes:
            raise UnsupportedError(f"the shape of '{tensor.name}' is not known")
        return self.flow.shapes[tensor.name]

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the node."""
        return self.node.attrs.get(name, default)

    def ints(self, i: int) -> NDArray[Any] | None:
        """Return the value of integer input i, None where it is absent; one computed from data is unsupported."""
        if not self.has(i):
            return None
        value = self.flow.integers.get(self.node.inputs[i])
        if value is None:
            raise UnsupportedError(f"input '{self.node.inputs[i].name}' is computed at run time")
        return value

    def along(self, i: int, *axes: int) -> list[Labels]:
        """Return the labels of input i along each of axes; all its other channels freeze."""
        self.seen.add(i)
        tensor = self.node.inputs[i]
        axes = tuple(axis % max(1, len(self.shape(i))) for axis in axes)
        self.flow.settle(tensor)
        for axis, labels in self.flow.value(tensor).labels.items():
            if axis not in axes:
                self.freeze(labels, "computes across them")
        return [self._axis(tensor, axis) for axis in axes]

    def axes(self, i: int) -> list[Labels]:
        """Return the labels of input i along all its axes, frozen ones where it carries no channels."""
        self.seen.add(i)
        tensor = self.node.inputs[i]
        self.flow.settle(tensor)
        return [self._axis(tensor, axis) for axis in range(len(self.shape(i)))]

    def _axis(self, tensor: gs.Tensor, axis: int) -> Labels:
        value = self.flow.value(tensor)
        if axis not in value.labels:
            reason = f"axis {axis} of '{tensor.name}' carries no channels"
            value.labels[axis] = self.flow.equalities.frozen(self._shape(tensor)[axis], reason)
        return value.labels[axis]

    def fresh(self, size: int) -> Labels:
        """Return labels for channels that begin here."""
        return self.flow.equalities.fresh(size)

    def equate(self, a: Labels, b: Labels) -> None:
        """Record that labels a and b live and die together."""
        self.flow.equalities.equate(a, b)

    def freeze(self, labels: Labels, why: str) -> None:
        """Record that labels must stay, because this node does what `why` says."""
        self.flow.equalities.freeze(labels, f"{self} {why}")

    def inexact(self, labels: Labels, what: str = "computes statistics over them") -> None:
        """Record that removing some of labels changes what this node makes of the others."""
        if (labels >= 0).any():
            self.flow.equalities.inexact(labels, f"{self} {what}")
            if not self.flow.over_channels or self.flow.over_channels[-1] is not self.node:
                self.flow.over_channels.append(self.node)

    def emit(self, labels: dict[int, Labels], o: int = 0) -> None:
        """Give output o these labels by axis; axes along which they are frozen for no reason of their own are left out."""
        if o < len(self.node.outputs) and self.node.outputs[o].name:
            shape = self.out_shape(o)
            for axis, along in labels.items():
                if along.size != shape[axis]:
                    raise UnsupportedError(
                        f"axis {axis} of '{self.node.outputs[o].name}' has {shape[axis]} elements, not {along.size}"
                    )
                if along.size == 1:
                    self.freeze(along, "makes a tensor with this one channel")
            self.flow.values[self.node.outputs[o].name] = Value({a: x for a, x in labels.items() if x.size > 1})

    def zero_point(self, weight: int, zero: int, axis: int = 0) -> None:
        """Enter what stands for zero in a quantized weight: the values of input `zero`, along one axis where they are many."""
        values = weight_values(self.node.inputs[zero]) if self.has(zero) else None
        if values is not None:
            shape = [-1 if a == axis % len(self.shape(weight)) else 1 for a in range(len(self.shape(weight)))]
            self.flow.zero_points[self.node.inputs[weight].name] = values.reshape(shape if values.size > 1 else ())

    def layer(self, weight: int, out: Labels, read: Labels) -> None:
        """Enter this node as a weight-bearing layer. Where the weight is no weight but computed from data, as in attention, what it
        reads freezes, unless the dimensions of heads are to be shrunk."""
        if not self.is_static(weight):
            self.contract(read)
        self.flow.layers.append(Layer(self.name, self.type, self.node.inputs[weight], out, read))

    def contract(self, summed: Labels) -> None:
        """Record that this node multiplies activations and sums over these channels."""
        if self.flow.shrink_heads:
            self.inexact(summed, "sums over them")
        else:
            self.freeze(summed, "multiplies activations along them")

    def macs(self, *axes: tuple[gs.Tensor, Sequence[int]]) -> None:
        """Enter the multiply-accumulates of this node as the product of the sizes of axes of tensors."""
        flat = tuple((tensor.name, axis) for tensor, along in axes for axis in along)
        self.flow.macs.append(Macs(self.name, flat))

    def move(self, movement: Movement, i: int = 0, o: int = 0) -> None:
        """Run a movement of data from input i to output o on the labels themselves."""
        self.seen.add(i)
        source, shape = self.node.inputs[i], self.shape(i)
        value = self.flow.value(source)
        moved: dict[int, Labels] = {}
        pending: list[Pending] = []
        for axis, labels in value.labels.items():
            positions = np.arange(labels.size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            self._land(Pending(labels, movement(positions), source.name, axis, (movement,)), moved, pending, o)
        if value.pending:
            old = value.pending
            step = Pending(old.labels, movement(old.positions), old.root, old.axis, (*old.moves, movement))
            if not self._land(step, moved, pending, o):
                self.flow.settle(source)
                self.move(movement, i, o)
                return
        self.emit(moved, o)
        self._hold(pending, o)

    def _land(self, step: Pending, moved: dict[int, Labels], pending: list[Pending], o: int) -> bool:
        """Sort one moved array of labels into those that vary along one axis and those that are pending."""
        if (step.labels < 0).all():  # frozen from the start: the reason goes along
            moved.update({a: np.resize(step.labels, n) for a, n in enumerate(step.positions.shape) if n > 1 and a not in moved})
            return True
        positions = constant_axes_dropped(step.positions, step.labels)
        varying = [axis for axis, size in enumerate(positions.shape) if size > 1]
        labels = step.labels[positions]
        if len(varying) > 1:
            pending.append(Pending(step.labels, positions, step.root, step.axis, step.moves))
        elif not varying:
            self.freeze(labels.ravel(), "moves them in a way that cannot be followed")
        elif len(step.moves) > 1 and not self._is_permutation(step, varying[0], positions.ravel(), o):
            return False
        elif varying[0] in moved and not (moved[varying[0]] < 0).all():
            self.freeze(moved[varying[0]], "merges two kinds of channels into one axis")
            self.freeze(labels.ravel(), "merges two kinds of channels into one axis")
        else:
            moved[varying[0]] = labels.ravel()
        return True

    def _is_permutation(self, step: Pending, axis: int, index: NDArray[np.int64], o: int) -> bool:
        """Enter the moves of step as a permutation of one axis, if that is all they are."""
        shape, out = self.flow.shapes[step.root], self.out_shape(o)
        if axis != step.axis or len(shape) != len(out) or index.size != out[axis]:
            return False
        whole = np.arange(math.prod(shape)).reshape(shape)
        moved = whole
        for movement in step.moves:
            moved = movement(moved)
        if not np.array_equal(moved, np.take(whole, index, axis)):
            return False
        trail = self.flow.trail[self.node.inputs[0].name]
        self.flow.permutations.append(Permutation(step.root, self.node.outputs[o].name, axis, index, trail))
        return True

    def _hold(self, pending: list[Pending], o: int) -> None:
        name = self.node.outputs[o].name
        if len(pending) > 1:
            for step in pending:
                self.freeze(step.labels, "splits two kinds of channels at once")
        elif pending:
            self.flow.values[name].pending = pending[0]
            before = self.flow.trail.get(self.node.inputs[0].name, ()) if len(pending[0].moves) > 1 else ()
            self.flow.trail[name] = (*before, (name, pending[0].positions))


def constant_axes_dropped(positions: NDArray[np.int64], labels: Labels) -> NDArray[np.int64]:
    """Shrink to size 1 the axes along which labels[positions] does not vary."""
    for axis, size in enumerate(positions.shape):
        first = positions.take([0], axis)
        if size > 1 and (labels[positions] == labels[first]).all():
            positions = first
    return positions


class UnsupportedError(Exception):
    """A rule cannot follow this node; what it touches freezes, with this reason."""
