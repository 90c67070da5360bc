"""Tensors that come from attributes, shapes or chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from onnx_reconvene.executor.node import Function, Node, Operator, Settings
from onnx_reconvene.executor.values import proto_to_tensor, torch_type


def constant(node: Node) -> Function:
    """y = the attribute"""
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    stored = node.attribute("value")
    if stored is not None:
        value = proto_to_tensor(stored)
        return lambda: value
    for name, kind in kinds.items():
        if node.attribute(name) is not None:
            number = torch.from_numpy(np.asarray(node.attribute(name), kind))
            return lambda: number
    raise node.unsupported("a value that is no dense tensor of numbers")


def constant_of_shape(node: Node) -> Function:
    """y = one value all over"""
    stored = node.attribute("value")
    value = torch.zeros(1) if stored is None or not stored.data_type else proto_to_tensor(stored)
    return lambda shape: value.reshape(()).to(shape.device).repeat(shape.tolist())


def shape(node: Node) -> Function:
    """y = the sizes of x, from start to end"""
    start, end = node.attribute("start", 0), node.attribute("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def size(node: Node) -> Function:
    """y = the number of elements of x"""
    return lambda x: torch.tensor(x.numel())


def arange(node: Node) -> Function:
    """y = a, a + d, ... up to b"""

    def run(*bounds: Tensor | Settings) -> Tensor:
        kind = next(bound.dtype for bound in bounds if isinstance(bound, Tensor))
        return torch.arange(*(bound.item() if isinstance(bound, Tensor) else bound[0] for bound in bounds), dtype=kind)

    return run


def eye_like(node: Node) -> Function:
    """y = ones on a diagonal, of the shape of x"""
    k, kind = node.attribute("k"), node.attribute("dtype")

    def run(x: Tensor) -> Tensor:
        row, column = torch.arange(x.shape[0], device=x.device), torch.arange(x.shape[1], device=x.device)
        return (column - row[:, None] == k).to(x.dtype if kind is None else torch_type(kind))

    return run


def random(node: Node) -> Function:
    """y = random numbers, uniform in [low, high) or normal, of a shape given or like that of x"""
    sizes, kind = node.attribute("shape"), node.attribute("dtype")
    settings = [node.attribute(name) for name in ("low", "high", "mean", "scale")]

    def run(x: Tensor | None = None) -> Tensor:
        options: dict[str, Any] = {} if x is None else {"device": x.device}
        options["dtype"] = torch_type(kind or TensorProto.FLOAT) if x is None or kind else x.dtype
        empty = torch.empty(sizes if x is None else x.shape, **options)
        low, high, mean, scale = settings
        return empty.uniform_(low, high) if "Uniform" in node.op else empty.normal_(mean, scale)

    return run


def bernoulli(node: Node) -> Function:
    """y = 1 with probability x, else 0"""
    kind = node.attribute("dtype")
    return lambda x: torch.bernoulli(x).to(x.dtype if kind is None else torch_type(kind))


RULES: dict[str, Operator] = {
    "Bernoulli": Operator(bernoulli, random=True),
    "Constant": Operator(constant),
    "ConstantOfShape": Operator(constant_of_shape, varies=True),
    "EyeLike": Operator(eye_like),
    "RandomNormal": Operator(random, random=True),
    "RandomNormalLike": Operator(random, random=True),
    "RandomUniform": Operator(random, random=True),
    "RandomUniformLike": Operator(random, random=True),
    "Range": Operator(arange, scalars=(0, 1, 2), varies=True),
    "Shape": Operator(shape),
    "Size": Operator(size),
}
