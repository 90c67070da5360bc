"""Calibration: samples, losses on them, and what gradients say of a network there."""

from onnx_reconvene.calibration.backend import BACKENDS, Backend, Network, OnnxRuntime, Tap
from onnx_reconvene.calibration.losses import Loss
from onnx_reconvene.calibration.objective import Calibration, Objective, Place

__all__ = ["BACKENDS", "Backend", "Calibration", "Loss", "Network", "Objective", "OnnxRuntime", "Place", "Tap"]
