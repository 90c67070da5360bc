"""Gradients by torch autograd, as `onnx_reconvene.autodiff` gives them by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_reconvene.autodiff.paths import check_quantizers
from onnx_reconvene.errors import UsageError
from onnx_reconvene.executor.module import GraphModule
from onnx_reconvene.executor.values import to_array, to_tensor

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Gradients:
    """What one forward and backward pass found: the loss, tensors, and the gradients of the loss, of the same shapes."""

    loss: float
    values: Arrays
    gradients: Arrays


def gradients_of(module: GraphModule, feeds: Arrays, wrt: Sequence[str] | None = None, loss: str | None = None) -> Gradients:
    """Return the gradients of a loss with respect to tensors of a network, and the values of these.

    feeds: the inputs by name. wrt: names of weights, inputs or feature maps; default all parameters. loss: name of a scalar tensor;
    default the sum of all floating-point outputs. The module runs in the mode it is in. The gradient of what the loss does not
    depend on is zero. Raises UsageError for names that are not there or are those of constants, and a loss that is no scalar;
    NoDerivativeError where gradients would have to pass an operator that quantizes.
    """
    names = [name for name, _ in module.named_parameters()] if wrt is None else list(dict.fromkeys(wrt))
    leaves, value = _traced(module, feeds, names, loss)
    found: Sequence[Tensor | None] = [None] * len(names)
    if value.requires_grad:
        found = torch.autograd.grad(value, [leaves[name] for name in names], allow_unused=True)
    arrays = {name: to_array(leaves[name]) for name in names}
    gradients = {
        name: to_array(torch.zeros_like(leaves[name]) if gradient is None else gradient)
        for name, gradient in zip(names, found, strict=True)
    }
    return Gradients(float(value.detach()), arrays, gradients)


def hessian_products(module: GraphModule, feeds: Arrays, vectors: Arrays, loss: str | None = None) -> dict[str, NDArray[Any]]:
    """Return the products of the Hessian of a loss with a vector that is given in parts, by the names of the tensors.

    Arguments and errors are those of `gradients_of`.
    """
    leaves, value = _traced(module, feeds, list(vectors), loss)
    tensors = [leaves[name] for name in vectors]
    first = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
    along = [(g * to_tensor(v)).sum() for g, v in zip(first, vectors.values(), strict=True) if g is not None]
    second = torch.autograd.grad(torch.stack(along).sum(), tensors, allow_unused=True)
    zeros = [torch.zeros_like(tensor) for tensor in tensors]
    return {name: to_array(z if g is None else g) for name, g, z in zip(vectors, second, zeros, strict=True)}


def _traced(module: GraphModule, feeds: Arrays, names: Sequence[str], loss: str | None) -> tuple[dict[str, Tensor], Tensor]:
    """Run a network; return the tensors called names, as leaves of the derivative, and the loss."""
    check_quantizers(module.nodes, names, module.outputs if loss is None else [loss])
    tensors = {name: to_tensor(array).to(_device(module)) for name, array in feeds.items()}
    leaves: dict[str, Tensor] = {}

    def differentiable(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            raise UsageError(f"wrt: tensor '{name}' holds no floating-point numbers")
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        leaves[name] = tensor if tensor.is_leaf else tensor.view_as(tensor)  # Identity hands on the same tensor under two names
        return leaves[name]

    watch = {name: partial(differentiable, name) for name in names}
    results = module.run(tensors, module.outputs if loss is None else [loss], watch)
    return leaves, _loss(results, loss)


def _loss(results: Sequence[Tensor], name: str | None) -> Tensor:
    """Return the scalar to differentiate: the one result, if it has a name, or the sum of all."""
    if name is not None:
        (value,) = results
        if value.numel() != 1 or not value.is_floating_point():
            raise UsageError(f"loss: tensor '{name}' of shape {list(value.shape)} is no floating-point scalar")
        return value.reshape(())
    floats = [result.sum() for result in results if result.is_floating_point()]
    if not floats:
        raise UsageError("loss: the network has no floating-point output to sum; name a tensor")
    return torch.stack(floats).sum()


def _device(module: GraphModule) -> torch.device:
    return next((tensor.device for tensor in module.stored().values()), torch.device("cpu"))
