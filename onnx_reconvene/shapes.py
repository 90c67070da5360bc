"""Shapes, and the small tensors that networks compute from shapes and constants at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]
Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
FEW = 8  # elements; as many floating-point numbers as are computed from shapes (scales, square roots of widths)
STANDARD = (None, "", "ai.onnx")
SMALL = 4096  # elements; a larger tensor is data, not a shape


def slice_operands(
    attributes: Attributes, rank: int, operands: Sequence[Array | None]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return starts, ends, axes (>= 0) and steps of a Slice node of any opset."""
    if not operands:
        operands = [np.asarray(attributes[k]) for k in ("starts", "ends", "axes") if k in attributes]
    starts, ends, axes, steps = [*operands, None, None][:4]
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    return starts.tolist(), ends.tolist(), [int(a) % rank for a in axes], steps.tolist()


def as_slice(start: int, end: int, step: int, size: int) -> slice:
    """Return ONNX's (start, end, step) on an axis of `size` as a Python slice."""
    if step < 0:
        return slice(max(start, -size), None if end < -size else end, step)
    return slice(start, end, step)


def dtype_of(tensor: gs.Tensor) -> np.dtype[Any]:
    """Return the type of the elements of a tensor; graphsurgeon gives those that numpy lacks by their ONNX number."""
    dtype = tensor.dtype
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)


FIRST = {"DequantizeLinear": 19}  # opset of onnx's evaluator, where those before do the same
CHANGED = {"Hardmax": 13, "LogSoftmax": 13, "Softmax": 13}  # opset since which an operator does what onnx's evaluator does


class EvaluationError(Exception):
    """The value of a node cannot be computed; the text says why."""


@cache
def is_function(op: str, opset: int) -> bool:
    """Return True if an operator of the standard domain makes the same of the same inputs, without running graphs."""
    known = onnx.defs.has(op, opset) and opset >= CHANGED.get(op, 1)
    return known and not onnx.defs.get_schema(op, opset).non_deterministic  # type: ignore[attr-defined]


def evaluate(node: gs.Node, operands: Sequence[Array | None], opset: int) -> list[Array]:
    """Return the outputs, as far as they have names, of a node of the standard domain for these inputs, None for absent ones.

    Raises EvaluationError if the operator is random, runs graphs, handles other things than tensors, or fails.
    """
    if node.domain not in STANDARD or not is_function(node.op, opset):
        raise EvaluationError(f"{node.op} '{node.name}' has no value that follows from its inputs alone")
    try:
        with np.errstate(all="ignore"):
            values = [_slice(node.attrs, *operands)] if node.op == "Slice" else _run(node, operands, opset)
    except Exception as error:  # whatever the evaluator raises
        raise EvaluationError(f"{node.op} '{node.name}' cannot be evaluated: {error}") from error
    if any(value.dtype == object for value in values):
        raise EvaluationError(f"{node.op} '{node.name}' makes no tensor of numbers")
    return values


def _run(node: gs.Node, operands: Sequence[Array | None], opset: int) -> list[Array]:
    inputs, outputs = (
        [f"{role}{k}" if tensor.name else "" for k, tensor in enumerate(tensors)]
        for role, tensors in (("input", node.inputs), ("output", node.outputs))
    )
    proto = onnx.NodeProto(op_type=node.op, input=inputs, output=outputs)
    for value in node.attrs.values():
        if isinstance(value, gs.Constant):
            value.values  # noqa: B018  # loads them: the exporter would name the tensor in the model that they are read from
    proto.attribute.extend(OnnxExporter.export_attributes(node.attrs))
    evaluator = _evaluator(proto.SerializeToString(deterministic=True), max(opset, FIRST.get(node.op, 1)))
    feeds = {name: x for name, x in zip(inputs, operands, strict=True) if name}
    return [np.asarray(value) for value in evaluator.run(None, feeds)]


@lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto.FromString(node)
    outputs = [helper.make_empty_tensor_value_info(name) for name in proto.output if name]
    return ReferenceEvaluator(helper.make_graph([proto], "node", [], outputs), opsets={"": opset})


