"""Weights and inputs that differ from others by some units in the last place: what they change, rounding may change, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

UNITS = 8  # in the last place, as a standard deviation


def perturbed(array: Any, rng: np.random.Generator) -> Any:
    """Return floating-point numbers that differ a little from those of an array, anything else as it is."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    noise = rng.standard_normal(array.shape, np.float32) * UNITS * np.finfo(array.dtype).eps
    return np.asarray(array + array * noise.astype(array.dtype), array.dtype)


def noisy(path: str) -> dict[str, NDArray[Any]]:
    """Return the matrices and kernels of a model, perturbed; what has fewer axes might be sizes, scales of a Resize."""
    model, folder, rng = onnx.load(path, load_external_data=False), path.rpartition("/")[0], np.random.default_rng(0)
    arrays = {}
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            if external_data_helper.uses_external_data(tensor):
                external_data_helper.load_external_data_for_tensor(tensor, folder)
            arrays[tensor.name] = perturbed(numpy_helper.to_array(tensor), rng)
            tensor.ClearField("raw_data")
    return arrays
