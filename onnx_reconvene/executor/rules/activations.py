"""Activations that are attributes of other operators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Node

Activation = Callable[[Tensor], Tensor]

# By name: what makes the activation of alpha and beta, and the values these have by default.
ACTIVATIONS: dict[str, tuple[Callable[[float, float], Activation], float, float]] = {
    "affine": (lambda a, b: lambda x: a * x + b, 1.0, 0.0),
    "elu": (lambda a, b: lambda x: F.elu(x, a), 1.0, 0.0),
    "hardsigmoid": (lambda a, b: lambda x: (a * x + b).clamp(0, 1), 0.2, 0.5),
    "leakyrelu": (lambda a, b: lambda x: F.leaky_relu(x, a), 0.01, 0.0),
    "relu": (lambda a, b: torch.relu, 0.0, 0.0),
    "scaledtanh": (lambda a, b: lambda x: a * torch.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda a, b: torch.sigmoid, 0.0, 0.0),
    "softplus": (lambda a, b: F.softplus, 0.0, 0.0),
    "softsign": (lambda a, b: F.softsign, 0.0, 0.0),
    "tanh": (lambda a, b: torch.tanh, 0.0, 0.0),
    "thresholdedrelu": (lambda a, b: lambda x: F.threshold(x, a, 0.0), 1.0, 0.0),
}


def named(name: str, alpha: float | None = None, beta: float | None = None) -> Activation:
    """Return the activation of this name (case does not matter), its parameters those given or by default."""
    make, first, second = ACTIVATIONS[name.lower()]
    return make(first if alpha is None else alpha, second if beta is None else beta)


def activation(node: Node) -> Activation:
    """Return the activation that is fused into a node, the identity if there is none."""
    name = node.attribute("activation")
    if not name:
        return lambda x: x
    if name == "Clip":
        low, high = node.attribute("activation_params")
        return lambda x: F.hardtanh(x, low, high)
    if name == "HardSigmoid":
        return named(name, *node.attribute("activation_params", []))
    if name == "LeakyRelu":
        return named(name, *node.attribute("activation_params", [node.attribute("leaky_relu_alpha", 0.01)]))
    return named(name)
