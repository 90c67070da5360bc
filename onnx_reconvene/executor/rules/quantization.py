"""Integers that stand for real numbers: q = round(x / s) + z. What computes on them does so on the numbers they stand for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator
from onnx_reconvene.executor.rules.convolution import conv
from onnx_reconvene.executor.values import torch_type


def aligned(values: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """Return scales or zero points such that they broadcast with x: one for all, for each index of an axis, or for a block."""
    if values.dim() == 0 or values.numel() == 1:
        return values.reshape(())
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return values.reshape([-1 if k == axis % x.dim() else 1 for k in range(x.dim())])


def quantized(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return round(x / scale) + zero in the type of zero, within its range."""
    limits = torch.iinfo(zero.dtype)
    return (torch.round(x / scale) + zero.to(x.dtype)).clamp(limits.min, limits.max).to(zero.dtype)


def requantized(sums: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """Return round(sums step) + zero in the type of zero: step is how many steps of the result one of the sums is."""
    return quantized(sums.to(step.dtype) * step, torch.ones_like(step), zero)


def dequantized(q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Return (q - zero) scale."""
    return (q.to(scale.dtype) if zero is None else q.to(scale.dtype) - zero.to(scale.dtype)) * scale


def quantize(node: Node) -> Function:
    """q = round(x / s) + z"""
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    kind = torch_type(node.attribute("output_dtype", 0) or TensorProto.UINT8)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        zero = torch.zeros((), dtype=kind) if zero is None else aligned(zero, x, axis, block)
        return quantized(x, aligned(scale, x, axis, block), zero)

    return run


def dequantize(node: Node) -> Function:
    """y = (q - z) s"""
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)

    def run(q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        return dequantized(q, aligned(scale, q, axis, block), None if zero is None else aligned(zero, q, axis, block))

    return run


def matmul_integer(node: Node) -> Function:
    """y = (a - za) (b - zb)"""

    def run(a: Tensor, b: Tensor, za: Tensor | None = None, zb: Tensor | None = None) -> Tensor:
        rows = None if za is None or za.dim() != 1 or za.numel() == 1 else za[:, None]
        return torch.matmul(_centred(a, za if rows is None else rows), _centred(b, zb)).to(torch.int32)

    return run


def _centred(q: Tensor, zero: Tensor | None) -> Tensor:
    wide = q.to(torch.int64)
    return wide if zero is None else wide - zero.to(torch.int64)


def conv_integer(node: Node) -> Function:
    """y = (x - zx) * (w - zw)"""
    convolve = conv(node)

    def run(x: Tensor, w: Tensor, zx: Tensor | None = None, zw: Tensor | None = None) -> Tensor:
        exact = torch.float64  # holds every sum of products of bytes
        weights = _centred(w, None if zw is None else aligned(zw, w, 0))
        return convolve(_centred(x, zx).to(exact), weights.to(exact)).to(torch.int32)

    return run


def qlinear_conv(node: Node) -> Function:
    """y = the quantized convolution of what x and w stand for; the bias counts in steps of sx sw"""
    convolve = conv(node)

    def run(
        x: Tensor, sx: Tensor, zx: Tensor, w: Tensor, sw: Tensor, zw: Tensor, sy: Tensor, zy: Tensor, b: Tensor | None = None
    ) -> Tensor:
        weights = _centred(w, aligned(zw, w, 0)).to(torch.float64)
        y = convolve(_centred(x, zx).to(torch.float64), weights, None if b is None else b.to(torch.float64))
        return requantized(y, aligned(sx * sw / sy, y, 1), zy)

    return run


def qlinear_matmul(node: Node) -> Function:
    """y = the quantized product of what a and b stand for"""

    def run(a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor, zy: Tensor) -> Tensor:
        return requantized(torch.matmul(_centred(a, za), _centred(b, zb)), sa * sb / sy, zy)

    return run


def qlinear_binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Return the operator that quantizes a function of what a and b stand for."""

    def run(a: Tensor, sa: Tensor, za: Tensor | None, b: Tensor, sb: Tensor, zb: Tensor | None, sy: Tensor, zy: Tensor) -> Tensor:
        return quantized(function(dequantized(a, sa, za), dequantized(b, sb, zb)), sy, zy)

    return Operator(lambda node: run)


def qlinear_unary(make: Callable[[Node], Callable[[Tensor], Tensor]]) -> Operator:
    """Return the operator that quantizes a function of what x stands for."""

    def rule(node: Node) -> Function:
        function = make(node)
        return lambda x, sx, zx, sy, zy: quantized(function(dequantized(x, sx, zx)), sy, zy)

    return Operator(rule)


def leaky_relu(node: Node) -> Callable[[Tensor], Tensor]:
    """y = x if x > 0 else a x"""
    alpha = node.attribute("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


RULES: dict[str, Operator] = {
    "ConvInteger": Operator(conv_integer),
    "DequantizeLinear": Operator(dequantize),
    "MatMulInteger": Operator(matmul_integer),
    "QLinearConv": Operator(qlinear_conv),
    "QLinearMatMul": Operator(qlinear_matmul),
    "QuantizeLinear": Operator(quantize),
    "com.microsoft.DequantizeLinear": Operator(dequantize),
    "com.microsoft.QuantizeLinear": Operator(quantize),
    "com.microsoft.QLinearAdd": qlinear_binary(torch.add),
    "com.microsoft.QLinearLeakyRelu": qlinear_unary(leaky_relu),
    "com.microsoft.QLinearMul": qlinear_binary(torch.mul),
    "com.microsoft.QLinearSigmoid": qlinear_unary(lambda node: torch.sigmoid),
}
