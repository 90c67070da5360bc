"""Layers: convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.generator.drawing import Drawing
from tests.generator.values import WIDEST, Value
from tests.generator.weights import draw_weight


def conv(net: Drawing, x: Value, width: int | None = None, kernel: int | None = None) -> Value:
    """Conv: plain, strided, dilated."""
    out, k = width or net.new_width(), kernel or net.choose((1, 3, 2))
    return convolve(net, x, out, k, 1)


def grouped_conv(net: Drawing, x: Value) -> Value | None:
    """Conv of several groups, depthwise, with or without a multiplier."""
    groups = net.choose([g for g in range(x.width, 1, -1) if x.width % g == 0] or [1])
    times = 1 + net.pick(3)
    out = groups * times
    return convolve(net, x, out, net.choose((3, 1)), groups) if groups > 1 and out <= WIDEST else None


def convolve(net: Drawing, x: Value, out: int, kernel: int, groups: int) -> Value:
    """Add a convolution with or without a bias."""
    space = x.shape[2:]
    pad = kernel // 2
    stride = 2 if min(space) >= 4 and net.rarely(6) else 1
    sizes = [(n + 2 * pad - kernel) // stride + 1 for n in space]
    weight = draw_weight(net, (out, x.width // groups, *[kernel] * len(space)), x.width // groups * kernel ** len(space))
    bias = [net.vector(out)] if net.pick(2) else []
    attributes: dict[str, Any] = {"group": groups} if groups > 1 or net.rarely(8) else {}
    attributes |= {"pads": [pad] * 2 * len(space), "strides": [stride] * len(space)} if pad or stride > 1 else {}
    return net.value("Conv", [x, weight, *bias], (x.shape[0], out, *sizes), 1, **attributes)


def conv_transpose(net: Drawing, x: Value) -> Value | None:
    """ConvTranspose, plain or grouped, of stride 1 or 2."""
    space = x.shape[2:]
    groups = net.choose([g for g in range(1, x.width + 1) if x.width % g == 0]) if net.rarely(2) else 1
    each, stride = 1 + net.pick(4), 2 if max(space) <= 4 and net.pick(2) else 1
    kernel = 2 if stride == 2 else net.choose((1, 3))
    pad = kernel // 2 if stride == 1 else 0
    sizes = [(n - 1) * stride + kernel - 2 * pad for n in space]
    weight = draw_weight(net, (x.width, each, *[kernel] * len(space)), x.width // groups * kernel)
    bias = [net.vector(each * groups)] if net.pick(2) else []
    if each * groups > WIDEST:
        return None
    attributes = {"pads": [pad] * 2 * len(space), "strides": [stride] * len(space), "group": groups}
    return net.value("ConvTranspose", [x, weight, *bias], (x.shape[0], each * groups, *sizes), 1, **attributes)


def linear(net: Drawing, x: Value, width: int | None = None) -> Value:
    """MatMul and Add, Gemm or Einsum."""
    out = width or net.new_width()
    if len(x.shape) == 2 and net.pick(2):
        transposed_b = net.pick(2)
        weight = draw_weight(net, (out, x.width) if transposed_b else (x.width, out), x.width)
        bias = [net.vector(net.choose(([out], [1, out], [1])))] if net.opset < 11 or net.pick(2) else []
        return net.value("Gemm", [x, weight, *bias], (x.shape[0], out), 1, transB=transposed_b)
    shape = (*x.shape[:-1], out)
    if net.opset >= 12 and net.rarely(6):
        left = "btw"[: len(shape) - 1]
        swapped = net.pick(2)
        weight = draw_weight(net, (out, x.width) if swapped else (x.width, out), x.width)
        return net.value("Einsum", [x, weight], shape, x.axis, equation=f"{left}c,{'dc' if swapped else 'cd'}->{left}d")
    y = net.value("MatMul", [x, draw_weight(net, (x.width, out), x.width)], shape, x.axis)
    return net.like(y, "Add", net.vector(out)) if net.pick(2) else y


def last_image(net: Drawing, x: Value, width: int = 2) -> Value:
    """A convolution of kernel 1."""
    return convolve_one(net, x, width)


def convolve_one(net: Drawing, x: Value, out: int) -> Value:
    """Conv of kernel 1."""
    weight = draw_weight(net, (out, x.width, *[1] * len(x.shape[2:])), x.width)
    return net.value("Conv", [x, weight], (x.shape[0], out, *x.shape[2:]), 1)


def last_linear(net: Drawing, x: Value, width: int = 2) -> Value:
    """MatMul."""
    return net.value("MatMul", [x, draw_weight(net, (x.width, width), x.width)], (*x.shape[:-1], width), x.axis)


LAST: dict[str, Callable[..., Value]] = {"image": last_image, "tokens": last_linear, "grid": last_linear, "vector": last_linear}
