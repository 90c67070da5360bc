"""Operators that treat each element by itself, or with its counterparts in other tensors."""

from __future__ import annotations

from tests.generator.drawing import Drawing
from tests.generator.layers import LAST
from tests.generator.values import Value, resized

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


def attend_over_channels(net: Drawing, x: Value) -> Value | None:
    """x times a function of its mean over the channels."""
    op = net.choose(("ReduceMean", "ReduceMax", "ReduceSum"))
    mean = Value(net.axes(op, x, [x.axis], keepdims=1), resized(x, 1), x.axis)
    return net.like(x, "Mul", net.enter(Value(net.node("Sigmoid", [mean])[0], mean.shape, x.axis)))


def softmax(net: Drawing, x: Value) -> Value:
    """Softmax over the channels or over something else."""
    return net.like(x, "Softmax", axis=net.choose(range(len(x.shape) - 1, 0, -1)))


def unsqueeze_squeeze(net: Drawing, x: Value) -> Value:
    """An axis of size 1 comes, sees a function, and goes."""
    at = net.pick(len(x.shape) + 1)
    y = net.axes("Unsqueeze", x, [at])
    y = net.node(net.choose(("Tanh", "Relu")), [y])[0]
    return net.enter(Value(net.axes("Squeeze", y, [at]), x.shape, x.axis))
