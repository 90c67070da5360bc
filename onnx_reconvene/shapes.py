"""Shapes, and the integers that networks compute from shapes at run time, evaluated in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
FEW = 8  # elements; as many floating-point numbers as are computed from shapes (scales, square roots of widths)
SMALL = 4096  # elements; a larger tensor is data, not a shape


def _cast(attributes: Attributes, x: Array) -> Array:
    return x.astype(helper.tensor_dtype_to_np_dtype(int(attributes["to"])))


def _slice(attributes: Attributes, x: Array, *operands: Array) -> Array:
    starts, ends, axes, steps = slice_operands(attributes, x.ndim, operands)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = as_slice(start, end, step, x.shape[axis])
    return x[tuple(index)]


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


def _squeeze(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
    axes = attributes.get("axes") if axes is None else axes
    return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
    axes = attributes["axes"] if axes is None else axes
    return np.expand_dims(x, tuple(int(a) for a in axes))


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    def run(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
        axes = attributes.get("axes") if axes is None else axes
        axis = None if axes is None or not len(axes) else tuple(int(a) for a in axes)
        if axis is None and attributes.get("noop_with_empty_axes"):
            return x
        return np.asarray(function(x, axis=axis, keepdims=bool(attributes.get("keepdims", 1))))

    return run


def _divide(_: Attributes, a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):  # C's division: towards zero
        return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)
    return a / b


def _modulo(attributes: Attributes, a: Array, b: Array) -> Array:
    return np.asarray(np.fmod(a, b) if attributes.get("fmod") else np.mod(a, b))


def _constant_of_shape(attributes: Attributes, shape: Array) -> Array:
    value = attributes["value"].values.reshape(-1)[0] if "value" in attributes else np.float32(0)
    return np.broadcast_to(value, tuple(shape.tolist()))


def _reshape(attributes: Attributes, x: Array, shape: Array) -> Array:
    sizes = [x.shape[i] if s == 0 and not attributes.get("allowzero") else int(s) for i, s in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _numpy(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda _, *x: np.asarray(function(*x))


EVALUATE: dict[str, Callable[..., Array]] = {
    "Abs": _numpy(np.abs),
    "Add": _numpy(np.add),
    "And": _numpy(np.logical_and),
    "Cast": _cast,
    "Ceil": _numpy(np.ceil),
    "Concat": lambda a, *x: np.concatenate(x, a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": _numpy(np.equal),
    "Expand": lambda _, x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Floor": _numpy(np.floor),
    "Gather": lambda a, x, i: np.take(x, i, a.get("axis", 0)),
    "Greater": _numpy(np.greater),
    "GreaterOrEqual": _numpy(np.greater_equal),
    "Identity": lambda _, x: x,
    "Less": _numpy(np.less),
    "LessOrEqual": _numpy(np.less_equal),
    "Max": lambda _, *x: np.asarray(np.max(np.stack(np.broadcast_arrays(*x)), 0)),
    "Min": lambda _, *x: np.asarray(np.min(np.stack(np.broadcast_arrays(*x)), 0)),
    "Mod": _modulo,
    "Mul": _numpy(np.multiply),
    "Neg": _numpy(np.negative),
    "Not": _numpy(np.logical_not),
    "Or": _numpy(np.logical_or),
    "Pow": lambda _, x, y: np.power(x, y).astype(x.dtype),
    "Range": _numpy(np.arange),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Round": _numpy(np.round),
    "Slice": _slice,
    "Sqrt": _numpy(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _numpy(np.subtract),
    "Transpose": lambda a, x: np.transpose(x, a.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _numpy(np.where),
}


MOVES = {"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


class Integers:
    """Small tensors whose values follow from constants and shapes alone, evaluated node by node.

    fixed tells, for tensors of a network with free sizes, which of their dimensions are fixed all the same.
    """

    def __init__(self, fixed: Mapping[str, Array] | None = None) -> None:
        self._fixed = fixed
        self._free: dict[str, Array] = {}  # which elements depend on sizes that are free
        self._values: dict[str, Array] = {}
        self.of_shapes: set[str] = set()  # those that some Shape node had a part in
        self._of_weights: set[str] = set()  # those that floating-point numbers of a weight had a part in

    def copy(self) -> Integers:
        """Return the same values, to be added to without a change to these."""
        copy = Integers(self._fixed)
        copy._values, copy._free = dict(self._values), dict(self._free)
        copy.of_shapes, copy._of_weights = set(self.of_shapes), set(self._of_weights)
        return copy

    def is_free(self, name: str) -> bool:
        """Tell whether the value of a tensor may be another at other sizes of the free dimensions."""
        return name in self._free

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def is_arithmetic(self, name: str) -> bool:
        """Tell whether a tensor has a known value that is no data: integers, or a few numbers computed from shapes."""
        if name not in self._values:
            return False
        value = self._values[name]
        return (value.dtype.kind in "iub" and name not in self._of_weights) or (name in self.of_shapes and value.size <= FEW)

    def computes(self, node: gs.Node) -> bool:
        """Tell whether node does nothing but arithmetic on shapes and constants of known value."""
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
        if len(node.outputs) != 1 or node.domain not in (None, "", "ai.onnx"):
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
                    self._set_free(node, _ranged(node, ~fixed) if node.op == "Shape" else np.asarray(not fixed.all()))
        elif node.op in EVALUATE:
            self._evaluate(node)
            if any(t.name in self.of_shapes for t in node.inputs):
                self.of_shapes.add(node.outputs[0].name)

    def _evaluate(self, node: gs.Node) -> None:
        operands = [self.get(tensor) if tensor.name else None for tensor in node.inputs]
        if any(x is None and t.name for x, t in zip(operands, node.inputs, strict=True)):
            return
        if node.op == "ConstantOfShape" and math.prod(np.asarray(operands[0]).tolist()) > FEW:
            return
        try:
            value = EVALUATE[node.op](node.attrs, *operands)
        except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
            return  # what cannot be evaluated stays unknown, and what depends on it is frozen
        if value.size <= SMALL:
            self._values[node.outputs[0].name] = value
            if any(t.name in self._of_weights or self._is_weight(t.name) for t in node.inputs):
                self._of_weights.add(node.outputs[0].name)
            if self._free:
                self._follow_free(node, operands, value)

    def _follow_free(self, node: gs.Node, operands: Sequence[Array | None], value: Array) -> None:
        """Find out which elements of a value depend on free sizes: movement moves what says so, all else is taken together."""
        free = [self._free.get(t.name) for t in node.inputs]
        moved = len(free) if node.op == "Concat" else 1
        if all(mask is None for mask in free):
            return
        if node.op not in MOVES or any(mask is not None for mask in free[moved:]):
            self._set_free(node, np.ones(value.shape, bool))
            return
        data = [x for x in operands[:moved] if x is not None]
        masks = [np.zeros(x.shape, bool) if mask is None else mask for mask, x in zip(free, data, strict=False)]
        self._set_free(node, masks[0] if node.op == "Cast" else EVALUATE[node.op](node.attrs, *masks, *operands[moved:]))

    def _set_free(self, node: gs.Node, mask: Array) -> None:
        if mask.any():
            self._free[node.outputs[0].name] = mask

    def _is_weight(self, name: str) -> bool:
        value = self._values.get(name)
        return value is not None and value.dtype.kind == "f" and value.size > 1 and name not in self.of_shapes


def _plain_constant(node: gs.Node) -> Array:
    ((kind, value),) = node.attrs.items()
    return np.asarray(value, np.float32 if "float" in kind else np.int64 if "int" in kind else None)


def _shape(node: gs.Node, sizes: Shape) -> Array:
    if node.op == "Size":
        return np.asarray(np.prod(sizes, dtype=np.int64))
    return _ranged(node, np.asarray(sizes, np.int64))


def _ranged(node: gs.Node, dimensions: Array) -> Array:
    return dimensions[node.attrs.get("start", 0) : node.attrs.get("end")]
