"""A cut in progress, and one of its nodes as a follow rule sees it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.flow import Value, weight_constant
from onnx_reconvene.graph import every_graph, every_tensor
from onnx_reconvene.groups import Analysis
from onnx_reconvene.inference import has_free_sizes
from onnx_reconvene.labels import Labels
from onnx_reconvene.shapes import Integers, Shape
from onnx_reconvene.twins import Operands

Mask = NDArray[np.bool_]
LARGEST = 2**31 - 1  # of sizes whose products fit in 64 bits; ends of a Slice that are beyond any axis start here


class Cutting:
    """A cut in progress: the masks, and the values that integer tensors will have in the smaller network."""

    def __init__(self, analysis: Analysis, keep: Mask) -> None:
        self.analysis, self.graph = analysis, analysis.graph
        self.keep = keep
        self.integers = Integers(self.graph.opset or 1)
        for name, value in self.graph.input_values.items():
            self.integers.assume(name, value)
        self._names = set(every_tensor(analysis.graph))
        graphs = list(every_graph(analysis.graph))
        self.shared = {t.name for graph in graphs for t in graph.outputs}  # read by others than nodes
        self.home = {id(node): graph for graph in graphs for node in graph.nodes}  # by id(node)
        self.done: set[int] = set()  # ids of nodes whose integers are right already
        self._shapes: dict[str, Shape | None] = {}
        self._block = analysis.solution.block_of_label

    def kept(self, labels: Labels) -> Mask:
        """Return which of labels stay."""
        return self.analysis.stays(labels, self.keep)

    def kept_along(self, name: str, axis: int) -> Mask:
        """Return which positions along an axis of a tensor stay."""
        value = self.analysis.flow.values.get(name, Value())
        if value.pending is not None and value.is_pending(axis):
            return self._kept_pending(value.pending.spread, axis)
        if axis in value.labels:
            return self.kept(value.labels[axis])
        return np.ones(self.analysis.shapes[name][axis], bool)

    def _kept_pending(self, labels: Labels, axis: int) -> Mask:
        """Return which positions along an axis stay of labels that vary along several: of blocks that lose channels of their own
        what stays in the first stands for all."""
        kept, block = self.kept(labels), self._block[np.maximum(labels, -1)]
        within = (block >= 0).all() and (block == block.take([0], axis)).all()
        if within and not rectangular(kept):
            return np.asarray(kept[tuple(slice(None) if a == axis else 0 for a in range(kept.ndim))])
        return np.asarray(kept.any(tuple(a for a in range(kept.ndim) if a != axis)))

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a tensor in the smaller network, None where it has none."""
        if name not in self._shapes:
            self._shapes[name] = self._shape(name)
        return self._shapes[name]

    def _shape(self, name: str) -> Shape | None:
        old = self.analysis.shapes.get(name)
        value = self.analysis.flow.values.get(name, Value())
        if old is None or not (value.labels or value.pending):
            return old
        bears = value.by_axis()
        return tuple(int(self.kept_along(name, axis).sum()) if axis in bears else size for axis, size in enumerate(old))

    def constant(self, owner: str, role: str, values: Sequence[int] | NDArray[Any]) -> gs.Constant:
        """Return a new integer constant, named after the tensor it serves."""
        return gs.Constant(self._name(owner, role), np.asarray(values))

    def variable(self, like: gs.Tensor, role: str) -> gs.Variable:
        """Return a new tensor of the type of another, and named after it."""
        return gs.Variable(self._name(like.name, role), like.dtype, like.shape)

    def _name(self, owner: str, role: str) -> str:
        name, again = f"{owner}_{role}", 1
        while name in self._names:
            again += 1
            name = f"{owner}_{role}_{again}"
        self._names.add(name)
        return name


