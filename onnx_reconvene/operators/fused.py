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


OPERATORS = {
    "com.microsoft.SkipLayerNormalization": Operator(skip_norm),
    "com.microsoft.SkipSimplifiedLayerNormalization": Operator(skip_norm),
}
