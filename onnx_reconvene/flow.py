"""One run of all flow rules over a graph: which channel of which tensor is equal to which.

A `Value` holds, for one tensor, the labels along each axis that carries channels; an axis without labels is frozen. A Reshape
that splits a labelled axis in two (channel shuffle, heads) leaves the labels *pending*: they vary along two axes at once. Where
later movement merges them again they are one axis of labels in another order, and nothing was lost; any other operator
settles them first: one of the two axes absorbs the removal, equal positions along the other go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.labels import Equalities, Labels, all_frozen
from onnx_reconvene.process import memory
from onnx_reconvene.shapes import Integers, Shape, dtype_of

Movement = Callable[[NDArray[Any]], NDArray[Any]]
MOST = 2**24  # positions along an axis that are followed one by one where no weight lies along it
NO_CHANNELS = "counts positions, not channels"  # of an axis


@dataclass(frozen=True)
class Pending:
    """Labels that vary along several axes: `labels[positions]`, moved by `moves` since they left axis `axis` of tensor `root`."""

    labels: Labels
    positions: NDArray[np.int64]  # broadcastable to the tensor's shape
    root: str
    axis: int
    moves: tuple[Movement, ...]
    blocks: Labels | None = None  # [blocks, labels of one], where a node has computed on each block since

    @property
    def axes(self) -> list[int]:
        """The axes along which the labels vary."""
        return [axis for axis, size in enumerate(self.positions.shape) if size > 1]

    @property
    def spread(self) -> Labels:
        """The labels, broadcastable to the tensor's shape."""
        return self.labels[self.positions]

    @property
    def varying(self) -> NDArray[np.int64]:
        """The positions, of size 1 along all axes along which the labels do not vary."""
        positions = self.positions
        for axis, size in enumerate(positions.shape):
            first = positions.take([0], axis)
            if size > 1 and (self.labels[positions] == self.labels[first]).all():
                positions = first
        return positions

    def as_blocks(self) -> Labels | None:
        """Return labels that vary along two axes as [blocks, labels of one], each label once; None where they are otherwise."""
        spread = self.spread
        if sum(size > 1 for size in spread.shape) != 2:
            return None
        table = spread.reshape([size for size in spread.shape if size > 1])
        _, first, index = np.unique(table[0], return_index=True, return_inverse=True)
        blocks = table[:, np.sort(first)]
        same = np.array_equal(table, blocks[:, np.argsort(np.argsort(first))[index]])
        return blocks if same and blocks.min() >= 0 and np.unique(blocks).size == blocks.size else None


@dataclass
class Value:
    """The channel labels of one tensor: settled ones by axis, and pending ones."""

    labels: dict[int, Labels] = field(default_factory=dict)
    pending: Pending | None = None

    def is_pending(self, axis: int) -> bool:
        """Return True if pending labels vary along an axis that has no free ones of its own."""
        own, pending = self.labels.get(axis), self.pending
        if pending is None or axis not in (pending.axes if pending.blocks is None else pending.axes[1:]):
            return False
        return own is None or all_frozen(own)

    def over(self, axis: int) -> Labels | None:
        """Return the labels along an axis, of pending ones those at the first place on all others; None if there are none."""
        if self.pending is None or not self.is_pending(axis):
            return self.labels.get(axis)
        return self.pending.spread[tuple(slice(None) if a == axis else 0 for a in range(self.pending.positions.ndim))]

    def by_axis(self) -> dict[int, Labels]:
        """Return the labels along all axes that carry any."""
        axes = set(self.labels) | set(range(self.pending.positions.ndim) if self.pending else ())
        return {axis: labels for axis in axes if (labels := self.over(axis)) is not None}


def is_left_out(labels: Labels) -> bool:
    """Return True if an axis carries no labels as they would only say that it is frozen, at many positions."""
    return labels.size > MOST and all_frozen(labels)


def along(axis: int, rank: int) -> list[int]:
    """Return the shape of labels along one axis of a tensor of this rank, for reshape."""
    return [-1 if a == axis else 1 for a in range(rank)]


@dataclass(frozen=True)
class Layer:
    """A weight-bearing node: its weight and the labels of the channels that it makes and reads."""

    node: str  # its first output
    op: str
    tensor: gs.Tensor
    stored: bool  # not computed from data
    out: Labels
    read: Labels

    @property
    def weight(self) -> str:
        """The name of the weight."""
        return str(self.tensor.name)

    @property
    def sources(self) -> set[str]:
        """The names of the constants that the weight is moved from, itself among them; none where it is computed from data."""
        return moved_from(self.tensor) if self.stored else set()


