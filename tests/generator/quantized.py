"""Layers as quantizers leave them: of 8-bit integers, with scales that are fixed or computed."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.generator.drawing import Drawing
from tests.generator.values import Value, resized


def rounded(net: Drawing, x: Value) -> Value | None:
    """QuantizeLinear and DequantizeLinear of activations."""
    if net.opset < 10:
        return None
    scale, zero = net.scalar(0.03125), net.constant(np.asarray(128, np.uint8), "z")
    return net.like(Value(net.node("QuantizeLinear", [x, scale, zero])[0], x.shape, x.axis), "DequantizeLinear", scale, zero)


def integers(net: Drawing, shape: tuple[int, ...], stem: str = "q") -> str:
    """Return the name of a weight of 8-bit integers."""
    return net.constant(np.clip(np.round(net.normal(shape) * 40), -127, 127).astype(np.int8), stem)


def dynamic(net: Drawing, x: Value) -> Value | None:
    """DynamicQuantizeLinear, MatMulInteger or ConvInteger, and what undoes the scales."""
    if net.opset < 11:
        return None
    quantized, scale, zero = net.node("DynamicQuantizeLinear", [x], 3)
    width, per_channel = net.new_width(), bool(net.pick(2))
    at = (width,)
    if x.kind == "image":
        depthwise = net.rarely(3)
        width = x.width if depthwise else width
        at = (width, *[1] * (len(x.shape) - 2))
        weight = integers(net, (width, 1 if depthwise else x.width, *[1] * (len(x.shape) - 2)))
        product = net.node("ConvInteger", [quantized, weight, zero], group=x.width if depthwise else 1)[0]
    else:
        weight = integers(net, (x.width, width))
        zeros = net.constant(np.zeros(width if per_channel else (), np.int8), "z")
        product = net.node("MatMulInteger", [quantized, weight, zero, zeros])[0]
    number = net.node("Cast", [product], to=TensorProto.FLOAT)[0]
    weight_scale = net.constant(net.uniform(at if per_channel else (), 0.005, 0.01), "s")
    factor = net.node("Mul", [scale, weight_scale])[0]
    y = net.value("Mul", [number, factor], resized(x, width), x.axis)
    return net.like(y, "Add", net.vector(at)) if net.pick(2) else y


def static(net: Drawing, x: Value) -> Value | None:
    """QLinearConv or QLinearMatMul between QuantizeLinear and DequantizeLinear."""
    if net.opset < 10:
        return None
    scale, zero = net.scalar(0.03125), net.constant(np.asarray(128, np.uint8), "z")
    quantized = net.node("QuantizeLinear", [x, scale, zero])[0]
    width, per_channel = net.new_width(), bool(net.pick(2))
    weight_scale = net.constant(net.uniform((width,) if per_channel else (), 0.005, 0.01), "s")
    weight_zero = net.constant(np.zeros(width if per_channel else (), np.int8), "z")
    out_scale, out_zero = net.scalar(0.0625), net.constant(np.asarray(128, np.uint8), "z")
    if x.kind == "image":
        weight = integers(net, (width, x.width, *[1] * (len(x.shape) - 2)))
        bias = [net.constant(np.arange(width, dtype=np.int32), "b")] if net.pick(2) else []
        read = [quantized, scale, zero, weight, weight_scale, weight_zero, out_scale, out_zero, *bias]
        product = net.node("QLinearConv", read)[0]
    else:
        weight = integers(net, (x.width, width))
        read = [quantized, scale, zero, weight, weight_scale, weight_zero, out_scale, out_zero]
        product = net.node("QLinearMatMul", read)[0]
    return net.value("DequantizeLinear", [product, out_scale, out_zero], resized(x, width), x.axis)
