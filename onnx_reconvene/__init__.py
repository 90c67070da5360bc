"""onnx-reconvene: structured pruning of ONNX networks, initialized or trained, without any framework."""

import os
import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_reconvene.allocate import allocator, allocators
    from onnx_reconvene.api import Result, analyze, compare, prune
    from onnx_reconvene.autodiff import gradients
    from onnx_reconvene.errors import DefectError, ModelError, ReconveneError, TargetError, UsageError, VerificationError
    from onnx_reconvene.executor import from_torch, to_torch
    from onnx_reconvene.options import Options
    from onnx_reconvene.portfolio.grid import sweep
    from onnx_reconvene.saliency.criterion import criteria, criterion

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # of onnxruntime, wherever we start it; read when it is loaded

# Run from the root of a checkout this folder is found first, and the passes in the installed package.
__path__ = pkgutil.extend_path(__path__, __name__)

_HOME = {
    **dict.fromkeys(("allocator", "allocators"), "allocate"),
    **dict.fromkeys(("Result", "analyze", "compare", "prune"), "api"),
    "gradients": "autodiff",
    "Options": "options",
    "sweep": "portfolio.grid",
    **dict.fromkeys(("DefectError", "ModelError", "ReconveneError", "TargetError", "UsageError", "VerificationError"), "errors"),
    **dict.fromkeys(("criteria", "criterion"), "saliency"),
    **dict.fromkeys(("from_torch", "to_torch"), "executor"),
}

__all__ = [
    "DefectError",
    "ModelError",
    "Options",
    "ReconveneError",
    "Result",
    "TargetError",
    "UsageError",
    "VerificationError",
    "allocator",
    "allocators",
    "analyze",
    "compare",
    "criteria",
    "criterion",
    "from_torch",
    "gradients",
    "prune",
    "sweep",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that importing the package costs nothing."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