def moved_from(tensor: gs.Tensor, until: Collection[str] = ()) -> set[str]:
    """Return the names of the tensors that a tensor computed from constants is computed from, itself among them.

    until: operators behind which there is no further look.
    """
    names, waiting = set(), [tensor]
    while waiting:
        tensor = waiting.pop()
        names.add(tensor.name)
        waiting += [t for node in tensor.inputs if node.op not in until for t in node.inputs if t.name not in names]
    return names


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
    """The multiply-accumulates of one node: the product of the sizes of these axes, in each step of the loop that it is in."""

    node: str  # its first output
    axes: tuple[tuple[str, int], ...]
    steps: int = 1  # how often it runs


@dataclass(frozen=True)
class Quantized:
    """What a quantized weight stands for: (value - zero) * scale, both broadcastable to it.

    Where each byte packs several values of so many bits, the first in its lowest bits, they lie along the last axis.
    """

    zero: NDArray[Any]
    scale: NDArray[Any]
    bits: int = 0

    def real(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the numbers that values stand for."""
        if self.bits:
            shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
            values = (values[..., None] >> shifts & (1 << self.bits) - 1).reshape(*values.shape[:-1], -1)
        return np.asarray((values.astype(np.float32) - self.zero.astype(np.float32)) * self.scale.astype(np.float32), np.float32)

    @property
    def stored_zero(self) -> NDArray[Any]:
        """What stands for zero in the weight as it is stored."""
        return np.asarray(sum(self.zero << shift for shift in range(0, 8, self.bits))) if self.bits else self.zero


class Flow:
    """The labels of every tensor of a graph, filled in by the rules of `operators`."""

    def __init__(
        self,
        graph: gs.Graph,
        shapes: dict[str, Shape],
        integers: Integers,
        static: frozenset[str],
        results: frozenset[str],
        outward: dict[str, int],
        names: Mapping[str, str],
        shrink_heads: bool = False,
    ) -> None:
        self.graph, self.shapes, self.integers = graph, shapes, integers
        self.names = names  # of nodes, by their first output
        self.static = static  # tensors computed from weights and constants alone
        self.shrink_heads = shrink_heads  # attention loses dimensions of every head, not heads
        self.outward = outward  # tensors where not the innermost of the split axes absorbs a removal, but one so far out
        self.results = results  # names of the outputs of the graph and of the bodies in it
        self.equalities = Equalities()
        self.values: dict[str, Value] = {}
        self.weights: dict[str, gs.Tensor] = {}
        self.layers: list[Layer] = []
        self.permutations: list[Permutation] = []
        self.macs: list[Macs] = []
        self.assumed: Mapping[str, Collection[int]] = {}  # by tensor, the axes whose sizes are assumed
        self.accepted: Mapping[str, Shape] = {}  # shapes of tensors with sizes that count though they are assumed
        self.proven = True  # all shapes follow from those of the graph inputs
        self.steps = 1  # of the loops that the node at hand is in
        self.stepping: dict[str, str] = {}  # loops (first outputs) of an unknown number of steps, and their types
        self.unruled: dict[str, str] = {}  # nodes (first outputs) that no rule knows and that read weights, and their types
        self.uncounted: dict[str, str] = {}  # layers (first outputs) of unknown multiply-accumulates, and why
        self.settled: dict[str, Split] = {}  # by tensor
        self.copies: list[Labels] = []  # channels that are copies of one element
        self.preferred: list[Labels] = []  # those for which others froze, with which they share an axis
        self.reduced: list[Labels] = []  # those that some reduction runs over
        self.over_channels: dict[int, tuple[gs.Node, list[Labels]]] = {}  # nodes that compute over channels, and over which
        self.quantized: dict[str, Quantized] = {}  # weights
        self.trail: dict[str, tuple[tuple[str, NDArray[np.int64]], ...]] = {}

    def zero_of(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return what stands for zero in a weight of this type."""
        return self.quantized[name].stored_zero if name in self.quantized else np.zeros((), dtype)

    def value(self, tensor: gs.Tensor) -> Value:
        """Return the labels of tensor; a weight that is looked at for the first time gets fresh ones on each axis."""
        if tensor.name not in self.values:
            self.values[tensor.name] = self._weight(tensor) if is_weight(tensor) else Value()
        return self.values[tensor.name]

    def _weight(self, tensor: gs.Tensor) -> Value:
        self.weights[tensor.name] = tensor
        shape = self.shapes.get(tensor.name, ())
        return Value({axis: self.equalities.fresh(size) for axis, size in enumerate(shape) if size > 1})

    def is_static(self, tensor: gs.Tensor) -> bool:
        """Return True if tensor is a constant or computed from constants alone."""
        return isinstance(tensor, gs.Constant) or tensor.name in self.static

    def freeze(self, tensor: gs.Tensor, reason: str, axes: Iterable[int] | None = None) -> None:
        """Record that the channels of tensor (along axes, or all) must stay."""
        self.settle(tensor)
        value = self.value(tensor)
        for axis in value.labels if axes is None else axes:
            if axis in value.labels:
                self.equalities.freeze(value.labels[axis], reason)

    def frozen_value(self, name: str, reason: str) -> Value:
        """Return the labels of a tensor none of whose channels can be removed."""
        shape = self.shapes.get(name, ())
        labels = {axis: self.equalities.frozen(size, reason) for axis, size in enumerate(shape) if size > 1}
        return Value({axis: along for axis, along in labels.items() if not is_left_out(along)})

    def settle(self, tensor: gs.Tensor) -> None:
        """Let one axis of tensor absorb the removal of its pending labels; equal positions along the others go together."""
        value = self.value(tensor)
        pending = value.pending
        if pending is None:
            return
        labels = pending.spread
        varying = [axis for axis, size in enumerate(labels.shape) if size > 1]
        absorbs = varying[-1 - self.outward.get(tensor.name, 0)]
        others = tuple(axis for axis in varying if axis != absorbs)
        first = labels[tuple(slice(0, 1) if axis in others else slice(None) for axis in range(labels.ndim))]
        self.equalities.equate(labels, first)
        unit = np.zeros(pending.labels.size, np.int64)
        unit[pending.positions] = np.arange(first.size).reshape(first.shape)
        for name, positions in self.trail.get(tensor.name, ()):
            if sum(not (unit[positions] == unit[positions].take([0], axis)).all() for axis in range(positions.ndim)) > 1:
                self.equalities.freeze(labels, f"'{name}' and '{tensor.name}' are shaped in ways that do not go together")
        self.settled[tensor.name] = Split(labels.ravel(), first.ravel(), len(varying))
        value.pending = None
        there = value.labels.get(absorbs)
        if there is not None and not all_frozen(there):
            for both in (there, first.ravel()):
                self.equalities.freeze(both, f"two kinds of channels share axis {absorbs} of '{tensor.name}'")
        value.labels[absorbs] = first.ravel()


def is_weight(tensor: gs.Tensor) -> bool:
    """Return True for what `weight_values` returns the values of; looks at none that are stored."""
    constant = weight_constant(tensor)
    return holds_weights(constant) if constant is not None else weight_values(tensor) is not None


def weight_values(tensor: gs.Tensor) -> NDArray[Any] | None:
    """Return the values of a weight (initializer, Constant or floating-point ConstantOfShape), None for any other tensor."""
    constant = weight_constant(tensor)
    if constant is not None:
        return constant.values if holds_weights(constant) else None
    node = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    shape = weight_constant(node.inputs[0]) if node is not None and node.op == "ConstantOfShape" else None
    sizes = shape.values.tolist() if shape is not None else _plain_ints(node)
    if node is None or sizes is None or math.prod(sizes) > memory() // 64:  # nothing is stored of it, but its values are computed
        return None
    value = node.attrs["value"].values.reshape(-1)[0] if "value" in node.attrs else np.float32(0)
    return np.broadcast_to(value, tuple(sizes)) if value.dtype.kind == "f" else None


def _plain_ints(node: gs.Node | None) -> list[int] | None:
    """Return the shape that a ConstantOfShape node gets from a Constant<value_ints>."""
    makers = node.inputs[0].inputs if node is not None and node.op == "ConstantOfShape" else []
    return makers[0].attrs.get("value_ints") if makers and makers[0].op == "Constant" else None


def weight_constant(tensor: gs.Tensor) -> gs.Constant | None:
    """Return the constant that stores the values of tensor, if one does."""
    if isinstance(tensor, gs.Constant):
        return tensor
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        value = tensor.inputs[0].attrs.get("value")
        return value if isinstance(value, gs.Constant) else None
    return None


def holds_weights(constant: gs.Constant) -> bool:
    """Return True if constant holds numbers that may be weights; 64-bit integers are shapes and indices."""
    dtype = dtype_of(constant)
    return dtype.name == "bfloat16" or (dtype.kind in "fiub" and dtype != np.int64)


class UnsupportedError(Exception):
    """A rule cannot follow this node; what it touches freezes, with this reason."""
