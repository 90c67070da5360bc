"""Attention, and the layers around it."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.generator.drawing import Drawing
from tests.generator.elementwise import unary
from tests.generator.layers import linear
from tests.generator.movement import split_parts
from tests.generator.normalization import layer_norm
from tests.generator.values import Dim, Value


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


def multi_head_attention(net: Drawing, x: Value) -> Value:
    """com.microsoft MultiHeadAttention, with as many dimensions of values as of keys or not, and with or without a bias."""
    heads, depth, values = 1 + net.pick(3), 1 + net.pick(3), 1 + net.pick(3)
    widths = (heads * depth, heads * depth, heads * values)
    read: list[str | Value] = [linear(net, x, width) for width in widths]
    read += [net.vector(sum(widths))] if net.pick(2) else []
    shape = (*x.shape[:2], heads * values)
    mixed = net.value("MultiHeadAttention", read, shape, 2, num_heads=heads, domain="com.microsoft")
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