def _slice(attributes: Attributes, x: Array | None, *operands: Array | None) -> Array:
    """Return what runtimes make of bounds beyond an axis, which onnx's evaluator takes as Python does."""
    assert x is not None
    starts, ends, axes, steps = slice_operands(attributes, x.ndim, operands)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = as_slice(start, end, step, x.shape[axis])
    return x[tuple(index)]


MOVES = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
RESIZING = {"ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"}  # as their inputs say


def counts(value: Array) -> bool:
    """Return True if value is of a type that sizes and indices have; shorter integers are quantized numbers."""
    return value.dtype.kind == "b" or (value.dtype.kind in "iu" and value.dtype.itemsize >= 4)


class Integers:
    """Small tensors whose values follow from constants and shapes alone, evaluated node by node.

    fixed tells, for tensors of a network with free sizes, which of their dimensions are fixed all the same.
    """

    def __init__(self, opset: int, fixed: Mapping[str, Array] | None = None) -> None:
        self._opset, self._fixed = opset, fixed
        self._free: dict[str, Array] = {}  # which elements depend on sizes that are free
        self._varying: set[str] = set()  # those that depend on sizes that data decide on
        self._values: dict[str, Array] = {}
        self.of_shapes: set[str] = set()  # those that some Shape node had a part in
        self._of_weights: set[str] = set()  # those that floating-point numbers of a weight had a part in

    def copy(self) -> Integers:
        """Return the same values, to be added to without a change to these."""
        copy = Integers(self._opset, self._fixed)
        copy._values, copy._free = dict(self._values), dict(self._free)
        copy.of_shapes, copy._of_weights, copy._varying = set(self.of_shapes), set(self._of_weights), set(self._varying)
        return copy

    def is_free(self, name: str) -> bool:
        """Return True if the value of a tensor may be another at other sizes of the free dimensions."""
        return name in self._free or name in self._varying

    def vary(self, name: str) -> None:
        """Record that the value of a tensor depends on sizes that data decide on."""
        self._varying.add(name)

    def assume(self, name: str, value: Array) -> None:
        """Enter a value that a tensor has in the runs that count, and may not have in others."""
        self._values[name] = value
        self._varying.add(name)
        self.of_shapes.add(name)

    def varies(self, name: str) -> bool:
        """Return True if the value of a tensor depends on sizes that data decide on."""
        return name in self._varying

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def is_arithmetic(self, name: str) -> bool:
        """Return True if a tensor has a known value that is no data: integers, or a few numbers computed from shapes."""
        if name not in self._values:
            return False
        value, of_shapes = self._values[name], name in self.of_shapes
        if counts(value):
            return of_shapes or name not in self._of_weights
        return of_shapes and value.size <= FEW and value.ndim < 2  # states of recurrent layers have more axes

    def computes(self, node: gs.Node) -> bool:
        """Return True if node does nothing but arithmetic on shapes and constants of known value."""
        return all(self.is_arithmetic(tensor.name) for tensor in node.outputs)

    def get(self, tensor: gs.Tensor) -> Array | None:
        """Return the value of tensor, or None where it is data."""
        if isinstance(tensor, gs.Constant) and tensor.name not in self._values and np.prod(tensor.shape) <= SMALL:
            self._values[tensor.name] = np.asarray(tensor.values)
        return self._values.get(tensor.name)

    def put(self, name: str, value: Array) -> None:
        """Enter the value of a tensor that no node here computes."""
        self._values[name] = value

    def visit(self, node: gs.Node, shape: Callable[[str], Shape | None]) -> None:
        """Evaluate node where all it reads is known; shape gives the shape of a tensor by name."""
        if node.domain not in STANDARD or not node.outputs:
            return
        if node.op == "Constant":
            value = node.attrs.get("value")
            if isinstance(value, gs.Constant) and np.prod(value.shape) <= SMALL:
                self._values[node.outputs[0].name] = np.asarray(value.values)
            elif value is None and len(node.attrs) == 1:
                self._values[node.outputs[0].name] = _plain_constant(node)
        elif node.op in ("Shape", "Size"):
            sizes = shape(node.inputs[0].name)
            if sizes is not None:
                self._values[node.outputs[0].name] = _shape(node, sizes)
                self.of_shapes.add(node.outputs[0].name)
                if self._fixed is not None:
                    fixed = self._fixed.get(node.inputs[0].name, np.zeros(len(sizes), bool))
                    mask = _ranged(node, ~fixed) if node.op == "Shape" else np.asarray(not fixed.all())
                    self._set_free(node.outputs[0].name, mask)
        elif is_function(node.op, self._opset) and self._is_small(node, shape):
            self._evaluate(node, shape)

    def _is_small(self, node: gs.Node, shape: Callable[[str], Shape | None]) -> bool:
        """Return True if all inputs of node have values and its outputs are not known to be data."""
        if any(t.name and self.get(t) is None for t in node.inputs):
            return False
        sizes = [shape(t.name) for t in node.outputs if t.name]
        most = FEW if node.op == "ConstantOfShape" else SMALL
        return all(node.op not in RESIZING if size is None else math.prod(size) <= most for size in sizes)

    def _evaluate(self, node: gs.Node, shape: Callable[[str], Shape | None]) -> None:
        operands = [self.get(tensor) if tensor.name else None for tensor in node.inputs]
        try:
            values = evaluate(node, operands, self._opset)
        except EvaluationError:
            return  # what cannot be evaluated stays unknown, and what depends on it is frozen
        names = [t.name for t in node.outputs if t.name]
        if any(value.size > SMALL or shape(name) not in (None, value.shape) for name, value in zip(names, values, strict=True)):
            return
        inputs = {t.name for t in node.inputs}
        if any(name in self._of_weights or self._is_weight(name) for name in inputs):
            self._of_weights.update(names)
        if not inputs.isdisjoint(self.of_shapes):
            self.of_shapes.update(names)
        if not inputs.isdisjoint(self._varying):
            self._varying.update(names)
        self._values.update(zip(names, values, strict=True))
        if not inputs.isdisjoint(self._free):
            self._follow_free(node, operands)

    def _follow_free(self, node: gs.Node, operands: Sequence[Array | None]) -> None:
        """Find out which elements of a value depend on free sizes: movement moves what says so, all else is taken together."""
        moved = len(operands) if node.op == "Concat" else 1
        names = [t.name for t in node.outputs if t.name]
        masks = [self._mask(t.name) for t in node.inputs[:moved] if t.name]
        if node.op == "Cast":
            moves = masks
        elif node.op in MOVES and self._free.keys().isdisjoint(t.name for t in node.inputs[moved:]):
            moves = evaluate(node, [*masks, *operands[moved:]], self._opset)
        else:
            moves = [np.ones(self._values[name].shape, bool) for name in names]
        for name, mask in zip(names, moves, strict=True):
            self._set_free(name, mask)

    def _mask(self, name: str) -> Array:
        return self._free.get(name, np.zeros(self._values[name].shape, bool))

    def _set_free(self, name: str, mask: Array) -> None:
        if mask.any():
            self._free[name] = mask

    def _is_weight(self, name: str) -> bool:
        value = self._values.get(name)
        return value is not None and not counts(value) and value.size > 1 and name not in self.of_shapes


def small_constant(tensor: gs.Tensor) -> Array | None:
    """Return the value of a small tensor that is stored, as an initializer or by a Constant of any form; None for any other."""
    known = Integers(1)
    for node in tensor.inputs:
        if node.op == "Constant":
            known.visit(node, lambda _: None)
    return known.get(tensor)


def _plain_constant(node: gs.Node) -> Array:
    ((kind, value),) = node.attrs.items()
    return np.asarray(value, np.float32 if "float" in kind else np.int64 if "int" in kind else None)


def _shape(node: gs.Node, sizes: Shape) -> Array:
    if node.op == "Size":
        return np.asarray(np.prod(sizes, dtype=np.int64))
    return _ranged(node, np.asarray(sizes, np.int64))


def _ranged(node: gs.Node, dimensions: Array) -> Array:
    return dimensions[node.attrs.get("start", 0) : node.attrs.get("end")]
