"""Normalization."""

from __future__ import annotations

import numpy as np

from tests.generator.drawing import Drawing
from tests.generator.values import Dim, Value


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
