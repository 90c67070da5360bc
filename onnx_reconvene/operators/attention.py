"""Attention as one operator: heads are removed whole, with the keys and values that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.labels import Labels
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp, Mask


def attention(op: Op) -> None:
    """q[b,t,h*d], k[b,s,g*d], v[b,s,g*e] -> y[b,t,h*e], h a multiple of g; or the same with heads on a separate axis"""
    if len(op.outputs()) > 3:
        raise UnsupportedError("it returns products of queries and keys")
    if len(op.shape(0)) == 4:
        (q,), (k,) = op.along(0, 1), op.along(1, 1)
        v, inner = op.along(2, 1, 3)
        heads = _tie_heads(op, (q, k, v), shared=k.size)
        op.emit({1: q, 3: inner})
    else:
        q, k, v = (op.along(i, 2)[0] for i in range(3))
        heads = _merge_heads(op, (q, k, v), int(op.attr("q_num_heads")), int(op.attr("kv_num_heads")))
    _tie_others(op, heads, mask=3, past=(4, 5))


def _merge_heads(op: Op, qkv: Sequence[Labels], heads: int, shared: int) -> Labels:
    """Emit the outputs of all heads in a row: the channels of the values, as often as heads share them. Returns a label for each
    set of heads that share keys and values."""
    q, k, v = qkv
    if q.size % heads or k.size % shared or v.size % shared or heads % shared:
        raise UnsupportedError("its heads do not divide its channels")
    sets = _tie_heads(op, qkv, shared)
    op.emit({2: np.broadcast_to(v.reshape(shared, 1, -1), (shared, heads // shared, v.size // shared)).ravel()})
    return sets


def _tie_heads(op: Op, qkv: Sequence[Labels], shared: int) -> Labels:
    """Tie all channels of the heads that share keys and values; returns a label for each such set of heads."""
    heads = qkv[1].reshape(shared, -1)[:, 0]
    for labels in qkv:
        op.equate(labels.reshape(shared, -1), heads[:, None])
    return heads


def _tie_others(op: Op, sets: Labels, mask: int, past: Sequence[int] = ()) -> None:
    """Tie to sets of heads what else knows of heads, on axis 1: a mask, and the keys and values of earlier steps and of all."""
    for i in [i for i in (mask, *past) if op.has(i)]:
        if len(op.shape(i)) == 4 and op.shape(i)[1] > 1:
            op.equate(op.along(i, 1)[0].reshape(sets.size, -1), sets[:, None])
    for o in [o for o in op.outputs()[1:] if op.is_read(o)]:
        op.emit({1: sets}, o)


def count_heads(cut: CutOp) -> None:
    """the numbers of heads are those that remain"""
    for attribute, i in (("q_num_heads", 0), ("kv_num_heads", 1)):
        if attribute in cut.node.attrs:
            _count(cut, attribute, cut.kept(i, 2))


def _count(cut: CutOp, attribute: str, kept: Mask) -> None:
    """Set an attribute that counts heads to how many remain, given which of their channels do."""
    cut.node.attrs[attribute] = int(kept.reshape(int(cut.node.attrs[attribute]), -1).any(1).sum())


def multi_head(op: Op) -> None:
    """q[b,t,h*d], k[b,s,h*d], v[b,s,h*e], bias of all three in a row -> y[b,t,h*e]"""
    if any(op.has(i) for i in (8, 9)) or not (op.has(1) and op.has(2)) or len(op.outputs()) > 3:
        raise UnsupportedError("of its inputs only queries, keys, values, bias, masks and earlier steps are followed")
    qkv = [op.along(i, 2)[0] for i in range(3)]
    heads = int(op.attr("num_heads"))
    sets = _merge_heads(op, qkv, heads, heads)
    if op.has(3):
        op.equate(np.concatenate(qkv), op.along(3, 0)[0])
    _tie_others(op, sets, mask=5, past=(6, 7))


def count_num_heads(cut: CutOp) -> None:
    """`num_heads` is how many remain"""
    _count(cut, "num_heads", cut.kept(0, 2))


def group_query(op: Op) -> None:
    """q[b,t,h*d], k[b,s,g*d], v[b,s,g*d], or all three in a row -> y[b,t,h*d], h a multiple of g"""
    if any(op.has(i) for i in (11, 12, 13, 16)) or len(op.outputs()) > 3:
        raise UnsupportedError("sinks, quantized caches and products of queries and keys are not followed")
    heads, shared = int(op.attr("num_heads")), int(op.attr("kv_num_heads"))
    (q,) = op.along(0, 2)
    if op.has(1):
        qkv = [q, op.along(1, 2)[0], op.along(2, 2)[0]]
    else:
        size = q.size // (heads + 2 * shared)
        qkv = np.split(q, [heads * size, (heads + shared) * size])
    _tie_others(op, _merge_heads(op, qkv, heads, shared), mask=10, past=(3, 4))


def count_groups(cut: CutOp) -> None:
    """`num_heads` and `kv_num_heads` are how many remain"""
    heads, shared = int(cut.node.attrs["num_heads"]), int(cut.node.attrs["kv_num_heads"])
    kept = cut.kept(0, 2)
    if cut.node.inputs[1].name:
        keys = cut.kept(1, 2)
    else:
        kept, keys, _ = np.split(kept, np.cumsum([heads, shared]) * (kept.size // (heads + 2 * shared)))
    _count(cut, "num_heads", kept)
    _count(cut, "kv_num_heads", keys)


def projected(op: Op) -> None:
    """x[b,t,i] * w[i,q+k+v] + bias[q+k+v] = q[b,t,h*d], k[b,t,h*d], v[b,t,h*e] -> y[b,t,h*e]"""
    if op.has(4) or op.has(6) or any(op.is_read(o) for o in op.outputs()[1:]):
        raise UnsupportedError("it carries keys and values from step to step")
    (x,), (read, columns) = op.along(0, 2), op.along(1, 0, 1)
    op.equate(x, read)
    if op.has(2):
        op.equate(columns, op.along(2, 0)[0])
    heads = int(op.attr("num_heads"))
    sets = _merge_heads(op, np.split(columns, _bounds(op.attr("qkv_hidden_sizes"), columns.size)), heads, heads)
    _tie_others(op, sets, mask=5)
    op.layer(1, columns, read)


def projected_macs(op: Op) -> None:
    """the elements of the weight, at each position of the input"""
    op.macs({1: (0, 1), 0: (0, 1)})


def _bounds(sizes: Sequence[int] | None, columns: int) -> list[int]:
    """Return where the columns of keys and of values begin."""
    q, k, _ = sizes or [columns // 3] * 3
    return [q, q + k]


def count_projected(cut: CutOp) -> None:
    """`num_heads` is how many remain, and `qkv_hidden_sizes` of how many channels in all"""
    kept, attributes = cut.kept(1, 1), cut.node.attrs
    parts = np.split(kept, _bounds(attributes.get("qkv_hidden_sizes"), kept.size))
    _count(cut, "num_heads", parts[0])
    if "qkv_hidden_sizes" in attributes:
        attributes["qkv_hidden_sizes"] = [int(part.sum()) for part in parts]


def rotary(op: Op) -> None:
    """x[b,h,t,d] or x[b,t,h*d] with parts of each head turned -> y of the same shape: heads pass whole"""
    if len(op.shape(0)) == 4:
        heads, steps = op.along(0, 1, 2)
        op.emit({1: heads, 2: steps})
    else:
        (x,) = op.along(0, 2)
        heads = x.reshape(int(op.attr("num_heads", 0)) or x.size // (2 * op.shape(1)[-1]), -1)
        op.equate(heads, heads[:, :1])
        op.emit({2: x})


def count_rotated(cut: CutOp) -> None:
    """`num_heads` is how many remain"""
    if len(cut.old_shape(0)) == 3 and cut.node.attrs.get("num_heads"):
        count_num_heads(cut)


OPERATORS = {
    "RotaryEmbedding": Operator(rotary, count_rotated),
    "Attention": Operator(attention, count_heads),
    "com.microsoft.Attention": Operator(projected, count_projected, macs=projected_macs),
    "com.microsoft.GroupQueryAttention": Operator(group_query, count_groups),
    "com.microsoft.MultiHeadAttention": Operator(multi_head, count_num_heads),
}
