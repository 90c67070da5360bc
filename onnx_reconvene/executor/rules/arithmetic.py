"""Functions of several numbers, element by element; shapes broadcast."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from onnx_reconvene.executor.node import Function, Node, Operator, Settings
from onnx_reconvene.executor.rules.elementwise import plain


def divide(node: Node) -> Function:
    """y = a / b; of integers, towards zero"""
    return lambda a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def modulo(node: Node) -> Function:
    """y = a mod b, with the sign of b, or of a if fmod is set"""
    return torch.fmod if node.attribute("fmod") else torch.remainder


def power(node: Node) -> Function:
    """y = a^b in the type of a"""

    def run(a: Tensor, b: Tensor | Settings) -> Tensor:
        return torch.pow(a, b if isinstance(b, Tensor) else b[0]).to(a.dtype)

    return run


def prelu(node: Node) -> Function:
    """y = x if x > 0 else s x"""
    return lambda x, slope: torch.where(x > 0, x, slope * x)


def shift(node: Node) -> Function:
    """y = a shifted by b bits"""
    function = torch.bitwise_left_shift if node.attribute("direction") == "LEFT" else torch.bitwise_right_shift
    wide = torch.int64  # torch shifts no unsigned integers but bytes
    return lambda a, b: function(a.to(wide), b.to(wide)).to(a.dtype)


def folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Return the operator that combines any number of tensors, two at a time."""
    return Operator(lambda node: lambda *x: reduce(function, x))


def mean(node: Node) -> Function:
    """y = (x1 + ... + xn) / n"""
    return lambda *x: reduce(operator.add, x) / len(x)


def where(node: Node) -> Function:
    """y = a where c, else b"""
    return torch.where


RULES: dict[str, Operator] = {
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "BitShift": Operator(shift),
    "BitwiseAnd": plain(torch.bitwise_and),
    "BitwiseOr": plain(torch.bitwise_or),
    "BitwiseXor": plain(torch.bitwise_xor),
    "Div": Operator(divide),
    "Equal": plain(torch.eq),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Max": folded(torch.maximum),
    "Mean": Operator(mean),
    "Min": folded(torch.minimum),
    "Mod": Operator(modulo),
    "Mul": plain(torch.mul),
    "Or": plain(torch.logical_or),
    "PRelu": Operator(prelu),
    "Pow": Operator(power, scalars=(1,)),
    "Sub": plain(torch.sub),
    "Sum": folded(torch.add),
    "Where": Operator(where),
    "Xor": plain(torch.logical_xor),
}
