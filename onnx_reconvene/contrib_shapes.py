"""Shapes of what operators of onnxruntime return that are no form of one that onnx knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx_reconvene.shapes import Shape

Attributes = Mapping[str, Any]
Inputs = Sequence[Shape]  # () where one is absent


def embedded(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """ids[b,t], segments, table[words,c] -> y[b,t,c], mask index[b], sum[b,t,c]"""
    result = (*inputs[0], inputs[2][1])
    return [result, inputs[0][:1], result]


def projected(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """x[b,t,i], w[i,q+k+v] -> y[b,t,v]"""
    sizes = attributes.get("qkv_hidden_sizes")
    return [(*inputs[0][:2], sizes[2] if sizes else inputs[1][1] // 3)]


def of_heads(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """q[b,t,h*d], k[b,s,h*d], v[b,s,h*e] -> y[b,t,h*e], keys[b,h,p+s,d] and values[b,h,p+s,e] with p earlier ones"""
    q, k, v = inputs[:3]
    past = inputs[6][2] if len(inputs) > 6 and inputs[6] else 0
    heads = attributes["num_heads"]
    cached = [(q[0], heads, past + x[1], x[2] // heads) for x in (k, v)]
    return [(*q[:2], v[2]), *cached]


def of_groups(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """q[b,t,h*d], k[b,t,g*d], v[b,t,g*d], or all in a row -> y[b,t,h*d]"""
    heads, shared = attributes["num_heads"], attributes["kv_num_heads"]
    size = inputs[0][2] // (heads if inputs[1] else heads + 2 * shared)
    return [(*inputs[0][:2], heads * size)]


def of_blocks(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """x[..., k] times a matrix of N columns in blocks of few bits -> y[..., N]"""
    return [(*inputs[0][:-1], attributes["N"])]


SHAPES: dict[str, Callable[[Inputs, Attributes], list[Shape]]] = {
    "com.microsoft.Attention": projected,
    "com.microsoft.EmbedLayerNormalization": embedded,
    "com.microsoft.GroupQueryAttention": of_groups,
    "com.microsoft.MatMulNBits": of_blocks,
    "com.microsoft.MultiHeadAttention": of_heads,
}
FLOATS = {"com.microsoft.EmbedLayerNormalization": 2}  # which input has the type of the result, where it is not the first
NEEDED = {"com.microsoft.MatMulNBits": 1, "com.microsoft.Attention": 2}  # how many inputs must be of known shape, if not three
