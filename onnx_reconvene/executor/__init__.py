"""ONNX networks executed by torch: to train them, to differentiate them, and to write their weights back."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("networks are executed by torch: pip install 'onnx-reconvene[torch]'", name="torch") from error

from onnx_reconvene.executor.gradient import Gradients, gradients_of, hessian_products
from onnx_reconvene.executor.module import GraphModule, from_torch, to_torch

__all__ = ["Gradients", "GraphModule", "from_torch", "gradients_of", "hessian_products", "to_torch"]
