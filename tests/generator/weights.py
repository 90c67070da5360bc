"""Weights, stored in one form or another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.generator.drawing import Drawing


def draw_weight(net: Drawing, shape: Sequence[int], fan_in: int) -> str:
    """Return the name of a weight of this shape, stored in some form; now and then one that was read before."""
    shape = tuple(shape)
    same = net.shared.setdefault(shape, [])
    if same and net.rarely(4):
        return net.choose(same)
    values = net.normal(shape) / np.float32(np.sqrt(fan_in))
    same.append(net.choose(FORMS)(net, values) if net.rarely(5) else net.constant(values))
    return same[-1]


def plain(net: Drawing, values: NDArray[np.float32]) -> str:
    """Initializer or Constant."""
    return net.constant(values)


def through_identity(net: Drawing, values: NDArray[np.float32]) -> str:
    """Identity of a constant."""
    return net.node("Identity", [net.constant(values)])[0]


def transposed(net: Drawing, values: NDArray[np.float32]) -> str:
    """Transpose of a constant."""
    permutation = list(range(values.ndim))[::-1]
    return net.node("Transpose", [net.constant(np.ascontiguousarray(values.transpose(permutation)))], perm=permutation)[0]


def scaled(net: Drawing, values: NDArray[np.float32]) -> str:
    """A constant times another, per row or as a whole."""
    shape = [n if a == 0 else 1 for a, n in enumerate(values.shape)] if net.rarely(2) else [1]
    return net.node("Mul", [net.constant(values), net.vector(shape, 0.5, 1.5)])[0]


def quantized(net: Drawing, values: NDArray[np.float32]) -> str:
    """DequantizeLinear of 8-bit integers, with one scale or one per row."""
    per_row = net.opset >= 13 and values.ndim > 1 and net.rarely(2)
    scale = np.full(len(values) if per_row else (), np.abs(values).max() / 127, np.float32) * np.float32(1.25)
    stored = np.round(values / (scale.reshape([-1] + [1] * (values.ndim - 1)) if per_row else scale)).astype(np.int8)
    zero = np.zeros_like(scale, np.int8)
    read = [net.constant(stored), net.constant(scale), *([net.constant(zero)] if net.rarely(2) else [])]
    return net.node("DequantizeLinear", read, **({"axis": 0} if per_row else {}))[0] if net.opset >= 10 else plain(net, values)


def requantized(net: Drawing, values: NDArray[np.float32]) -> str:
    """DequantizeLinear of QuantizeLinear of a constant."""
    if net.opset < 13 or values.ndim < 2:
        return plain(net, values)
    axis = net.pick(2)
    scale = net.vector(values.shape[axis], 0.02, 0.05)
    zero = net.constant(np.zeros(values.shape[axis], np.int8))
    rounded = net.node("QuantizeLinear", [net.constant(values), scale, zero], axis=axis)
    return net.node("DequantizeLinear", [*rounded, scale, zero], axis=axis)[0]


def filled(net: Drawing, values: NDArray[np.float32]) -> str:
    """ConstantOfShape."""
    value = numpy_helper.from_array(np.asarray([0.25], np.float32))
    return net.node("ConstantOfShape", [net.ints(values.shape)], value=value)[0]


FORMS = (through_identity, transposed, scaled, quantized, requantized, filled)
