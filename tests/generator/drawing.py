"""A network being drawn: its nodes and weights so far, every shape known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.generator.picks import Pick
from tests.generator.values import Dim, Value

T = TypeVar("T")
OPSETS = (21, 17, 13, 11, 9, 23)


class Drawing:
    """A network being drawn: its nodes and weights so far, and the values that blocks may read."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.opset = self.choose(OPSETS)
        self.dynamic = not pick(3)
        self.batch = 1 if self.dynamic else 1 + pick(2)
        self.stores_sparse = self.rarely(10)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.sparse: list[onnx.SparseTensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.inputs: list[Value] = []
        self.values: list[Value] = []
        self.shared: dict[tuple[int, ...], list[str]] = {}
        self.level: dict[tuple[tuple[int, ...], float], str] = {}  # vectors of equal values, by shape and value
        self.products = 0  # of activations with activations, which grow
        self._random = np.random.default_rng(len(OPSETS))
        self._names: dict[str, int] = {}

    def choose(self, options: Sequence[T]) -> T:
        """Return one of options, the first being the simplest."""
        return options[self.pick(len(options))]

    def rarely(self, n: int = 4) -> bool:
        """Return True once in n times."""
        return self.pick(n) == n - 1

    def name(self, stem: str) -> str:
        """Return a name that is new."""
        self._names[stem] = self._names.get(stem, -1) + 1
        return f"{stem}{self._names[stem]}"

    def node(self, op: str, inputs: Iterable[str | Value], outputs: int | Sequence[str] = 1, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [self.name(op.lower()) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        read = [i.name if isinstance(i, Value) else i for i in inputs]
        self.nodes.append(helper.make_node(op, read, names, self.name("n"), **attributes))
        return names

    def value(self, op: str, inputs: Iterable[str | Value], shape: Sequence[int], axis: int, /, **attributes: Any) -> Value:
        """Add a node of one output and return that, as a value that other blocks may read."""
        return self.enter(Value(self.node(op, inputs, **attributes)[0], tuple(shape), axis))

    def enter(self, value: Value) -> Value:
        """Let other blocks read value."""
        assert all(n > 0 for n in value.shape), f"{value} is empty"
        self.values.append(value)
        return value

    def like(self, x: Value, op: str, *others: str | Value, **attributes: Any) -> Value:
        """Add a node whose output has the shape of x, its first input."""
        return self.value(op, [x, *others], x.shape, x.axis, **attributes)

    def constant(self, values: NDArray[Any] | float, stem: str = "w") -> str:
        """Return the name of a constant: an initializer, now and then a sparse one, or what a Constant node makes."""
        tensor = numpy_helper.from_array(np.asarray(values), self.name(stem))
        if self.rarely(6):
            return self.node("Constant", [], [tensor.name], value=tensor)[0]
        fits = tensor.dims and np.size(values) and tensor.data_type in (TensorProto.FLOAT, TensorProto.INT64)
        if self.stores_sparse and fits and self.rarely(3):
            self.sparse.append(sparse(tensor))
        else:
            self.initializers.append(tensor)
        return str(tensor.name)

    def ints(self, values: Sequence[int], stem: str = "i") -> str:
        """Return the name of a vector of integers."""
        if self.opset >= 12 and values and self.rarely(8):
            return self.node("Constant", [], value_ints=list(values))[0]
        return self.constant(np.asarray(values, np.int64), stem)

    def scalar(self, value: float) -> str:
        """Return the name of a number."""
        return self.constant(np.asarray(value, np.float32), "s")

    def uniform(self, shape: Sequence[int], low: float, high: float) -> NDArray[np.float32]:
        """Return random numbers; only these are not a matter of picks."""
        return self._random.uniform(low, high, tuple(shape)).astype(np.float32)

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Return random numbers; not a matter of picks either."""
        return self._random.standard_normal(tuple(shape)).astype(np.float32)

    def vector(self, shape: Sequence[int] | int, low: float = -1, high: float = 1) -> str:
        """Return the name of a bias, scale or the like; now and then all of its values are equal, and exporters store such once."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not self.rarely(6):
            return self.constant(self.uniform(shape, low, high), "b")
        middle = (low + high) / 2
        if (shape, middle) not in self.level:
            self.level[shape, middle] = self.constant(np.full(shape, middle, np.float32), "b")
        return self.level[shape, middle]

    def new_width(self, of: int = 1) -> int:
        """Return a number of channels, a multiple of `of`."""
        return of * (1 + self.pick(max(1, 12 // of))) if of > 1 else 2 + self.pick(11)

    def axes(self, op: str, x: str | Value, axes: Sequence[int], **attributes: Any) -> str:
        """Add a node whose axes are an attribute or an input, as the opset says; returns the name of its output."""
        as_input = self.opset >= (13 if op in ("ReduceSum", "Squeeze", "Unsqueeze") else 18)
        if as_input:
            return self.node(op, [x, self.ints(axes)], **attributes)[0]
        return self.node(op, [x], axes=list(axes), **attributes)[0]

    def reshape(self, x: Value, target: Sequence[int | Dim], axis: int, hide: bool = False) -> Value:
        """Reshape x to target, given as a constant (with 0 and -1 or without) or computed at run time."""
        shape = [t if isinstance(t, int) else t.of(x.shape) for t in target]
        given = self._computed(x, target) if self.rarely(3) else self.ints(self._target(target, shape))
        result = Value(self.node("Reshape", [x, given])[0], tuple(shape), axis)
        return result if hide else self.enter(result)

    def _target(self, target: Sequence[int | Dim], shape: Sequence[int]) -> list[int]:
        spec = list(shape)
        for i, t in enumerate(target):
            if isinstance(t, Dim) and t.axes == (i,) and t.over == 1 and ((self.dynamic and i == 0) or self.rarely(3)):
                spec[i] = 0
        free = [i for i, t in enumerate(target) if isinstance(t, Dim) and spec[i]]
        batch = [i for i in free if self.dynamic and 0 in target[i].axes]  # type: ignore[union-attr]
        if batch or (free and -1 not in shape and self.rarely(2)):
            spec[batch[0] if batch else self.choose(free)] = -1
        return spec

    def _computed(self, x: Value, target: Sequence[int | Dim]) -> str:
        sizes = self.node("Shape", [x])[0]
        parts = []
        for t in target:
            if isinstance(t, int) or not (0 in t.axes or self.rarely(2)):
                parts.append(self.ints([t if isinstance(t, int) else t.of(x.shape)]))
            else:
                parts.append(self._size(sizes, t))
        return self.node("Concat", parts, axis=0)[0]

    def _size(self, sizes: str, dim: Dim) -> str:
        found = [self._pick_size(sizes, axis) for axis in dim.axes]
        while len(found) > 1:
            found = [self.node("Mul", found[:2])[0], *found[2:]]
        return found[0] if dim.over == 1 else self.node("Div", [found[0], self.ints([dim.over])])[0]

    def _pick_size(self, sizes: str, axis: int) -> str:
        if self.rarely(3):
            scalar = self.node("Gather", [sizes, self.constant(np.asarray(axis, np.int64), "i")], axis=0)[0]
            return self.axes("Unsqueeze", scalar, [0])
        if self.opset >= 10 and self.rarely(3):
            return self.node("Slice", [sizes, self.ints([axis]), self.ints([axis + 1]), self.ints([0])])[0]
        return self.node("Gather", [sizes, self.ints([axis])], axis=0)[0]


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    """Return tensor in sparse form: its elements that are not zero, and where they stand in the flattened tensor."""
    values = numpy_helper.to_array(tensor).ravel()
    index = np.flatnonzero(values)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values[index], tensor.name), numpy_helper.from_array(index.astype(np.int64)), list(tensor.dims)
    )
