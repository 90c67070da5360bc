"""Random valid networks: blocks strung together, every shape known while they are drawn.

Everything is decided by calls of one function, `pick(n)`, which returns an integer from 0 to n - 1, and 0 stands for the simplest
choice. So hypothesis (`networks`) as well as a plain list of integers (`Choices`) can draw a network, and shrink it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Pick = Callable[[int], int]
T = TypeVar("T")
OPSETS = (21, 17, 13, 11, 9, 23)
INT_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
WIDEST, MOST_ELEMENTS = 24, 6000


@dataclass(frozen=True)
class Value:
    """A tensor of the network and the axis that its channels are on: the last, or 1 where space follows them."""

    name: str
    shape: tuple[int, ...]
    axis: int

    @property
    def width(self) -> int:
        """The number of channels."""
        return self.shape[self.axis]

    @property
    def kind(self) -> str:
        """An "image" x[n,c,...], "tokens" x[n,t,c], a "grid" x[n,h,w,c] or a "vector" x[n,c]."""
        return "vector" if len(self.shape) == 2 else "image" if self.axis == 1 else ("tokens", "grid")[self.axis - 2]


@dataclass(frozen=True)
class Dim:
    """One size of a target shape: a product of sizes of the tensor at hand, divided."""

    axes: tuple[int, ...]
    over: int = 1

    def of(self, shape: Sequence[int]) -> int:
        """Return what it comes to."""
        return int(np.prod([shape[axis] for axis in self.axes])) // self.over


@dataclass
class Choices:
    """A `pick` that follows a list of integers and goes on with random ones, or zeros without a seed; it records what it picks."""

    given: Sequence[int] = ()
    seed: int | None = None
    made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, n: int) -> int:
        at = len(self.made)
        more = 0 if self.seed is None else int(self._random.random() * n)
        self.made.append(min(self.given[at], n - 1) if at < len(self.given) else more)
        return self.made[-1]


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a network."""
    return network(lambda n: draw(st.integers(0, n - 1)))


def network(pick: Pick) -> onnx.ModelProto:
    """Return the network that these picks make."""
    net = Drawing(pick)
    x = STARTS[pick(len(STARTS))](net)
    for _ in range(pick(12)):
        x = net.apply(x)
    return net.finish(x)