class CutOp:
    """One node of a graph that is being cut, as a follow rule sees it; that of a plain operator sees its operands as inputs."""

    def __init__(self, cutting: Cutting, node: gs.Node) -> None:
        self.cutting, self.node = cutting, node
        self.opset = int(cutting.graph.opset or 1)
        self.operands = Operands(tuple(range(len(node.inputs))))
        self._handled: set[int] = set()

    def as_plain(self, operands: Operands) -> CutOp:
        """Return this node as the rule of a plain operator sees it."""
        view = copy.copy(self)
        view.operands = operands
        return view

    def _name(self, i: int) -> str:
        return str(self.node.inputs[self.operands.inputs[i]].name)

    @property
    def touched(self) -> bool:
        """Whether any tensor at this node loses channels."""
        shapes = self.cutting.analysis.shapes
        return any(self.cutting.shape(t.name) != shapes.get(t.name) for t in [*self.node.inputs, *self.node.outputs])

    def kept(self, i: int, axis: int) -> Mask:
        """Return which positions along an axis of input i stay."""
        return self.cutting.kept_along(self._name(i), self.operands.axis(i, axis, len(self.old_shape(i))))

    def kept_out(self, o: int, axis: int) -> Mask:
        """Return which positions along an axis of output o stay."""
        return self.cutting.kept_along(self.node.outputs[o].name, axis)

    def old_shape(self, i: int) -> Shape:
        """Return the shape of input i before the cut."""
        return self._turned(i, self.cutting.analysis.shapes[self._name(i)])

    def new_shape(self, i: int) -> Shape:
        """Return the shape of input i after the cut."""
        shape = self.cutting.shape(self._name(i))
        assert shape is not None
        return self._turned(i, shape)

    def _turned(self, i: int, shape: Shape) -> Shape:
        return tuple(shape[self.operands.axis(i, axis, len(shape))] for axis in range(len(shape)))

    def out_shape(self, o: int) -> Shape:
        """Return the shape of output o after the cut."""
        shape = self.cutting.shape(self.node.outputs[o].name)
        assert shape is not None
        return shape

    def old_ints(self, i: int) -> NDArray[Any] | None:
        """Return the value of integer input i before the cut."""
        return self.cutting.analysis.integers.get(self.node.inputs[i]) if self.node.inputs[i].name else None

    def ints(self, i: int) -> list[int]:
        """Return what integer input i comes to after the cut, if nothing is done about it."""
        self._handled.add(i)
        value = self.cutting.integers.get(self.node.inputs[i])
        assert value is not None
        return [int(v) for v in value.ravel()]

    def gather(self, axis: int, index: NDArray[Any]) -> None:
        """Turn this node into a Gather of input 0."""
        indices = self.cutting.constant(self.node.outputs[0].name, "indices", index)
        self.node.op, self.node.attrs, self.node.inputs = "Gather", {"axis": axis}, [self.node.inputs[0], indices]

    def ints_before(self, i: int) -> list[int]:
        """Return what integer input i came to before the cut, for a rule that replaces it."""
        value = self.old_ints(i)
        assert value is not None
        return [int(v) for v in value.ravel()]

    def replace(self, i: int, wanted: Sequence[int] | NDArray[Any]) -> None:
        """Make integer input i come to `wanted` after the cut.

        A constant is replaced. Of a value computed at run time only the elements that are off are scaled, so that dimensions that
        were free stay free.
        """
        wanted = np.asarray(wanted, np.int64)
        self._handled.add(i)
        if i >= len(self.node.inputs):
            self.node.inputs.append(self.cutting.constant(self.node.outputs[0].name, "sizes", wanted))
            return
        now = self.cutting.integers.get(self.node.inputs[i])
        if now is not None and np.array_equal(now, wanted):
            return
        self.node.inputs[i] = self._override(i, wanted, now)

    def divide_evenly(self) -> None:
        """Let arithmetic on shapes divide what it did before the cut where now something would be left over: the batch counted as
        batch times heads over heads."""
        if self.node.op != "Div":
            return
        before, now = ([i.get(t) for t in self.node.inputs] for i in (self.cutting.analysis.integers, self.cutting.integers))
        pairs = [(a, b) for a, b in zip(before, now, strict=True) if a is not None and b is not None and a.dtype.kind == "i"]
        if len(pairs) == 2 and not _leaves(pairs[0][0], pairs[1][0]) and _leaves(pairs[0][1], pairs[1][1]):
            for i, (old, new) in enumerate(pairs):
                if not np.array_equal(old, new):
                    self.node.inputs[i] = self._override(i, old, new)
                    self.cutting.integers.put(self.node.inputs[i].name, old)

    def shield(self) -> None:
        """Give every other input that was computed from shapes the value that it had before the cut."""
        integers, old = self.cutting.integers, self.cutting.analysis.integers
        for i, tensor in enumerate(self.node.inputs):
            if i in self._handled or tensor.name not in old.of_shapes or not old.is_arithmetic(tensor.name):
                continue
            if tensor.name not in integers:
                continue
            if not np.array_equal(integers[tensor.name], old[tensor.name]):
                self.node.inputs[i] = self._override(i, old[tensor.name], integers[tensor.name])

    def _override(self, i: int, wanted: NDArray[Any], now: NDArray[Any] | None) -> gs.Tensor:
        tensor, owner = self.node.inputs[i], self.node.outputs[0].name
        stored, maker = weight_constant(tensor), tensor.inputs[0] if tensor.inputs else None
        if len(tensor.outputs) == 1 and tensor.name not in self.cutting.shared:  # nothing else reads it
            if stored is not None:
                stored.values = wanted.astype(stored.dtype)
                return tensor
            if maker is not None and "value_ints" in maker.attrs:
                maker.attrs["value_ints"] = wanted.tolist()
                return tensor
        constant = self.cutting.constant(owner, f"input{i}", wanted)
        computed = not isinstance(tensor, gs.Constant) and tensor.inputs and tensor.inputs[0].op != "Constant"
        integers = self.cutting.analysis.integers
        varies = tensor.name in integers.of_shapes and (has_free_sizes(self.cutting.graph) or integers.varies(tensor.name))
        short = now is not None and now.dtype.itemsize < 4 and now.dtype.kind in "biu"  # too short to be scaled
        if now is None or short or not computed or not varies or now.shape != wanted.shape:
            return constant
        return self._scaled(tensor, constant, wanted, now)

    def _scaled(self, tensor: gs.Tensor, constant: gs.Constant, wanted: NDArray[Any], now: NDArray[Any]) -> gs.Tensor:
        """Return tensor times wanted over now, computed at run time: right for a free size times a count, too. What has come down
        to zero, by division, is set, and so is what stands for the end of an axis and is no size."""
        scales = (now != 0) & (now > -LARGEST) & (now < LARGEST)
        name, scaled = constant.name, (now != wanted) & scales
        constant.values = np.where(scaled, wanted, 1).astype(now.dtype)
        divisor = self.cutting.constant(name, "over", np.where(scaled, now, 1).astype(now.dtype))
        result = self._before("Div", f"{name}_now", self._before("Mul", f"{name}_times", tensor, constant), divisor)
        other = (now != wanted) & ~scales
        if other.any():
            fixed = self.cutting.constant(name, "set", wanted.astype(now.dtype))
            result = self._before("Where", f"{name}_all", self.cutting.constant(name, "other", other), fixed, result)
        return result

    def _before(self, op: str, name: str, *inputs: gs.Tensor) -> gs.Variable:
        """Insert a node of integer arithmetic before this one and return its output."""
        result = gs.Variable(name, inputs[-1].dtype, inputs[-1].shape)
        nodes = self.cutting.home[id(self.node)].nodes
        place = next(k for k, node in enumerate(nodes) if node is self.node)
        nodes.insert(place, gs.Node(op, f"{name}_{op}", inputs=list(inputs), outputs=[result]))
        return result


def _leaves(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return True if a over b leaves something over, or cannot be."""
    return not b.all() or bool((a % b).any())


def rectangular(kept: Mask) -> bool:
    """Return True if kept positions are full rows and columns, so that they still fill a tensor."""
    full = np.ones(kept.shape, bool)
    for axis in range(kept.ndim):
        full &= kept.any(tuple(a for a in range(kept.ndim) if a != axis), keepdims=True)
    return bool((full == kept).all())
