"""Normalization."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator


def batch_normalization(node: Node) -> Function:
    """y = (x - mean) / sqrt(var + eps) * scale + bias; while training with the statistics of the batch, which also move those
    running by 1 - momentum"""
    eps, momentum = node.attribute("epsilon"), 1 - node.attribute("momentum")
    moving = node.training and node.is_stored(3) and node.is_stored(4)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not node.training and (mean.requires_grad or var.requires_grad):  # which torch takes for constants
            shape = [-1, *[1] * (x.dim() - 2)]
            scale = scale * (var + eps).rsqrt()
            y = x * scale.reshape(shape) + (bias - mean * scale).reshape(shape)
        else:
            statistics = (mean.detach(), var.detach()) if moving or not node.training else (None, None)
            y = F.batch_norm(x, *statistics, scale, bias, node.training, momentum, eps)
        return (y, mean.clone(), var.clone()) if len(node.outputs) > 1 else y

    return run


def instance_normalization(node: Node) -> Function:
    """y = (x - mean) / sqrt(var + eps) * scale + bias, each channel of each sample for itself"""
    eps = node.attribute("epsilon")
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=eps)


def group_normalization(node: Node) -> Function:
    """y = (x - mean) / sqrt(var + eps) * scale + bias over groups of channels; before opset 21 one scale per group"""
    groups, eps, by_group = node.attribute("num_groups"), node.attribute("epsilon"), node.version < 21

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if by_group:
            times = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(times), bias.repeat_interleave(times)
        return F.group_norm(x, groups, scale, bias, eps)

    return run


def mean_variance_normalization(node: Node) -> Function:
    """y = (x - mean) / sqrt(var) over axes"""
    axes, eps = node.attribute("axes"), 1e-9
    return lambda x: (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True).sqrt() + eps)


def layer_normalization(node: Node) -> Function:
    """y, mean, 1/sd = (x - mean) / sqrt(var + eps) * scale + bias over the axes from axis on"""
    axis, eps, outputs = node.attribute("axis"), node.attribute("epsilon"), len(node.outputs)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        shape = x.shape[axis:]
        if outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
            return F.layer_norm(x, shape, scale, bias, eps)
        axes = tuple(range(axis % x.dim(), x.dim()))
        mean, inverse = x.mean(axes, keepdim=True), (x.var(axes, correction=0, keepdim=True) + eps).rsqrt()
        y = (x - mean) * inverse * scale
        return (y if bias is None else y + bias), mean, inverse

    return run


def rms_normalization(node: Node) -> Function:
    """y = x / sqrt(mean of x^2 + eps) * scale over the axes from axis on"""
    axis, eps = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        axes = tuple(range(axis % x.dim(), x.dim()))
        return x * ((x * x).mean(axes, keepdim=True) + eps).rsqrt() * scale

    return run


def skip_layer_normalization(node: Node) -> Function:
    """y, ..., s = layer normalization of s = x + skip (+ b) over the last axis"""
    eps, simplified = node.attribute("epsilon", 1e-5), "Simplified" in node.op

    def run(x: Tensor, skip: Tensor, scale: Tensor, *rest: Tensor | None) -> tuple[Tensor | None, ...]:
        shift, bias = [*([None] if simplified else []), *rest, None, None][:2]
        total = x + skip if bias is None else x + skip + bias
        if simplified:
            y = total * ((total * total).mean(-1, keepdim=True) + eps).rsqrt() * scale
        else:
            y = F.layer_norm(total, total.shape[-1:], scale, shift, eps)
        return y, None, None, total

    return run


def lrn(node: Node) -> Function:
    """y = x / (bias + alpha/size * the sum of x^2 over size neighbouring channels)^beta"""
    size, alpha, beta, bias = (node.attribute(name) for name in ("size", "alpha", "beta", "bias"))
    before = (size - 1) // 2

    def run(x: Tensor) -> Tensor:
        pads = [0, 0] * (x.dim() - 2) + [before, size - 1 - before]
        total = F.pad(x * x, pads).unfold(1, size, 1).sum(-1)
        return x / (bias + alpha / size * total) ** beta

    return run


def lp_normalization(node: Node) -> Function:
    """y = x / (sum |x|^p)^(1/p) along an axis, 0 where all is 0"""
    axis, p = node.attribute("axis"), node.attribute("p")

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / norm)

    return run


def along_axis(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """Return an operator like Softmax: before opset 13 it runs over all axes from axis on as if these were one."""

    def rule(node: Node) -> Function:
        axis = node.attribute("axis")
        if node.version >= 13:
            return lambda x: function(x, axis)

        def run(x: Tensor) -> Tensor:
            rows = math.prod(x.shape[: axis % x.dim()])
            return function(x.reshape(rows, -1), 1).reshape(x.shape)

        return run

    return Operator(rule)


def hardmax(x: Tensor, axis: int) -> Tensor:
    """Return 1 at the first of the largest elements along an axis, 0 elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


RULES: dict[str, Operator] = {
    "BatchNormalization": Operator(batch_normalization),
    "GroupNormalization": Operator(group_normalization),
    "Hardmax": along_axis(hardmax),
    "InstanceNormalization": Operator(instance_normalization),
    "LRN": Operator(lrn),
    "LayerNormalization": Operator(layer_normalization),
    "LogSoftmax": along_axis(torch.log_softmax),
    "LpNormalization": Operator(lp_normalization),
    "MeanVarianceNormalization": Operator(mean_variance_normalization),
    "RMSNormalization": Operator(rms_normalization),
    "SimplifiedLayerNormalization": Operator(rms_normalization),
    "Softmax": along_axis(torch.softmax),
    "com.microsoft.SkipLayerNormalization": Operator(skip_layer_normalization),
    "com.microsoft.SkipSimplifiedLayerNormalization": Operator(skip_layer_normalization),
}
