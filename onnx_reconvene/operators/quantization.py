"""Quantization: labels pass, and per-channel scales and zero points take them."""

from __future__ import annotations

from functools import partial

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.labels import Labels
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator
from onnx_reconvene.operators.weights import conv_macs, convolve, matrix_product, product_macs


def linear(op: Op) -> None:
    """f(x[..., c, ...], scale[c] or one, zero point[c] or one) -> y[..., c, ...]"""
    if op.attr("block_size", 0):
        raise UnsupportedError("it quantizes in blocks")
    labels = op.axes(0)
    if len(op.shape(1)) == 1 and op.shape(1)[0] > 1:
        tie_parameters(op, labels[op.attr("axis", 1) % len(labels)], (1, 2))
    if op.type == "DequantizeLinear":
        op.quantized(0, 1, 2, op.attr("axis", 1))
    op.emit(dict(enumerate(labels)))


def tie_parameters(op: Op, channels: Labels, inputs: tuple[int, ...]) -> None:
    """Tie scales and zero points that are given per channel to the channels."""
    for i in inputs:
        if op.has(i) and op.shape(i) and op.shape(i)[-1] > 1:
            op.equate(channels, op.along(i, -1)[0])


def dynamic_linear(op: Op) -> None:
    """x[...] -> y[...] in 8 bits, with one scale and zero point, which depend on the whole of x"""
    labels = op.axes(0)
    for along in labels:
        op.inexact(along)
    op.emit(dict(enumerate(labels)))
    for o in op.outputs()[1:]:
        op.emit({}, o)


def conv_integer(op: Op) -> None:
    """as Conv, on integers: x, w, zero point of x, of w"""
    out = convolve(op, x=0, weight=1)
    op.quantized(1, None, 3)
    tie_parameters(op, out, (3,))


def qlinear_conv(op: Op) -> None:
    """as Conv: x, its scale and zero point, w, its scale and zero point, those of y, b"""
    out = convolve(op, x=0, weight=3, bias=8)
    op.quantized(3, 4, 5)
    tie_parameters(op, out, (4, 5))


def matmul_integer(op: Op) -> None:
    """as MatMul, on integers: a, b, zero point of a, of b"""
    out = matrix_product(op, a=0, b=1)
    op.quantized(1, None, 3, -1)
    tie_parameters(op, out[len(out) - 1], (3,))


def qlinear_matmul(op: Op) -> None:
    """as MatMul: a, its scale and zero point, b, its scale and zero point, those of y"""
    out = matrix_product(op, a=0, b=3)
    op.quantized(3, 4, 5, -1)
    tie_parameters(op, out[len(out) - 1], (4, 5))


OPERATORS = {
    "ConvInteger": Operator(conv_integer, macs=conv_macs),
    "DequantizeLinear": Operator(linear),
    "DynamicQuantizeLinear": Operator(dynamic_linear),
    "MatMulInteger": Operator(matmul_integer, macs=product_macs),
    "QLinearConv": Operator(qlinear_conv, macs=partial(conv_macs, weight=3)),
    "QLinearMatMul": Operator(qlinear_matmul, macs=product_macs),
    "QuantizeLinear": Operator(linear),
}
