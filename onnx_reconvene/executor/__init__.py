"""ONNX networks executed by torch: to train them, to differentiate them, and to write their weights back. Needs torch."""

from onnx_reconvene.executor.gradient import Gradients, gradients_of
from onnx_reconvene.executor.module import GraphModule, from_torch, to_torch

__all__ = ["GraphModule", "Gradients", "from_torch", "gradients_of", "to_torch"]
