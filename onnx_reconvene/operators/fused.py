"""Operators that onnxruntime's optimizer and exporters for it fuse from several (domain com.microsoft)."""

from __future__ import annotations

from onnx_reconvene.op import Op
from onnx_reconvene.operators.elementwise import broadcast_labels
from onnx_reconvene.operators.normalization import normalize
from onnx_reconvene.operators.rule import Operator


def skip_norm(op: Op) -> None:
    """f(x[...,c] + skip[...,c] + bias[c], scale[c], shift[c]) normalized along c -> y[...,c], ..., the sum itself"""
    last = len(op.shape(0)) - 1
    skip = dict(enumerate(broadcast_labels(op, [0, 1], op.shape(0))))
    normalize(op, [last], op.inputs()[2:])
    for o in op.outputs()[1:]:
        labels = {a: x for a, x in skip.items() if x is not None and len(op.out_shape(o)) > a and x.size == op.out_shape(o)[a]}
        op.emit(labels, o)


def embed_norm(op: Op) -> None:
    """f(words[w,c] and others at indices, scale[c], shift[c]) normalized along c -> y[b,t,c], ..., the sum itself"""
    tables = [i for i in (2, 3, 4) if op.has(i)]
    (channels,) = op.along(2, 1)
    for i, axis in [*((i, 1) for i in tables[1:]), (5, 0), (6, 0)]:
        op.equate(channels, op.along(i, axis)[0])
    op.inexact(channels)
    for i in tables:
        op.layer(i, channels, op.fresh(0))
    for o, labels in ((0, {2: channels}), (1, {}), (2, {2: channels})):
        if o < len(op.node.outputs) and op.is_read(o):
            op.emit(labels, o)


OPERATORS = {
    "com.microsoft.EmbedLayerNormalization": Operator(embed_norm),
    "com.microsoft.SkipLayerNormalization": Operator(skip_norm),
    "com.microsoft.SkipSimplifiedLayerNormalization": Operator(skip_norm),
}
