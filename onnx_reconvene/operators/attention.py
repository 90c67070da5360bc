"""Attention as one operator: heads are removed whole, with the keys and values that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.labels import Labels
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


def attention(op: Op) -> None:
    """q[b,t,h*d], k[b,s,g*d], v[b,s,g*e] -> y[b,t,h*e], h a multiple of g; or the same with heads on an axis of their own"""
    if any(op.has(i) for i in range(4, 7)) or len(op.outputs()) > 1:
        raise UnsupportedError("it carries keys and values from step to step")
    if len(op.shape(0)) == 4:
        (q,), (k,) = op.along(0, 1), op.along(1, 1)
        v, inner = op.along(2, 1, 3)
        out = {1: q, 3: inner}
    else:
        q, k, v = (op.along(i, 2)[0] for i in range(3))
        out = {2: merged(q, k, v, int(op.attr("q_num_heads")), int(op.attr("kv_num_heads")))}
    heads = tie_heads(op, q, k, v, shared=k.size if len(op.shape(0)) == 4 else int(op.attr("kv_num_heads")))
    if op.has(3) and len(op.shape(3)) == 4 and op.shape(3)[1] > 1:
        op.equate(op.along(3, 1)[0].reshape(heads.size, -1), heads[:, None])
    op.emit(out)


def merged(q: Labels, k: Labels, v: Labels, heads: int, shared: int) -> Labels:
    """Return the labels of the outputs of all heads in a row: those of the values, as often as heads share them."""
    if q.size % heads or k.size % shared or v.size % shared or heads % shared:
        raise UnsupportedError("its heads do not divide its channels")
    return np.broadcast_to(v.reshape(shared, 1, -1), (shared, heads // shared, v.size // shared)).ravel()


def tie_heads(op: Op, q: Labels, k: Labels, v: Labels, shared: int) -> Labels:
    """Tie all channels of the heads that share keys and values; returns a label for each such set of heads."""
    heads = k.reshape(shared, -1)[:, 0]
    for labels in (q, k, v):
        op.equate(labels.reshape(shared, -1), heads[:, None])
    return heads


def count_heads(cut: CutOp) -> None:
    """the numbers of heads are those left"""
    for attribute, i in (("q_num_heads", 0), ("kv_num_heads", 1)):
        if attribute in cut.node.attrs:
            heads = int(cut.node.attrs[attribute])
            cut.node.attrs[attribute] = int(cut.kept(i, 2).reshape(heads, -1).any(1).sum())


def multi_head(op: Op) -> None:
    """q[b,t,h*d], k[b,s,h*d], v[b,s,h*e], bias of all three in a row -> y[b,t,h*e]"""
    if any(op.has(i) for i in range(4, len(op.node.inputs))) or not (op.has(1) and op.has(2)) or len(op.outputs()) > 1:
        raise UnsupportedError("of its inputs only queries, keys, values and bias are followed")
    q, k, v = (op.along(i, 2)[0] for i in range(3))
    heads = int(op.attr("num_heads"))
    out = merged(q, k, v, heads, heads)
    tie_heads(op, q, k, v, heads)
    if op.has(3):
        op.equate(np.concatenate([q, k, v]), op.along(3, 0)[0])
    op.emit({2: out})


def count_num_heads(cut: CutOp) -> None:
    """`num_heads` is how many are left"""
    cut.node.attrs["num_heads"] = int(cut.kept(0, 2).reshape(int(cut.node.attrs["num_heads"]), -1).any(1).sum())


def rotary(op: Op) -> None:
    """x[b,h,t,d] or x[b,t,h*d] with parts of each head turned -> y of the same shape: heads pass whole"""
    if len(op.shape(0)) == 4:
        heads, steps = op.along(0, 1, 2)
        op.emit({1: heads, 2: steps})
    else:
        (x,) = op.along(0, 2)
        op.equate(x.reshape(int(op.attr("num_heads")), -1), x.reshape(int(op.attr("num_heads")), -1)[:, :1])
        op.emit({2: x})


def count_rotated(cut: CutOp) -> None:
    """`num_heads` is how many are left"""
    if len(cut.old_shape(0)) == 3:
        count_num_heads(cut)


OPERATORS = {
    "RotaryEmbedding": Operator(rotary, count_rotated),
    "Attention": Operator(attention, count_heads),
    "com.microsoft.MultiHeadAttention": Operator(multi_head, count_num_heads),
}