class Drawing:
    """A network being drawn: its nodes and weights so far, and the values that blocks may read."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.opset = self.choose(OPSETS)
        self.dynamic = not pick(3)
        self.batch = 1 if self.dynamic else 1 + pick(2)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[Value] = []
        self.values: list[Value] = []
        self.shared: dict[tuple[int, ...], list[str]] = {}
        self.products = 0  # of activations with activations, which grow
        self._random = np.random.default_rng(len(OPSETS))
        self._names: dict[str, int] = {}

    def choose(self, options: Sequence[T]) -> T:
        """Return one of options, the first being the simplest."""
        return options[self.pick(len(options))]

    def rarely(self, n: int = 4) -> bool:
        """Return True once in n times."""
        return self.pick(n) == n - 1

    def apply(self, x: Value) -> Value:
        """Return what some block makes of x, or of an earlier value; x itself where the block drawn cannot be applied."""
        if self.rarely(6):
            x = self.choose(self.values[::-1])
        block = self.choose(BLOCKS[x.kind])
        return block(self, x) or x

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
        """Return the name of a constant: an initializer, or what a Constant node makes."""
        tensor = numpy_helper.from_array(np.asarray(values), self.name(stem))
        if not self.rarely(6):
            self.initializers.append(tensor)
            return str(tensor.name)
        return self.node("Constant", [], [tensor.name], value=tensor)[0]

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

    def weight(self, shape: Sequence[int], fan_in: int) -> str:
        """Return the name of a weight of this shape, stored in some form; now and then one that was read before."""
        shape = tuple(shape)
        same = self.shared.setdefault(shape, [])
        if same and self.rarely(4):
            return self.choose(same)
        values = self._random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        same.append(self.choose(FORMS)(self, values) if self.rarely(5) else self.constant(values))
        return same[-1]

    def vector(self, shape: Sequence[int] | int, low: float = -1, high: float = 1) -> str:
        """Return the name of a bias, scale or the like."""
        return self.constant(self.uniform([shape] if isinstance(shape, int) else shape, low, high), "b")

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
        result = Value("", tuple(shape), axis)
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
        if batch or (free and self.rarely(2)):
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

    def finish(self, x: Value) -> onnx.ModelProto:
        """Return the model whose outputs are x, after one last layer mostly, and some values before it."""
        outputs = [x if self.rarely(6) else LAST[x.kind](self, x)]
        for _ in range(self.choose((0, 0, 1, 2))):
            value = self.choose(self.values)
            outputs.append(value if self.rarely(3) else LAST[value.kind](self, value))
        outputs = [v for v in outputs if v not in self.inputs] or [LAST[x.kind](self, x)]
        unique = {v.name: v for v in outputs}
        bare = self.rarely(4)
        nodes, read = (self.nodes, None) if self.rarely(8) else self._alive(unique)
        inputs = [self._declare(v) for v in self.inputs if read is None or v.name in read]
        weights = [w for w in self.initializers if read is None or w.name in read]
        graph = helper.make_graph(nodes, "net", inputs, [self._declare(v, bare) for v in unique.values()], weights)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset > 17 else 8)

    def _alive(self, outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """Return the nodes that outputs need, and all names that these read."""
        needed, alive = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                alive.append(node)
        return alive[::-1], needed

    def _declare(self, value: Value, bare: bool = False) -> onnx.ValueInfoProto:
        shape = [None] * len(value.shape) if bare else ["N" if self.dynamic and not a else n for a, n in enumerate(value.shape)]
        return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape)


# --- where networks start ---


def image(net: Drawing) -> Value:
    """An input x[n,c,h,w] and a convolution of it."""
    size = net.choose((4, 6, 8, 5))
    shape = (net.batch, 1 + net.pick(3), size) if net.rarely(5) else (net.batch, 1 + net.pick(3), size, size)
    return conv(net, graph_input(net, shape, 1))


def tokens(net: Drawing) -> Value:
    """An input x[n,t,c] and a linear layer."""
    return linear(net, graph_input(net, (net.batch, 2 + net.pick(5), 2 + net.pick(4)), 2))


def vector(net: Drawing) -> Value:
    """An input x[n,c] and a linear layer."""
    return linear(net, graph_input(net, (net.batch, 2 + net.pick(6)), 1))


def graph_input(net: Drawing, shape: Sequence[int], axis: int) -> Value:
    """Return a new input."""
    net.inputs.append(net.enter(Value(net.name("x"), tuple(shape), axis)))
    return net.inputs[-1]


def another_input(net: Drawing, x: Value) -> Value | None:
    """Add a layer of another input to x."""
    other = graph_input(net, [3 if a == x.axis else n for a, n in enumerate(x.shape)], x.axis)
    return net.like(x, "Add", LAST[x.kind](net, other, x.width))


# --- forms of weights ---


def plain(net: Drawing, values: NDArray[np.float32]) -> str:
    """Initializer or Constant."""
    return net.constant(values)


def through_identity(net: Drawing, values: NDArray[np.float32]) -> str:
    """Identity of a constant."""
    return net.node("Identity", [net.constant(values)])[0]


def transposed(net: Drawing, values: NDArray[np.float32]) -> str:
    """Transpose of a constant."""
    permutation = list(range(values.ndim))[::-1]
    return net.node("Transpose", [net.constant(np.ascontiguousarray(values.transpose(permutation)))], perm=permutation)[0]


def scaled(net: Drawing, values: NDArray[np.float32]) -> str:
    """A constant times another, per row or as a whole."""
    shape = [n if a == 0 else 1 for a, n in enumerate(values.shape)] if net.rarely(2) else [1]
    return net.node("Mul", [net.constant(values), net.vector(shape, 0.5, 1.5)])[0]


def quantized(net: Drawing, values: NDArray[np.float32]) -> str:
    """DequantizeLinear of 8-bit integers, with one scale or one per row."""
    per_row = net.opset >= 13 and values.ndim > 1 and net.rarely(2)
    scale = np.full(len(values) if per_row else (), np.abs(values).max() / 127, np.float32) * np.float32(1.25)
    stored = np.round(values / (scale.reshape([-1] + [1] * (values.ndim - 1)) if per_row else scale)).astype(np.int8)
    zero = np.zeros_like(scale, np.int8)
    read = [net.constant(stored), net.constant(scale), *([net.constant(zero)] if net.rarely(2) else [])]
    return net.node("DequantizeLinear", read, **({"axis": 0} if per_row else {}))[0] if net.opset >= 10 else plain(net, values)


def requantized(net: Drawing, values: NDArray[np.float32]) -> str:
    """DequantizeLinear of QuantizeLinear of a constant."""
    if net.opset < 13 or values.ndim < 2:
        return plain(net, values)
    axis = net.pick(2)
    scale = net.vector(values.shape[axis], 0.02, 0.05)
    zero = net.constant(np.zeros(values.shape[axis], np.int8))
    rounded = net.node("QuantizeLinear", [net.constant(values), scale, zero], axis=axis)
    return net.node("DequantizeLinear", [*rounded, scale, zero], axis=axis)[0]


def filled(net: Drawing, values: NDArray[np.float32]) -> str:
    """ConstantOfShape."""
    value = numpy_helper.from_array(np.asarray([0.25], np.float32))
    return net.node("ConstantOfShape", [net.ints(values.shape)], value=value)[0]


FORMS = (through_identity, transposed, scaled, quantized, requantized, filled)


# --- layers ---


def conv(net: Drawing, x: Value, width: int | None = None, kernel: int | None = None) -> Value:
    """Conv: plain, strided, dilated."""
    out, k = width or net.new_width(), kernel or net.choose((1, 3, 2))
    return convolve(net, x, out, k, 1)


def grouped_conv(net: Drawing, x: Value) -> Value | None:
    """Conv of several groups, depthwise, with or without a multiplier."""
    groups = net.choose([g for g in range(x.width, 1, -1) if x.width % g == 0] or [1])
    times = 1 + net.pick(3)
    out = groups * times
    return convolve(net, x, out, net.choose((3, 1)), groups) if groups > 1 and out <= WIDEST else None


def convolve(net: Drawing, x: Value, out: int, kernel: int, groups: int) -> Value:
    """Add a convolution with or without a bias."""
    space = x.shape[2:]
    pad = kernel // 2
    stride = 2 if min(space) >= 4 and net.rarely(6) else 1
    sizes = [(n + 2 * pad - kernel) // stride + 1 for n in space]
    weight = net.weight((out, x.width // groups, *[kernel] * len(space)), x.width // groups * kernel ** len(space))
    bias = [net.vector(out)] if net.pick(2) else []
    attributes: dict[str, Any] = {"group": groups} if groups > 1 or net.rarely(8) else {}
    attributes |= {"pads": [pad] * 2 * len(space), "strides": [stride] * len(space)} if pad or stride > 1 else {}
    return net.value("Conv", [x, weight, *bias], (x.shape[0], out, *sizes), 1, **attributes)


def conv_transpose(net: Drawing, x: Value) -> Value | None:
    """ConvTranspose, plain or grouped, of stride 1 or 2."""
    space = x.shape[2:]
    groups = net.choose([g for g in range(1, x.width + 1) if x.width % g == 0]) if net.rarely(2) else 1
    each, stride = 1 + net.pick(4), 2 if max(space) <= 4 and net.pick(2) else 1
    kernel = 2 if stride == 2 else net.choose((1, 3))
    pad = kernel // 2 if stride == 1 else 0
    sizes = [(n - 1) * stride + kernel - 2 * pad for n in space]
    weight = net.weight((x.width, each, *[kernel] * len(space)), x.width // groups * kernel)
    bias = [net.vector(each * groups)] if net.pick(2) else []
    if each * groups > WIDEST:
        return None
    attributes = {"pads": [pad] * 2 * len(space), "strides": [stride] * len(space), "group": groups}
    return net.value("ConvTranspose", [x, weight, *bias], (x.shape[0], each * groups, *sizes), 1, **attributes)


def linear(net: Drawing, x: Value, width: int | None = None) -> Value:
    """MatMul and Add, Gemm or Einsum."""
    out = width or net.new_width()
    if len(x.shape) == 2 and net.pick(2):
        transposed_b = net.pick(2)
        weight = net.weight((out, x.width) if transposed_b else (x.width, out), x.width)
        bias = [net.vector(net.choose(([out], [1, out], [1])))] if net.opset < 11 or net.pick(2) else []
        return net.value("Gemm", [x, weight, *bias], (x.shape[0], out), 1, transB=transposed_b)
    shape = (*x.shape[:-1], out)
    if net.opset >= 12 and net.rarely(6):
        left = "btw"[: len(shape) - 1]
        swapped = net.pick(2)
        weight = net.weight((out, x.width) if swapped else (x.width, out), x.width)
        return net.value("Einsum", [x, weight], shape, x.axis, equation=f"{left}c,{'dc' if swapped else 'cd'}->{left}d")
    y = net.value("MatMul", [x, net.weight((x.width, out), x.width)], shape, x.axis)
    return net.like(y, "Add", net.vector(out)) if net.pick(2) else y


def last_image(net: Drawing, x: Value, width: int = 2) -> Value:
    """A convolution of kernel 1."""
    return convolve_one(net, x, width)


def convolve_one(net: Drawing, x: Value, out: int) -> Value:
    """Conv of kernel 1."""
    weight = net.weight((out, x.width, *[1] * len(x.shape[2:])), x.width)
    return net.value("Conv", [x, weight], (x.shape[0], out, *x.shape[2:]), 1)


def last_linear(net: Drawing, x: Value, width: int = 2) -> Value:
    """MatMul."""
    return net.value("MatMul", [x, net.weight((x.width, width), x.width)], (*x.shape[:-1], width), x.axis)


LAST: dict[str, Callable[..., Value]] = {"image": last_image, "tokens": last_linear, "grid": last_linear, "vector": last_linear}


# --- elementwise ---

UNARY = (
    ("Relu", 9, {}),
    ("Sigmoid", 9, {}),
    ("Tanh", 9, {}),
    ("LeakyRelu", 9, {"alpha": 0.1}),
    ("Softplus", 9, {}),
    ("Neg", 9, {}),
    ("Abs", 9, {}),
    ("Cos", 9, {}),
    ("HardSigmoid", 9, {}),
    ("Elu", 9, {}),
    ("Erf", 9, {}),
    ("Identity", 9, {}),
    ("Selu", 9, {}),
    ("HardSwish", 14, {}),
    ("Gelu", 20, {}),
    ("Softsign", 9, {}),
)


def unary(net: Drawing, x: Value) -> Value:
    """A function of each element."""
    op, _, attributes = net.choose([f for f in UNARY if f[1] <= net.opset])
    return net.like(x, op, **attributes)


def clip(net: Drawing, x: Value) -> Value:
    """Clip, its bounds attributes or inputs, one of them left out at times."""
    if net.opset < 11:
        return net.like(x, "Clip", min=-1.0, max=2.0)
    low = "" if net.rarely(3) else net.scalar(-1)
    return net.like(x, "Clip", low, net.scalar(2))


def prelu(net: Drawing, x: Value) -> Value:
    """PRelu with one slope per channel, or one for all."""
    return net.like(x, "PRelu", net.vector(parameter_shape(net, x)))


def parameter_shape(net: Drawing, x: Value) -> list[int]:
    """Return the shape of a constant that broadcasts against x: per channel, one, with or without leading ones, or in full."""
    shape = [n if a == x.axis else 1 for a, n in enumerate(x.shape)]
    form = net.pick(5)
    if form == 3:
        return [1]
    if form == 4:
        return [1, *x.shape[1:]]
    return shape[x.axis :] if form else shape


def with_constant(net: Drawing, x: Value) -> Value:
    """An operator on x and a constant, in either order where that is all the same."""
    op = net.choose(("Add", "Mul", "Sub", "Div", "Max", "Min"))
    other = net.vector(parameter_shape(net, x), 0.5, 1.5)
    if op in ("Add", "Mul") and net.rarely(3):
        return net.value(op, [other, x], x.shape, x.axis)
    return net.like(x, op, other)


def where(net: Drawing, x: Value) -> Value:
    """Where a constant mask or a comparison says so, another value or a constant."""
    other = net.vector(parameter_shape(net, x)) if net.pick(2) else companion(net, x)
    if net.pick(2):
        mask = net.constant(net.uniform(parameter_shape(net, x), -1, 1) > 0, "m")
        return net.value("Where", [mask, x, other], x.shape, x.axis)
    mask = net.node("Greater", [x, net.scalar(0)])[0]
    return net.value("Where", [mask, x, net.like(x, "Neg")], x.shape, x.axis)


def companion(net: Drawing, x: Value) -> Value:
    """Return an earlier value of the shape of x, or a layer of x."""
    same = [v for v in net.values if v.shape == x.shape and v.axis == x.axis and v not in net.inputs]
    return net.choose(same[::-1]) if same and net.pick(3) else LAST[x.kind](net, x, x.width)


def residual(net: Drawing, x: Value) -> Value:
    """x and another value of its shape, added, subtracted or multiplied."""
    ops = ["Add", "Sub", "Max", "Sum", "Mul"]
    op = net.choose(ops if net.products < 2 else ops[:-1])
    net.products += op == "Mul"
    other = companion(net, x)
    inputs = [other, x] if net.rarely(3) else [x, other]
    return net.value(op, [*inputs, net.choose(inputs)] if op in ("Sum", "Max") and net.rarely(2) else inputs, x.shape, x.axis)


def gate(net: Drawing, x: Value) -> Value:
    """Squeeze and excite: x times what a small network makes of its averages."""
    if x.kind != "image":
        return net.like(x, "Mul", net.like(LAST[x.kind](net, x, x.width), "Sigmoid"))
    pooled = global_pool(net, x)
    if net.pick(2):
        flat = net.reshape(pooled, [Dim((0,)), Dim((1,))], 1)
        inner = linear(net, net.like(linear(net, flat), "Relu"), x.width)
        scale = net.reshape(inner, [Dim((0,)), Dim((1,)), *[1] * len(x.shape[2:])], 1)
    else:
        scale = convolve_one(net, net.like(convolve_one(net, pooled, 2), "Relu"), x.width)
    return net.like(x, "Mul", net.like(scale, net.choose(("Sigmoid", "HardSigmoid"))))


def global_pool(net: Drawing, x: Value) -> Value:
    """The average or largest of each channel, in space."""
    shape = (*x.shape[:2], *[1] * len(x.shape[2:]))
    if net.rarely(3):
        return net.enter(Value(net.axes("ReduceMean", x, list(range(2, len(shape))), keepdims=1), shape, 1))
    return net.value(net.choose(("GlobalAveragePool", "GlobalMaxPool")), [x], shape, 1)


# --- normalization ---


def batch_norm(net: Drawing, x: Value) -> Value | None:
    """BatchNormalization."""
    if x.axis > 1:
        return None
    c = x.width
    parameters = [net.vector(c, 0.5, 1.5), net.vector(c), net.vector(c), net.vector(c, 0.5, 1.5)]
    return net.like(x, "BatchNormalization", *parameters)


def instance_norm(net: Drawing, x: Value) -> Value | None:
    """InstanceNormalization."""
    if min(x.shape[2:]) < 2:
        return None
    return net.like(x, "InstanceNormalization", net.vector(x.width, 0.5, 1.5), net.vector(x.width), epsilon=1e-2)


def group_norm(net: Drawing, x: Value) -> Value | None:
    """GroupNormalization, or what torch exports for it: Reshape, InstanceNormalization, Reshape and per-channel constants."""
    groups = net.choose([g for g in range(1, x.width + 1) if x.width % g == 0])
    if net.opset >= 21 and net.pick(3):
        parameters = net.vector(x.width, 0.5, 1.5), net.vector(x.width)
        return net.like(x, "GroupNormalization", *parameters, num_groups=groups, epsilon=1e-2)
    split = net.reshape(x, [Dim((0,)), groups, Dim(tuple(range(1, len(x.shape))), groups)], 1, hide=True)
    ones = net.constant(np.ones(groups, np.float32)), net.constant(np.zeros(groups, np.float32))
    y = Value(net.node("InstanceNormalization", [split, *ones], epsilon=1e-2)[0], split.shape, 1)
    sizes = net.node("Shape", [x])[0] if net.dynamic or net.pick(2) else net.ints(x.shape)
    back = net.value("Reshape", [y, sizes], x.shape, 1)
    shape = [x.width, *[1] * len(x.shape[2:])]
    return net.like(net.like(back, "Mul", net.vector(shape, 0.5, 1.5)), "Add", net.vector(shape))


def lrn(net: Drawing, x: Value) -> Value | None:
    """LRN."""
    return net.like(x, "LRN", size=3, alpha=0.1) if len(x.shape) == 4 else None


def rms_norm(net: Drawing, x: Value) -> Value | None:
    """RMSNormalization."""
    return net.like(x, "RMSNormalization", net.vector(x.width, 0.5, 1.5), axis=-1, epsilon=1e-2) if net.opset >= 23 else None


def layer_norm(net: Drawing, x: Value) -> Value:
    """LayerNormalization or, in parts, it or RMSNorm."""
    scale, bias = net.vector(x.width, 0.5, 1.5), net.vector(x.width)
    if net.opset >= 17 and net.pick(2):
        return net.like(x, "LayerNormalization", scale, *([bias] if net.pick(2) else []), axis=-1, epsilon=1e-2)
    if net.pick(2):
        x = net.like(x, "Sub", net.axes("ReduceMean", x, [-1], keepdims=1))
    square = net.node("Pow", [x, net.scalar(2)])[0] if net.pick(2) else net.node("Mul", [x, x])[0]
    mean = net.axes("ReduceMean", square, [-1], keepdims=1)
    deviation = net.node("Sqrt", net.node("Add", [mean, net.scalar(1e-2)]))
    y = net.like(net.like(x, "Div", *deviation), "Mul", scale)
    return net.like(y, "Add", bias) if net.pick(2) else y


# --- movement ---


def concat(net: Drawing, x: Value) -> Value | None:
    """x and earlier values, or x again, side by side."""
    fits = [v for v in net.values if v.axis == x.axis and space(v) == space(x)]
    others = [net.choose(fits[::-1]) if net.pick(3) else x for _ in range(1 + net.pick(2))]
    parts = [*others, x] if net.pick(2) else [x, *others]
    width = sum(v.width for v in parts)
    axis = x.axis - len(x.shape) if net.opset >= 11 and net.rarely(3) else x.axis
    return net.value("Concat", parts, resized(x, width), x.axis, axis=axis) if width <= WIDEST else None


def space(x: Value) -> tuple[int, ...]:
    """Return the sizes of x that count no channels."""
    return x.shape[: x.axis] + x.shape[x.axis + 1 :]


def resized(x: Value, width: int) -> tuple[int, ...]:
    """Return the shape of x with another number of channels."""
    return (*x.shape[: x.axis], width, *x.shape[x.axis + 1 :])


def split(net: Drawing, x: Value) -> Value | None:
    """Split; the parts go different ways and meet again, or not."""
    if x.width < 2:
        return None
    parts = split_parts(net, x, 2 + net.pick(min(2, x.width - 1)))
    way = net.pick(4)
    same = [p for p in parts if p.shape == parts[0].shape]
    if way == 1 and len(same) > 1:
        return net.value(net.choose(("Add", "Sub")), same[-2:], same[0].shape, x.axis)
    if way == 2:
        return net.choose(parts)
    if way == 3:
        parts[0] = unary(net, LAST[x.kind](net, parts[0], parts[0].width))
    parts = parts[::-1] if net.pick(2) else parts
    return net.value("Concat", parts, resized(x, sum(p.width for p in parts)), x.axis, axis=x.axis)


def split_parts(net: Drawing, x: Value, count: int, even: bool = False) -> list[Value]:
    """Add a Split along the channels in some form."""
    cuts = sorted({1 + net.pick(x.width - 1) for _ in range(count - 1)}) if not even and net.pick(2) else []
    sizes = np.diff([0, *cuts, x.width]).tolist() if cuts else [x.width // count] * count
    dealt = -(-x.width // count)  # the last part may be smaller
    if not cuts and x.width % count:
        sizes = [dealt] * (count - 1) + [x.width - dealt * (count - 1)]
        if net.opset < 18 or sizes[-1] <= 0:
            sizes = [1] * (count - 1) + [x.width - count + 1]
    numbered = not cuts and net.opset >= 18 and sizes == [min(dealt, x.width - dealt * i) for i in range(count)] and net.pick(2)
    bare = len(set(sizes)) == 1 and net.opset < 18 and net.pick(2)
    inputs: list[str | Value] = [x]
    attributes: dict[str, Any] = {"axis": x.axis - len(x.shape) if net.rarely(3) and net.opset >= 11 else x.axis}
    if numbered:
        attributes["num_outputs"] = len(sizes)
    elif not bare and net.opset >= 13:
        inputs.append(net.ints(sizes))
    elif not bare:
        attributes["split"] = sizes
    names = net.node("Split", inputs, len(sizes), **attributes)
    return [net.enter(Value(name, resized(x, size), x.axis)) for name, size in zip(names, sizes, strict=True)]


def slice_channels(net: Drawing, x: Value) -> Value | None:
    """Slice along the channels (and something else, at times)."""
    c = x.width
    starts_ends_steps = [(0, INT_MAX, 1), (0, max(1, c // 2), 1), (c // 2, c, 1), (0, -1, 1)]
    if net.opset >= 10:
        starts_ends_steps += [(-min(2, c), INT64_MAX, 1), (-1, -INT_MAX, -1), (c - 1, -c - 1, -1), (0, c, 2)]
    start, end, step = net.choose(starts_ends_steps)
    width = len(range(*slice(start, None if step < 0 else end, step).indices(c)))
    if not width:
        return None
    axis = x.axis - len(x.shape) if net.opset >= 11 and net.rarely(3) else x.axis
    bounds = [[0, start], [INT64_MAX, end], [0, axis], [1, step]] if net.rarely(3) else [[start], [end], [axis], [step]]
    if net.opset < 10:
        return net.value("Slice", [x], resized(x, width), x.axis, starts=bounds[0], ends=bounds[1], axes=bounds[2])
    return net.value("Slice", [x, *[net.ints(b) for b in bounds[: 3 + (step != 1)]]], resized(x, width), x.axis)


def gather_channels(net: Drawing, x: Value) -> Value:
    """Gather channels: permuted, repeated, counted from the end."""
    c = x.width
    if net.pick(2):
        index = list(range(c))[:: -1 if net.pick(2) else 1]
        k = net.pick(c)
        index = index[k:] + index[:k]
    else:
        index = [net.pick(c) for _ in range(1 + net.pick(min(c, 6)))]
    index = [i - c if net.opset >= 11 and net.rarely(4) else i for i in index]
    return net.value("Gather", [x, net.ints(index)], resized(x, len(index)), x.axis, axis=x.axis)


def gather_one(net: Drawing, x: Value) -> Value | None:
    """Gather one token, or one channel as if it were a size-1 axis."""
    if x.kind != "tokens":
        return None
    at = net.constant(np.asarray(net.pick(x.shape[1]), np.int64), "i")
    return net.value("Gather", [x, at], (x.shape[0], x.shape[2]), 1, axis=1)


def pad(net: Drawing, x: Value) -> Value | None:
    """Pad channels, space or both."""
    pads = [0] * 2 * len(x.shape)
    pads[x.axis], pads[x.axis + len(x.shape)] = net.pick(3), net.pick(3)
    if x.kind == "image" and net.rarely(3):
        pads[-1] = 1
    shape = [n + a + b for n, a, b in zip(x.shape, pads[: len(x.shape)], pads[len(x.shape) :], strict=True)]
    if not any(pads) or shape[x.axis] > WIDEST:
        return None
    if net.opset < 11:
        return net.value("Pad", [x], shape, x.axis, pads=pads, value=0.5 * net.pick(2))
    value = [net.scalar(0.5)] if net.rarely(3) else []
    return net.value("Pad", [x, net.ints(pads), *value], shape, x.axis)


def resize(net: Drawing, x: Value) -> Value | None:
    """Resize or Upsample by 2, given scales or sizes."""
    if np.prod(x.shape) > 1000:
        return None
    shape = (*x.shape[:2], *[2 * n for n in x.shape[2:]])
    scales = net.constant(np.asarray([1, 1, *[2] * (len(shape) - 2)], np.float32), "s")
    if net.opset < 10:
        return net.value("Upsample", [x, scales], shape, 1, mode="nearest")
    if net.opset == 10:
        return net.value("Resize", [x, scales], shape, 1, mode="nearest")
    if net.dynamic or net.pick(2) or net.opset < 13:
        return net.value("Resize", [x, "", scales] if net.opset >= 13 else [x, roi(net), scales], shape, 1, mode="nearest")
    return net.value("Resize", [x, "", "", net.ints(shape)], shape, 1, mode=net.choose(("nearest", "linear")))


def roi(net: Drawing) -> str:
    """Return the name of the empty region that Resize wants in opset 11."""
    return net.constant(np.empty(0, np.float32), "roi")


def pool(net: Drawing, x: Value) -> Value | None:
    """MaxPool or AveragePool."""
    rank = len(x.shape) - 2
    if min(x.shape[2:]) < 2:
        return None
    op, stride = net.choose(("MaxPool", "AveragePool")), 1 + net.pick(2)
    shape = (*x.shape[:2], *[(n - 2) // stride + 1 for n in x.shape[2:]])
    return net.value(op, [x], shape, 1, kernel_shape=[2] * rank, strides=[stride] * rank)


def shuffle(net: Drawing, x: Value) -> Value | None:
    """Channel shuffle: channels dealt out to groups and taken from them in turn."""
    groups = net.choose([g for g in range(2, x.width) if x.width % g == 0] or [1])
    rest = [Dim((a,)) for a in range(2, len(x.shape))]
    if groups == 1 or x.kind != "image":
        return None
    dealt = net.reshape(x, [Dim((0,)), groups, Dim((1,), groups), *rest], 1, hide=True)
    n, _, each, *sizes = dealt.shape
    swap = [0, 2, 1, *range(3, len(dealt.shape))]
    turned = Value(net.node("Transpose", [dealt], perm=swap)[0], (n, each, groups, *sizes), 1)
    if net.rarely(4):
        turned = Value(net.node("Relu", [turned])[0], turned.shape, 1)
    return net.reshape(turned, [Dim((0,)), Dim((1, 2)), *[Dim((a + 1,)) for a in range(2, len(x.shape))]], 1)


def depth_to_space(net: Drawing, x: Value) -> Value | None:
    """DepthToSpace."""
    if x.width % 4 or len(x.shape) != 4 or x.shape[2] > 5:
        return None
    mode = {"mode": net.choose(("DCR", "CRD"))} if net.opset >= 11 else {}
    shape = (x.shape[0], x.width // 4, 2 * x.shape[2], 2 * x.shape[3])
    return net.value("DepthToSpace", [x], shape, 1, blocksize=2, **mode)


def space_to_depth(net: Drawing, x: Value) -> Value | None:
    """SpaceToDepth."""
    if len(x.shape) != 4 or x.shape[2] % 2 or x.shape[3] % 2 or x.width > 6:
        return None
    return net.value("SpaceToDepth", [x], (x.shape[0], 4 * x.width, x.shape[2] // 2, x.shape[3] // 2), 1, blocksize=2)


def chunk(net: Drawing, x: Value) -> Value | None:
    """Halves of the channels, their bounds computed at run time; one gates the other."""
    c = x.width
    if c % 2 or net.opset < 10:
        return None
    whole = net.node("Gather", [net.node("Shape", [x])[0], net.ints([x.axis])], axis=0)[0]
    half = net.node("Div", [net.node("Add", [whole, net.ints([1])])[0], net.ints([2])])[0]
    bounds = [[net.ints([0]), half], [half, net.node("Mul", [half, net.ints([2])])[0] if net.pick(2) else whole]]
    first, second = (net.value("Slice", [x, *b, net.ints([x.axis])], resized(x, c // 2), x.axis) for b in bounds)
    return net.like(first, "Mul", net.like(second, "Sigmoid"))


def fold(net: Drawing, x: Value) -> Value | None:
    """The largest (or mean) of every pair of channels, by a Reshape that splits them in one way or the other."""
    if x.width % 2 or x.width < 4:
        return None
    pair_first = net.pick(2)
    rest = [Dim((a,)) for a in range(x.axis + 1, len(x.shape))]
    before = [Dim((a,)) for a in range(x.axis)]
    parts = [2, Dim((x.axis,), 2)] if pair_first else [Dim((x.axis,), 2), 2]
    y = net.reshape(x, [*before, *parts, *rest], x.axis, hide=True)
    op = net.choose(("ReduceMax", "ReduceMean"))
    return net.enter(Value(net.axes(op, y, [x.axis + (not pair_first)], keepdims=0), resized(x, x.width // 2), x.axis))


def spread(net: Drawing, x: Value) -> Value | None:
    """Pixel shuffle: Reshape, Transpose, Reshape."""
    if x.width % 4 or len(x.shape) != 4 or x.shape[2] > 5:
        return None
    parts = [Dim((1,), 4), 2, 2] if net.pick(2) else [2, 2, Dim((1,), 4)]
    y = net.reshape(x, [Dim((0,)), *parts, Dim((2,)), Dim((3,))], 1, hide=True)
    perm = [0, 1, 4, 2, 5, 3] if parts[1] == parts[2] else [0, 3, 4, 1, 5, 2]
    turned = Value(net.node("Transpose", [y], perm=perm)[0], tuple(y.shape[a] for a in perm), 1)
    return net.reshape(turned, [Dim((0,)), Dim((1,)), Dim((2, 3)), Dim((4, 5))], 1)


def softmax(net: Drawing, x: Value) -> Value:
    """Softmax over the channels or over something else."""
    return net.like(x, "Softmax", axis=net.choose(range(len(x.shape) - 1, 0, -1)))


def windows(net: Drawing, x: Value) -> Value | None:
    """x[n,h,w,c] in windows of 2 by 2, a layer, and back."""
    n, h, w, c = x.shape
    if h % 2 or w % 2:
        return None
    y = net.reshape(x, [Dim((0,)), Dim((1,), 2), 2, Dim((2,), 2), 2, Dim((3,))], 5, hide=True)
    perm = [0, 1, 3, 2, 4, 5]
    y = Value(net.node("Transpose", [y], perm=perm)[0], (n, h // 2, w // 2, 2, 2, c), 5)
    y = net.reshape(y, [Dim((0, 1, 2)), 4, Dim((5,))], 2, hide=True)
    y = linear(net, y, c) if net.pick(2) else Value(net.node("Relu", [y])[0], y.shape, 2)
    y = net.reshape(y, [-1 if net.dynamic else n, h // 2, w // 2, 2, 2, Dim((2,))], 5, hide=True)
    y = Value(net.node("Transpose", [y], perm=perm)[0], (n, h // 2, 2, w // 2, 2, c), 5)
    return net.reshape(y, [Dim((0,)), Dim((1, 2)), Dim((3, 4)), Dim((5,))], 3)


def roll(net: Drawing, x: Value) -> Value | None:
    """Two slices of an axis that carries no channels, swapped."""
    if net.opset < 10 or x.kind == "vector":
        return None
    axis = net.choose([a for a in range(1, len(x.shape)) if a != x.axis])
    if x.shape[axis] == 1:
        return None
    parts = [net.node("Slice", [x, *[net.ints([bound]) for bound in bounds]])[0] for bounds in ((1, INT64_MAX, axis), (0, 1, axis))]
    return net.value("Concat", parts, x.shape, x.axis, axis=axis)


def tile(net: Drawing, x: Value) -> Value | None:
    """Tile along the channels."""
    repeats = [2 if a == x.axis else 1 for a in range(len(x.shape))]
    return net.value("Tile", [x, net.ints(repeats)], resized(x, 2 * x.width), x.axis) if x.width <= 8 else None


def unsqueeze_squeeze(net: Drawing, x: Value) -> Value:
    """An axis of size 1 comes, sees a function, and goes."""
    at = net.pick(len(x.shape) + 1)
    y = net.axes("Unsqueeze", x, [at])
    y = net.node(net.choose(("Tanh", "Relu")), [y])[0]
    return net.enter(Value(net.axes("Squeeze", y, [at]), x.shape, x.axis))


# --- from one kind to another ---


def flatten(net: Drawing, x: Value) -> Value | None:
    """Channels and space in one axis, by Flatten or Reshape."""
    width = int(np.prod(x.shape[1:]))
    if width > 150:
        return None
    if net.pick(2):
        return linear(net, net.value("Flatten", [x], (x.shape[0], width), 1, axis=1))
    return linear(net, net.reshape(x, [Dim((0,)), Dim(tuple(range(1, len(x.shape))))], 1))


def pooled_vector(net: Drawing, x: Value) -> Value:
    """Averages over space (or tokens) as a vector."""
    axes = [a for a in range(1, len(x.shape)) if a != x.axis]
    shape = (x.shape[0], x.width)
    if x.kind == "image" and net.pick(2):
        y = global_pool(net, x)
        if net.pick(2):
            return net.enter(Value(net.axes("Squeeze", y, axes), shape, 1))
        return net.value("Flatten", [y], shape, 1)
    return net.enter(Value(net.axes(net.choose(("ReduceMean", "ReduceSum", "ReduceMax")), x, axes, keepdims=0), shape, 1))


def attend_over_channels(net: Drawing, x: Value) -> Value | None:
    """x times a function of its mean over the channels."""
    op = net.choose(("ReduceMean", "ReduceMax", "ReduceSum"))
    mean = Value(net.axes(op, x, [x.axis], keepdims=1), resized(x, 1), x.axis)
    return net.like(x, "Mul", net.enter(Value(net.node("Sigmoid", [mean])[0], mean.shape, x.axis)))


def to_tokens(net: Drawing, x: Value) -> Value:
    """x[n,c,...] -> y[n,t,c]"""
    n, c, *rest = x.shape
    if len(rest) > 1:
        x = net.reshape(x, [Dim((0,)), Dim((1,)), Dim(tuple(range(2, len(x.shape))))], 1, hide=True)
    return net.value("Transpose", [x], (n, int(np.prod(rest)), c), 2, perm=[0, 2, 1])


def channels_last(net: Drawing, x: Value) -> Value | None:
    """A layer between two transpositions: x[n,h,w,c]."""
    if len(x.shape) != 4:
        return None
    n, c, h, w = x.shape
    y = net.value("Transpose", [x], (n, h, w, c), 3, perm=[0, 2, 3, 1])
    y = layer_norm(net, y) if net.pick(2) else y
    out = c if net.pick(2) else net.new_width()
    y = net.value("MatMul", [y, net.weight((c, out), c)], (n, h, w, out), 3)
    y = net.value("Transpose", [y], (n, out, h, w), 1, perm=[0, 3, 1, 2])
    return net.like(x, "Add", y) if out == c and net.pick(2) else y


def to_image(net: Drawing, x: Value) -> Value:
    """x[n,t,c] -> y[n,c,t] or y[n,c,t,1]; x[n,c] -> y[n,c,1,1]"""
    if x.kind == "vector":
        return net.enter(Value(net.axes("Unsqueeze", x, [2, 3]), (*x.shape, 1, 1), 1))
    n, t, c = x.shape
    y = net.value("Transpose", [x], (n, c, t), 1, perm=[0, 2, 1])
    return net.reshape(y, [Dim((0,)), Dim((1,)), Dim((2,)), 1], 1) if net.pick(2) else y


def grid_to_image(net: Drawing, x: Value) -> Value:
    """x[n,h,w,c] -> y[n,c,h,w]"""
    n, h, w, c = x.shape
    return net.value("Transpose", [x], (n, c, h, w), 1, perm=[0, 3, 1, 2])


def expand_over_space(net: Drawing, x: Value) -> Value | None:
    """x[n,c] spread over an earlier image, and added to it."""
    images = [v for v in net.values if v.kind == "image" and v not in net.inputs]
    if not images:
        return None
    other = net.choose(images[::-1])
    y = to_image(net, linear(net, x, other.width))
    if len(other.shape) != 4:
        return None
    if net.pick(2):
        y = net.value("Expand", [y, net.node("Shape", [other])[0]], other.shape, 1)
    return net.like(other, "Add", y)


# --- transformers ---


def mlp(net: Drawing, x: Value) -> Value:
    """x and two layers of it, added, with or without a norm or a gate."""
    y = layer_norm(net, x) if net.pick(2) else x
    if net.rarely(3):
        width = net.new_width()
        inner = net.like(linear(net, y, width), "Mul", net.like(linear(net, y, width), "Sigmoid"))
    else:
        inner = unary(net, linear(net, y))
    return net.like(x, "Add", linear(net, inner, x.width))


def attention(net: Drawing, x: Value) -> Value | None:
    """Self-attention, with queries, keys and values in one layer or in three."""
    heads, depth = 1 + net.pick(3), 1 + net.pick(3)
    n, t, _ = x.shape
    q, k, v = net.choose((separate, split_fused, reshaped_fused))(net, x, heads, depth)
    scores = Value(net.node("MatMul", [q, transpose_last(net, k)])[0], (n, heads, t, t), 1)
    scores = scale_scores(net, scores, q)
    weights = net.node("Softmax", [scores], axis=3)[0]
    mixed = Value(net.node("MatMul", [weights, v])[0], (n, heads, t, depth), 1)
    turned = Value(net.node("Transpose", [mixed], perm=[0, 2, 1, 3])[0], (n, t, heads, depth), 2)
    joined = net.reshape(turned, [Dim((0,)), Dim((1,)), Dim((2, 3))], 2)
    return net.like(x, "Add", linear(net, joined, x.width)) if net.pick(2) else linear(net, joined)


def fused_attention(net: Drawing, x: Value) -> Value | None:
    """The operator Attention, with as many heads of keys and values as of queries, or fewer."""
    if net.opset < 23:
        return None
    heads, depth, values = 2 * (1 + net.pick(2)), 1 + net.pick(3), 1 + net.pick(3)
    fewer = heads // 2 if net.pick(2) else heads
    q, k, v = (linear(net, x, width) for width in (heads * depth, fewer * depth, fewer * values))
    shape = (*x.shape[:2], heads * values)
    mixed = net.value("Attention", [q, k, v], shape, 2, q_num_heads=heads, kv_num_heads=fewer)
    return net.like(x, "Add", linear(net, mixed, x.width)) if net.pick(2) else linear(net, mixed)


def to_heads(net: Drawing, x: Value, heads: int, depth: int) -> Value:
    """x[n,t,h*d] -> y[n,h,t,d]"""
    split_up = net.reshape(x, [Dim((0,)), Dim((1,)), heads, depth if net.pick(2) else Dim((2,), heads)], 2, hide=True)
    n, t, h, d = split_up.shape
    return Value(net.node("Transpose", [split_up], perm=[0, 2, 1, 3])[0], (n, h, t, d), 1)


def separate(net: Drawing, x: Value, heads: int, depth: int) -> list[Value]:
    """Three layers."""
    return [to_heads(net, linear(net, x, heads * depth), heads, depth) for _ in range(3)]


def split_fused(net: Drawing, x: Value, heads: int, depth: int) -> list[Value]:
    """One layer, and a Split."""
    parts = split_parts(net, linear(net, x, 3 * heads * depth), 3, even=True)
    return [to_heads(net, part, heads, depth) for part in parts]


def reshaped_fused(net: Drawing, x: Value, heads: int, depth: int) -> list[Value]:
    """One layer, reshaped to [n,t,3,h,d], transposed, and picked from."""
    fused = linear(net, x, 3 * heads * depth)
    n, t, _ = fused.shape
    y = net.reshape(fused, [Dim((0,)), Dim((1,)), 3, heads, depth if net.pick(2) else Dim((2,), 3 * heads)], 2, hide=True)
    turned = net.node("Transpose", [y], perm=[2, 0, 3, 1, 4])[0]
    index = [net.constant(np.asarray(i, np.int64), "i") for i in range(3)]
    return [Value(net.node("Gather", [turned, i], axis=0)[0], (n, heads, t, depth), 1) for i in index]


def transpose_last(net: Drawing, x: Value) -> str:
    """Swap the two last axes."""
    return net.node("Transpose", [x], perm=[0, 1, 3, 2])[0]


def scale_scores(net: Drawing, scores: Value, q: Value) -> Value:
    """Divide by the square root of the depth of heads: a constant, or computed from a shape."""
    form = net.pick(3)
    if form == 0:
        return Value(net.node("Mul", [scores, net.scalar(0.5)])[0], scores.shape, 1)
    sizes = net.node("Shape", [q])[0]
    depth = net.node("Gather", [sizes, net.constant(np.asarray(3, np.int64), "i")], axis=0)
    root = net.node("Sqrt", net.node("Cast", depth, to=TensorProto.FLOAT))[0]
    if form == 1:
        return Value(net.node("Div", [scores, root])[0], scores.shape, 1)
    factor = net.node("Div", [net.scalar(1), root])[0]
    return Value(net.node("Mul", [scores, factor])[0], scores.shape, 1)


# --- recurrent ---


def recurrent(net: Drawing, x: Value) -> Value:
    """LSTM, GRU or RNN, both ways or one, with or without a first state; its outputs are joined, or its last states are."""
    op, gates = net.choose((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    n, t, c = x.shape
    hidden, ways = 1 + net.pick(4), 1 + net.pick(2)
    turned = Value(net.node("Transpose", [x], perm=[1, 0, 2])[0], (t, n, c), 2)
    weights = [net.weight((ways, gates * hidden, c), c), net.weight((ways, gates * hidden, hidden), hidden)]
    bias = net.vector((ways, 2 * gates * hidden)) if net.pick(2) else ""
    states = [zero_state(net, x, ways, hidden) for _ in range(2 if op == "LSTM" else 1)] if net.pick(2) else []
    inputs = [turned, *weights, bias, *([""] if states else []), *states]
    direction = "bidirectional" if ways == 2 else net.choose(("forward", "reverse"))
    y, last = net.node(op, inputs, 2, hidden_size=hidden, direction=direction)
    if net.rarely(3):
        state = Value(net.node("Transpose", [last], perm=[1, 0, 2])[0], (n, ways, hidden), 2)
        return net.reshape(state, [Dim((0,)), Dim((1, 2))], 1)
    joined = Value(net.node("Transpose", [y], perm=[2, 0, 1, 3])[0], (n, t, ways, hidden), 2)
    return net.reshape(joined, [Dim((0,)), Dim((1,)), Dim((2, 3))], 2)


def zero_state(net: Drawing, x: Value, ways: int, hidden: int) -> str:
    """A first state of zeros: ConstantOfShape, or a small constant, expanded."""
    sizes = net.node("Shape", [x])[0]
    batch = net.node("Gather", [sizes, net.ints([0])], axis=0)[0]
    shape = net.node("Concat", [net.ints([ways]), batch, net.ints([hidden])], axis=0)[0]
    if net.pick(2):
        return net.node("Expand", [net.vector((ways, 1, hidden)), shape])[0]
    return net.node("ConstantOfShape", [shape], value=numpy_helper.from_array(np.zeros(1, np.float32)))[0]


Block = Callable[[Drawing, Value], Value | None]
STARTS = (image, tokens, vector)
ANYWHERE: tuple[Block, ...] = (
    unary,
    residual,
    with_constant,
    concat,
    split,
    slice_channels,
    gather_channels,
    pad,
    clip,
    prelu,
    where,
    gate,
    attend_over_channels,
    tile,
    chunk,
    fold,
    softmax,
    roll,
    unsqueeze_squeeze,
    another_input,
)
SPATIAL: tuple[Block, ...] = (
    conv,
    grouped_conv,
    batch_norm,
    pool,
    shuffle,
    conv_transpose,
    resize,
    depth_to_space,
    space_to_depth,
    spread,
    instance_norm,
    group_norm,
    lrn,
    channels_last,
    flatten,
    pooled_vector,
    to_tokens,
)
SEQUENTIAL: tuple[Block, ...] = (
    linear,
    mlp,
    attention,
    layer_norm,
    recurrent,
    fused_attention,
    rms_norm,
    gather_one,
    pooled_vector,
    to_image,
    flatten,
)
FLAT: tuple[Block, ...] = (linear, mlp, batch_norm, layer_norm, to_image, expand_over_space)
GRID: tuple[Block, ...] = (linear, mlp, layer_norm, grid_to_image, pooled_vector, windows)
BLOCKS = {"image": SPATIAL + ANYWHERE, "tokens": SEQUENTIAL + ANYWHERE, "vector": FLAT + ANYWHERE, "grid": GRID + ANYWHERE}
