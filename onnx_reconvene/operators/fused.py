"""Operators that onnxruntime's optimizer and exporters for it fuse from several (domain com.microsoft)."""

from __future__ import annotations

from onnx_reconvene.op import Op
from onnx_reconvene.operators.elementwise import broadcast, broadcast_labels, unary
from onnx_reconvene.operators.normalization import normalize
from onnx_reconvene.operators.rule import Operator
from onnx_reconvene.operators.weights import conv, conv_attributes, conv_macs, fused_matmul, gemm, product_macs


def fused_conv(op: Op) -> None:
    """as Conv, plus z[n,o,...] and an activation"""
    conv(op)
    if op.has(3):
        op.equate(op.flow.values[op.node.outputs[0].name].labels[1], op.along(3, 1)[0])


def skip_norm(op: Op) -> None:
    """f(x[...,c] + skip[...,c] + bias[c], scale[c], shift[c]) normalized along c -> y[...,c], ..., the sum itself"""
    last = len(op.shape(0)) - 1
    skip = dict(enumerate(broadcast_labels(op, [0, 1], op.shape(0))))
    normalize(op, [last], op.inputs()[2:])
    for o in op.outputs()[1:]:
        labels = {a: x for a, x in skip.items() if x is not None and len(op.out_shape(o)) > a and x.size == op.out_shape(o)[a]}
        op.emit(labels, o)


def quantized_binary(op: Op) -> None:
    """f(a[...], its scale and zero point, b[...], its scale and zero point, those of y) -> y[...]"""
    labels = broadcast_labels(op, [0, 3], op.out_shape())
    op.emit({axis: along for axis, along in enumerate(labels) if along is not None})


OPERATORS = {
    "com.microsoft.BiasGelu": Operator(broadcast),
    "com.microsoft.FastGelu": Operator(broadcast),
    "com.microsoft.FusedConv": Operator(fused_conv, conv_attributes, macs=conv_macs),
    "com.microsoft.FusedGemm": Operator(gemm, macs=product_macs),
    "com.microsoft.FusedMatMul": Operator(fused_matmul, macs=product_macs),
    "com.microsoft.Gelu": Operator(unary),
    "com.microsoft.QLinearAdd": Operator(quantized_binary),
    "com.microsoft.QLinearLeakyRelu": Operator(unary),
    "com.microsoft.QLinearMul": Operator(quantized_binary),
    "com.microsoft.QLinearSigmoid": Operator(unary),
    "com.microsoft.QuickGelu": Operator(unary),
    "com.microsoft.SkipLayerNormalization": Operator(skip_norm),
    "com.microsoft.SkipSimplifiedLayerNormalization": Operator(skip_norm),
}
