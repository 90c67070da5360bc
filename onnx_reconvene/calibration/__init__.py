"""Calibration: samples, losses on them, and what gradients say of a network there."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_reconvene.calibration.given import Calibration, Place

if TYPE_CHECKING:
    from onnx_reconvene.calibration.backend import BACKENDS, OnnxRuntime
    from onnx_reconvene.calibration.objective import Objective

_HOME = {"BACKENDS": "backend", "OnnxRuntime": "backend", "Objective": "objective"}

__all__ = ["BACKENDS", "Calibration", "Objective", "OnnxRuntime", "Place"]


def __getattr__(name: str) -> Any:
    """Import what differentiates networks when it is asked for: most runs do without."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
