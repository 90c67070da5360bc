"""One node, as a flow rule sees it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.flow import (
    NO_CHANNELS,
    Flow,
    Layer,
    Macs,
    Movement,
    Pending,
    Permutation,
    Quantized,
    UnsupportedError,
    Value,
    is_left_out,
    is_weight,
    moved_from,
    weight_values,
)
from onnx_reconvene.inference import has_free_sizes
from onnx_reconvene.labels import Labels, all_frozen
from onnx_reconvene.names import first_output
from onnx_reconvene.shapes import Shape
from onnx_reconvene.twins import ABSENT, Operands

CONVERSIONS = ("Cast", "DequantizeLinear", "QuantizeLinear")  # after which the same numbers are stored in another way


class Op:
    """One node, as a flow rule sees it; the rule of a plain operator sees its operands in place of the inputs."""

    def __init__(self, flow: Flow, node: gs.Node) -> None:
        self.flow, self.node = flow, node
        self.type = node.op
        self.output = first_output(node)  # what the node is known by
        self.operands = Operands(tuple(range(len(node.inputs))))
        self.is_quantized = False  # so that zeros stand for other numbers
        self.seen: set[int] = set()  # inputs of the node whose labels the rule has looked at

    def __str__(self) -> str:
        return f"{self.node.op} '{self.flow.names[self.output]}'"

    def as_plain(self, plain: str, operands: Operands, is_quantized: bool) -> Op:
        """Return this node as the rule of a plain operator sees it."""
        view = copy.copy(self)
        view.type, view.operands, view.is_quantized = plain, operands, is_quantized
        return view

    @property
    def opset(self) -> int:
        """The version of ai.onnx that the model imports, or whose operator the node says that it follows."""
        return int(self.attr("opset") or self.flow.graph.opset or 1)

    def tensor(self, i: int) -> gs.Tensor:
        """Return input i, an empty one where it is absent."""
        index = self.operands.inputs[i] if i < len(self.operands.inputs) else ABSENT
        return self.node.inputs[index] if 0 <= index < len(self.node.inputs) else gs.Variable.empty()

    def inputs(self) -> list[int]:
        """Return the indices of the inputs that are present."""
        return [i for i in range(len(self.operands.inputs)) if self.has(i)]

    def has(self, i: int) -> bool:
        """Return True if optional input i is present."""
        return bool(self.tensor(i).name)

    def is_static(self, i: int) -> bool:
        """Return True if input i is a weight, or computed from weights alone."""
        return self.flow.is_static(self.tensor(i))

    def outputs(self) -> list[int]:
        """Return the indices of the outputs that are present."""
        return [o for o, tensor in enumerate(self.node.outputs) if tensor.name]

    def is_read(self, o: int) -> bool:
        """Return True if something reads output o, or the graph returns it."""
        tensor = self.node.outputs[o]
        return bool(tensor.outputs) or tensor.name in self.flow.results

    def shape(self, i: int) -> Shape:
        """Return the shape of input i; a tensor of unknown shape is unsupported here."""
        shape = self._shape(self.tensor(i))
        return tuple(shape[self.operands.axis(i, axis, len(shape))] for axis in range(len(shape)))

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
        value = self.flow.integers.get(self.tensor(i))
        if value is None:
            raise UnsupportedError(f"input '{self.tensor(i).name}' is computed at run time")
        return value

    def fixed(self, i: int) -> NDArray[Any] | None:
        """Return the value of integer input i, None where it is data or could be another at other sizes of the graph inputs."""
        tensor = self.tensor(i)
        integers = self.flow.integers
        if integers.varies(tensor.name) or (tensor.name in integers.of_shapes and has_free_sizes(self.flow.graph)):
            return None
        return self.flow.integers.get(tensor)

    def along(self, i: int, *axes: int) -> list[Labels]:
        """Return the labels of input i along each of axes; all its other channels freeze."""
        self.ignore(i)
        tensor = self.tensor(i)
        axes = tuple(self.operands.axis(i, axis, len(self.shape(i))) for axis in axes)
        self.flow.settle(tensor)
        for axis, labels in self.flow.value(tensor).labels.items():
            if axis not in axes:
                self.freeze(labels, "computes across them")
        return [self._axis(tensor, axis) for axis in axes]

    def axes(self, i: int) -> list[Labels]:
        """Return the labels of input i along all its axes, frozen ones where it carries no channels."""
        self.ignore(i)
        labels = self.axes_of(self.tensor(i))
        return [labels[self.operands.axis(i, axis, len(labels))] for axis in range(len(labels))]

    def axes_of(self, tensor: gs.Tensor) -> list[Labels]:
        """Return the labels of a tensor, in a body perhaps, along all its axes."""
        self.flow.settle(tensor)
        return [self._axis(tensor, axis) for axis in range(len(self._shape(tensor)))]

    def _axis(self, tensor: gs.Tensor, axis: int) -> Labels:
        value = self.flow.value(tensor)
        if axis not in value.labels:
            reason = f"axis {axis} of '{tensor.name}' {NO_CHANNELS}"
            frozen = self.flow.equalities.frozen(self._shape(tensor)[axis], reason)
            if is_left_out(frozen):
                return frozen
            value.labels[axis] = frozen
        return value.labels[axis]

    def fresh(self, size: int) -> Labels:
        """Return labels for channels that begin here."""
        return self.flow.equalities.fresh(size)

    def copies(self, size: int) -> Labels:
        """Return labels for copies of one element, made here."""
        self.flow.copies.append(self.fresh(size))
        return self.flow.copies[-1]

    def ignore(self, i: int) -> None:
        """Say that the elements of input i do not matter, or that their labels have been looked at."""
        self.seen.add(self.operands.inputs[i])

    def equate(self, a: Labels, b: Labels) -> None:
        """Record that labels a and b live and die together."""
        self.flow.equalities.equate(a, b)

    def balance(self, blocks: Labels) -> None:
        """Record that of the channels of each block, [blocks, channels of one], as many must stay."""
        self.flow.equalities.balance(blocks)

    def blocks(self, i: int) -> tuple[Labels, list[int]] | None:
        """Return labels of input i that vary along two axes, as [blocks, labels of one], and these axes; None where there are none
        or where they are no blocks. A rule that takes them lets each block lose channels of its own."""
        tensor = self.tensor(i)
        pending = self.flow.value(tensor).pending
        blocks = pending.as_blocks() if pending is not None and not self.flow.outward.get(tensor.name) else None
        if pending is None or blocks is None:
            return None
        axes = [self.operands.axis(i, axis, pending.positions.ndim) for axis in pending.axes]
        return (blocks, axes) if axes == sorted(axes) else None

    def take_blocks(self, i: int) -> Labels:
        """Return the blocks of input i, of which now each may lose channels of its own; channels along other axes freeze."""
        table = self.blocks(i)
        assert table is not None
        blocks, axes = table
        self.ignore(i)
        self.balance(blocks)
        for axis, labels in self.flow.value(self.tensor(i)).labels.items():
            if self.operands.axis(i, axis, len(self.shape(i))) not in axes:
                self.freeze(labels, "computes across them")
        return blocks

    def pass_blocks(self, i: int, o: int = 0) -> Labels:
        """Take the blocks of input i and pass them on to output o, along the same axes."""
        blocks, pending = self.take_blocks(i), self.flow.value(self.tensor(i)).pending
        assert pending is not None
        name = self.node.outputs[o].name
        self.flow.values[name] = Value({}, replace(pending, root=name, moves=(), blocks=blocks))
        self.flow.trail[name] = ((name, pending.positions),)
        return blocks

    def apart(self, i: int, blocks: int) -> Labels | None:
        """Let each of some blocks along axis 0 of weight i have channels of its own along axis 1; returns labels for those of all
        blocks in a row. None where the weight does not belong to this node alone."""
        tensor = self.tensor(i)
        if not is_weight(tensor) or len(tensor.outputs) > 1 or tensor in self.flow.graph.outputs:
            return None
        rows, size, *rest = self.shape(i)
        labels = self.fresh(blocks * size)
        first = np.repeat(np.arange(blocks) * size, rows // blocks)
        positions = (first[:, None] + np.arange(size)).reshape(rows, size, *[1] * len(rest))
        value = self.flow.value(tensor)
        value.labels.pop(1, None)
        value.pending = Pending(labels, positions, tensor.name, 1, ())
        return labels

    def freeze(self, labels: Labels, why: str) -> None:
        """Record that labels must stay, because this node does what `why` says."""
        self.flow.equalities.freeze(labels, f"{self} {why}")

    def inexact(self, labels: Labels, what: str = "computes statistics over them") -> None:
        """Record that removing some of labels changes what this node makes of the others."""
        if not all_frozen(labels):
            self.flow.equalities.inexact(labels, f"{self} {what}")
            self.flow.over_channels.setdefault(id(self.node), (self.node, []))[1].append(labels.ravel())

    def emit(self, labels: dict[int, Labels], o: int = 0) -> None:
        """Give output o these labels by axis; axes along which they are frozen for no reason of their own are left out."""
        if o < len(self.node.outputs) and self.node.outputs[o].name:
            self.put(self.node.outputs[o], labels)

    def put(self, tensor: gs.Tensor, labels: dict[int, Labels]) -> None:
        """Give a tensor, an input of a body perhaps, these labels by axis."""
        shape = self._shape(tensor)
        for axis, along in labels.items():
            if along.size != shape[axis]:
                raise UnsupportedError(f"axis {axis} of '{tensor.name}' has {shape[axis]} elements, not {along.size}")
            if along.size and along[0] == along[-1] and not all_frozen(along) and (along == along[0]).all():
                self.freeze(along[:1], "makes a tensor with this one channel")
        self.flow.values[tensor.name] = Value({a: x for a, x in labels.items() if x.size > 1 and not is_left_out(x)})

    def stop(self, tensor: gs.Tensor, why: str) -> None:
        """Freeze all channels of a tensor, which has labels already or gets frozen ones, because of this node."""
        if tensor.name in self.flow.values or self.flow.is_static(tensor):
            self.flow.freeze(tensor, f"{self}: {why}")
        else:
            self.flow.values[tensor.name] = self.flow.frozen_value(tensor.name, f"{self}: {why}")

    def quantized(self, i: int, scale: int, zero: int, axes: Sequence[int]) -> None:
        """Enter what a quantized weight, input i, stands for, given the inputs with its scale and zero point (or ABSENT): numbers,
        or arrays along these axes of it. What it is moved from stands for the same, where these are numbers."""
        tensor = self.node.inputs[i]
        values = weight_values(tensor)
        if values is None and not self.flow.is_static(tensor):
            return

        def parameter(index: int, default: np.generic) -> NDArray[Any]:
            array = weight_values(self.node.inputs[index]) if 0 <= index < len(self.node.inputs) else None
            if array is None or array.size == 1:
                return np.asarray(default if array is None else array.reshape(()))
            shape = [1] * len(self.flow.shapes[tensor.name])
            for axis, size in zip(axes, array.shape, strict=True):
                shape[axis] = size
            return array.reshape(shape)

        nothing = np.uint8(0) if values is None else values.dtype.type(0)
        meaning = Quantized(parameter(zero, nothing), parameter(scale, np.float32(1)))
        if values is not None:
            self.flow.quantized[tensor.name] = meaning
        elif meaning.zero.size == meaning.scale.size == 1:
            self.flow.quantized.update(dict.fromkeys(moved_from(tensor, CONVERSIONS), meaning))

    def layer(self, weight: int, out: Labels, read: Labels) -> None:
        """Enter this node as a weight-bearing layer. Where the weight is no weight but computed from data, what it reads
        freezes in attention, unless the dimensions of heads are to be shrunk."""
        if is_left_out(out) or is_left_out(read):
            raise UnsupportedError(f"'{self.tensor(weight).name}' has more channels than can be followed")
        if not self.is_static(weight):
            self.contract(read, of_heads="Conv" not in self.type or int(self.attr("group", 1)) > 1)
        self.flow.layers.append(Layer(self.output, self.type, self.tensor(weight), self.is_static(weight), out, read))

    def contract(self, summed: Labels, of_heads: bool = True) -> None:
        """Record that this node multiplies activations and sums over these channels."""
        if self.flow.shrink_heads or not of_heads:
            self.inexact(summed, "sums over them")
        else:
            self.freeze(summed, "multiplies queries and keys (or other activations) along them")

    def macs(self, inputs: Mapping[int, Iterable[int]], out: Iterable[int] = ()) -> None:
        """Enter the multiply-accumulates of this node as the product of the sizes of axes of inputs and of the output."""
        along = [(self.tensor(i).name, self.operands.axis(i, a, len(self.shape(i)))) for i, axes in inputs.items() for a in axes]
        self.flow.macs.append(Macs(self.output, (*along, *((self.node.outputs[0].name, axis) for axis in out)), self.flow.steps))

    def move(self, movement: Movement, i: int = 0, o: int = 0) -> None:
        """Run a movement of data from input i to output o on the labels themselves."""
        self.ignore(i)
        source, shape = self.tensor(i), self.shape(i)
        value = self.flow.value(source)
        moved: dict[int, Labels] = {}
        pending: list[Pending] = []
        for axis, labels in value.labels.items():
            if is_left_out(labels):
                continue
            positions = np.arange(labels.size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            self._land(Pending(labels, movement(positions), source.name, axis, (movement,)), moved, pending, o)
        if value.pending:
            old = value.pending
            step = Pending(old.labels, movement(old.positions), old.root, old.axis, (*old.moves, movement), old.blocks)
            if not self._land(step, moved, pending, o):
                self.flow.settle(source)
                self.move(movement, i, o)
                return
        self.emit(moved, o)
        self._hold(pending, o)

    def _land(self, step: Pending, moved: dict[int, Labels], pending: list[Pending], o: int) -> bool:
        """Sort one moved array of labels into those that vary along one axis and those that are pending."""
        if all_frozen(step.labels):  # frozen from the start: the reason goes along
            moved.update({a: np.resize(step.labels, n) for a, n in enumerate(step.positions.shape) if n > 1 and a not in moved})
            return True
        positions = step.varying
        varying = [axis for axis, size in enumerate(positions.shape) if size > 1]
        labels = step.labels[positions]
        if len(varying) > 1:
            pending.append(replace(step, positions=positions))
        elif not varying:
            self.freeze(labels.ravel(), "moves them in a way that cannot be followed")
        elif not self._may_land(step, varying[0], positions.ravel(), o):
            return False
        elif varying[0] in moved and not all_frozen(moved[varying[0]]):
            fewer, more = sorted((moved[varying[0]], labels.ravel()), key=self._matter)
            self.freeze(fewer, "merges two kinds of channels into one axis")
            self.flow.preferred.append(more)
            moved[varying[0]] = more
        else:
            moved[varying[0]] = labels.ravel()
        return True

    def _may_land(self, step: Pending, axis: int, index: NDArray[np.int64], o: int) -> bool:
        """Return True if pending labels that came to vary along one axis again are in an order that any cut leaves as it is."""
        if step.blocks is not None:
            return _block_by_block(step.labels[index], step.blocks)
        return len(step.moves) == 1 or self._is_permutation(step, axis, index, o)

    def _matter(self, labels: Labels) -> tuple[bool, int]:
        """Return what says which of two kinds of channels is worth more: one that is no copy, then one of which there are more."""
        copies = np.concatenate([np.empty(0, np.int64), *self.flow.copies])
        return not np.isin(labels, copies).all(), np.unique(labels).size

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
        trail = self.flow.trail[self.tensor(0).name]
        self.flow.permutations.append(Permutation(step.root, self.node.outputs[o].name, axis, index, trail))
        return True

    def _hold(self, pending: list[Pending], o: int) -> None:
        name = self.node.outputs[o].name
        if len(pending) > 1:
            pending.sort(key=lambda step: self._matter(step.labels))
        for step in pending[:-1]:
            self.freeze(step.labels, "splits two kinds of channels at once")
        for step in pending[-1:]:
            value = self.flow.values[name]
            for axis in step.axes:
                self.freeze(value.labels.pop(axis, np.empty(0, np.int64)), "merges two kinds of channels into one axis")
            value.pending = step
            before = self.flow.trail.get(self.tensor(0).name, ()) if len(step.moves) > 1 else ()
            self.flow.trail[name] = (*before, (name, step.positions))


def _block_by_block(labels: Labels, blocks: Labels) -> bool:
    """Return True if labels list one block after the other, each in its own order."""
    if labels.size != blocks.size:
        return False
    rows = labels.reshape(blocks.shape)
    return np.array_equal(rows[np.argsort(rows[:, 0])], blocks[np.argsort(blocks[:, 0])])
