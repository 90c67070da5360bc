"""Quantization: labels pass, and per-channel scales and zero points take them."""

from __future__ import annotations

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator


def linear(op: Op) -> None:
    """f(x[..., c, ...], scale[c] or one, zero point[c] or one) -> y[..., c, ...]"""
    if op.attr("block_size", 0):
        raise UnsupportedError("it quantizes in blocks")
    labels = op.axes(0)
    axis = op.attr("axis", 1) % max(1, len(labels))
    for i in op.inputs()[1:]:
        if len(op.shape(i)) == 1 and op.shape(i)[0] > 1:
            op.equate(op.axes(i)[0], labels[axis])
    if op.type == "DequantizeLinear":
        op.quantized(0, 1, 2, [axis])
    op.emit(dict(enumerate(labels)))


def dynamic_linear(op: Op) -> None:
    """x[...] -> y[...] in 8 bits, with one scale and zero point, which depend on the whole of x"""
    labels = op.axes(0)
    for along in labels:
        op.inexact(along)
    op.emit(dict(enumerate(labels)))
    for o in op.outputs()[1:]:
        op.emit({}, o)


OPERATORS = {
    "DequantizeLinear": Operator(linear),
    "DynamicQuantizeLinear": Operator(dynamic_linear),
    "QuantizeLinear": Operator(linear),
}
