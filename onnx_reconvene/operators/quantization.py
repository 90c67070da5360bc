"""Quantization: labels pass, and per-channel scales and zero points take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_reconvene.flow import Quantized, UnsupportedError, weight_values
from onnx_reconvene.labels import Labels
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


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


def few_bits(op: Op) -> None:
    """x[..., k] * w[n,k] + bias[n] -> y[..., n], w[n,blocks,bytes] of few bits, with a scale and zero point for each block"""
    bits, size = int(op.attr("bits", 4)), int(op.attr("block_size"))
    if bits not in (2, 4, 8) or op.has(4):
        raise UnsupportedError("its weight is packed in a way that is not followed")
    *rest, x = op.axes(0)
    out, blocks = op.along(1, 0, 1)
    op.equate(x, np.repeat(blocks, size)[: x.size])
    for i in [i for i in (2, 3) if op.has(i)]:
        _tie_blocks(op, i, out, blocks, bits)
    if op.has(5):
        op.equate(out, op.along(5, 0)[0])
    op.layer(1, out, blocks)
    op.emit(dict(enumerate([*rest, out])))
    _enter_packed(op, bits)


def _tie_blocks(op: Op, i: int, out: Labels, blocks: Labels, bits: int) -> None:
    """Tie scales or zero points to output channels, and to blocks: to several where one byte packs their zero points. Where all lie
    in one row, blocks stay."""
    if len(op.shape(i)) == 1:
        op.equate(out[:, None], op.axes(i)[0].reshape(out.size, -1))
        op.freeze(blocks if blocks.size > 1 else blocks[:0], "has scales or zero points in one row")
        return
    rows, columns = op.axes(i)
    op.equate(out, rows)
    op.equate(blocks, np.repeat(columns, 1 if columns.size == blocks.size else 8 // bits)[: blocks.size])


def _enter_packed(op: Op, bits: int) -> None:
    """Enter what the weight of MatMulNBits stands for, where its scales and zero points are constant bytes."""
    weight, scale = (weight_values(op.tensor(i)) for i in (1, 2))
    zero = weight_values(op.tensor(3)) if op.has(3) else None
    if weight is None or scale is None or (op.has(3) and (zero is None or zero.dtype != np.uint8)):
        raise UnsupportedError("its weight, scales or zero points are not stored as bytes")
    rows, blocks = op.shape(1)[:2]
    scale = scale.reshape(rows, blocks)
    if zero is None:
        zero = np.full((rows, blocks), 1 << (bits - 1), np.uint8)
    else:
        zero = Quantized(np.zeros(()), np.ones(()), bits).real(zero.reshape(rows, -1))[:, :blocks].astype(np.uint8)
    op.flow.quantized[op.tensor(1).name] = Quantized(zero[..., None], scale[..., None], bits)


def few_bits_macs(op: Op) -> None:
    """the elements of the output, each a sum over the inner axis"""
    op.macs({0: [len(op.shape(0)) - 1]}, range(len(op.out_shape())))


def matrix_size(cut: CutOp) -> None:
    """`K` and `N` are how many rows and columns remain"""
    cut.node.attrs |= {"K": int(cut.kept(0, -1).sum()), "N": int(cut.kept(1, 0).sum())}


OPERATORS = {
    "com.microsoft.MatMulNBits": Operator(few_bits, matrix_size, macs=few_bits_macs),
    "DequantizeLinear": Operator(linear),
    "DynamicQuantizeLinear": Operator(dynamic_linear),
    "QuantizeLinear": Operator(linear),
}
