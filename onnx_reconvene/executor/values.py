"""Arrays of ONNX models as torch tensors, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _disable_current_modes

from onnx_reconvene.errors import ModelError

# Types that numpy has not, and the integers of the same width that carry their bits across.
CARRIED = {"bfloat16": np.int16, "float8_e4m3fn": np.int8, "float8_e5m2": np.int8}
TYPES: dict[int, torch.dtype] = {
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.UINT8: torch.uint8,
}


@contextmanager
def as_data(*groups: Mapping[str, Tensor]) -> Iterator[list[Mapping[str, Tensor]]]:
    """Yield tensors by name that hold data, while nothing records what is computed: zeros where an exporter traces others."""
    if all(type(tensor) in (Tensor, Parameter) for group in groups for tensor in group.values()):
        yield list(groups)
        return
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield [{name: _zeros(tensor) for name, tensor in group.items()} for group in groups]


def _zeros(tensor: Tensor) -> Tensor:
    zeros = torch.zeros([int(size) for size in tensor.shape], dtype=tensor.dtype, device=tensor.device)
    return Parameter(zeros) if isinstance(tensor, Parameter) else zeros


def torch_type(kind: int) -> torch.dtype:
    """Return an ONNX element type as one of torch. Raises ModelError where torch has none."""
    if kind not in TYPES:
        raise ModelError(f"torch has no tensors of {TensorProto.DataType.Name(kind)}")
    return TYPES[kind]


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return a copy of array as a tensor. Raises ModelError for types that torch has not."""
    array = np.array(array, order="C")
    name = array.dtype.name
    if name in CARRIED:
        return torch.from_numpy(array.view(CARRIED[name])).view(getattr(torch, name))
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise ModelError(f"torch has no tensors of {name}") from error


def proto_to_tensor(proto: onnx.TensorProto) -> Tensor:
    """Return a constant of a model as a tensor."""
    return to_tensor(numpy_helper.to_array(proto))


def to_array(tensor: Tensor, like: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return tensor as an array, of the type of another if one is given."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        bits = tensor.contiguous().view(torch.int16).numpy()
        array = bits.view(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    else:
        array = tensor.numpy()
    return array if like is None else array.astype(like.dtype)
