"""From one kind of value to another."""

from __future__ import annotations

import numpy as np

from tests.generator.drawing import Drawing
from tests.generator.layers import linear
from tests.generator.normalization import layer_norm
from tests.generator.spatial import global_pool
from tests.generator.values import Dim, Value
from tests.generator.weights import draw_weight


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


def gather_one(net: Drawing, x: Value) -> Value | None:
    """Gather one token, or one channel as if it were a size-1 axis."""
    if x.kind != "tokens":
        return None
    at = net.constant(np.asarray(net.pick(x.shape[1]), np.int64), "i")
    return net.value("Gather", [x, at], (x.shape[0], x.shape[2]), 1, axis=1)


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
    y = net.value("MatMul", [y, draw_weight(net, (c, out), c)], (n, h, w, out), 3)
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
