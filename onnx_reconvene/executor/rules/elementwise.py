"""Functions of one number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator, Settings
from onnx_reconvene.executor.values import torch_type


def plain(function: Callable[..., Tensor]) -> Operator:
    """Return the operator that is a function of torch, without attributes."""
    return Operator(lambda node: function)


def identity(node: Node) -> Function:
    """y = x"""
    return lambda x, *_: x


def cast(node: Node) -> Function:
    """y = x in another type; to integers, towards zero"""
    kind = torch_type(node.attribute("to"))
    return lambda x: x.to(kind)


def cast_like(node: Node) -> Function:
    """y = x in the type of another tensor"""
    return lambda x, like: x.to(like.dtype)


def bit_cast(node: Node) -> Function:
    """y = the bits of x as another type"""
    kind = torch_type(node.attribute("to"))
    return lambda x: x.contiguous().view(kind)


def clip(node: Node) -> Function:
    """y = min(max(x, a), b)"""
    fixed = node.attribute("min"), node.attribute("max")  # before opset 11

    def run(x: Tensor, low: Settings | None = None, high: Settings | None = None) -> Tensor:
        a, b = (before if bound is None else bound[0] for bound, before in zip((low, high), fixed, strict=True))
        if a is None and b is None:
            return x
        if a is None or b is None or not x.is_floating_point():
            return torch.clamp(x, a, b)
        return F.hardtanh(x, a, b) if a <= b else torch.full_like(x, b)

    return run


def dropout(node: Node) -> Function:
    """y, m = x m / (1 - p), m random, while training; x, true otherwise"""
    fixed = node.attribute("ratio", 0.5)  # before opset 12
    masked = len(node.outputs) > 1 and bool(node.outputs[1])

    def run(x: Tensor, ratio: Settings | None = None, _: Settings | None = None) -> Tensor | tuple[Tensor, Tensor]:
        share = fixed if ratio is None else ratio[0]
        if not masked:
            return F.dropout(x, share, node.training)
        scale = F.dropout(torch.ones_like(x), share, node.training)
        return x * scale, scale > 0

    return run


def gelu(node: Node) -> Function:
    """y = x P(x), P the normal distribution function"""
    approximate = node.attribute("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


def bias_gelu(node: Node) -> Function:
    """y = gelu(x + b)"""
    return lambda x, b: F.gelu(x + b)


def fast_gelu(node: Node) -> Function:
    """y = gelu(x + b), by approximation"""
    return lambda x, b=None: F.gelu(x if b is None else x + b, approximate="tanh")


def swish(node: Node) -> Function:
    """y = x s(a x)"""
    alpha = node.attribute("alpha", 1.0)
    return lambda x: F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def quick_gelu(node: Node) -> Function:
    """y = x s(a x), a = 1.702 unless given"""
    alpha = node.attribute("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


def hard_sigmoid(node: Node) -> Function:
    """y = min(max(a x + b, 0), 1)"""
    alpha, beta = node.attribute("alpha"), node.attribute("beta")
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid
    return lambda x: F.hardtanh(alpha * x + beta, 0.0, 1.0)


def leaky_relu(node: Node) -> Function:
    """y = x if x > 0 else a x"""
    alpha = node.attribute("alpha")
    return lambda x: F.leaky_relu(x, alpha)


def elu(node: Node) -> Function:
    """y = x if x > 0 else a (e^x - 1)"""
    alpha = node.attribute("alpha")
    return lambda x: F.elu(x, alpha)


def celu(node: Node) -> Function:
    """y = x if x > 0 else a (e^(x/a) - 1)"""
    alpha = node.attribute("alpha")
    return lambda x: F.celu(x, alpha)


def selu(node: Node) -> Function:
    """y = c x if x > 0 else c a (e^x - 1)"""
    alpha, gamma = node.attribute("alpha"), node.attribute("gamma")
    return lambda x: gamma * F.elu(x, alpha)


def thresholded_relu(node: Node) -> Function:
    """y = x if x > a else 0"""
    alpha = node.attribute("alpha")
    return lambda x: F.threshold(x, alpha, 0.0)


def shrink(node: Node) -> Function:
    """y = x - b if x > l, x + b if x < -l, else 0"""
    bias, lambd = node.attribute("bias"), node.attribute("lambd")
    return lambda x: torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, torch.zeros_like(x)))


def is_infinite(node: Node) -> Function:
    """y = whether x is infinite, of the signs asked for"""
    positive, negative = node.attribute("detect_positive"), node.attribute("detect_negative")
    return lambda x: (torch.isposinf(x) & bool(positive)) | (torch.isneginf(x) & bool(negative))


RULES: dict[str, Operator] = {
    "Abs": plain(torch.abs),
    "Acos": plain(torch.acos),
    "Acosh": plain(torch.acosh),
    "Asin": plain(torch.asin),
    "Asinh": plain(torch.asinh),
    "Atan": plain(torch.atan),
    "Atanh": plain(torch.atanh),
    "BitCast": Operator(bit_cast),
    "BitwiseNot": plain(torch.bitwise_not),
    "Cast": Operator(cast),
    "CastLike": Operator(cast_like),
    "Ceil": plain(torch.ceil),
    "Celu": Operator(celu),
    "Clip": Operator(clip, host=(1, 2)),
    "Cos": plain(torch.cos),
    "Cosh": plain(torch.cosh),
    "Dropout": Operator(dropout, host=(1, 2)),
    "Elu": Operator(elu),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": Operator(gelu),
    "HardSigmoid": Operator(hard_sigmoid),
    "HardSwish": plain(F.hardswish),
    "Identity": Operator(identity),
    "IsInf": Operator(is_infinite),
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": Operator(leaky_relu),
    "Log": plain(torch.log),
    "Mish": plain(F.mish),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Round": plain(torch.round),
    "Selu": Operator(selu),
    "Shrink": Operator(shrink),
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Sinh": plain(torch.sinh),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Sqrt": plain(torch.sqrt),
    "Swish": Operator(swish),
    "Tan": plain(torch.tan),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": Operator(thresholded_relu),
    "com.microsoft.BiasGelu": Operator(bias_gelu),
    "com.microsoft.FastGelu": Operator(fast_gelu),
    "com.microsoft.Gelu": plain(F.gelu),
    "com.microsoft.QuickGelu": Operator(quick_gelu),
}
