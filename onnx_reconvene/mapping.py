"""Large weights, kept apart from the model that they belong to: mapped where they lie in files, and not copied."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, external_data_helper, helper

from onnx_reconvene import wire
from onnx_reconvene.errors import ModelError
from onnx_reconvene.homes import PACKED, constants_of

Arrays = dict[str, NDArray[Any]]


def enter(graph: GraphProto, raw: wire.Weights, arrays: Arrays) -> None:
    """Enter the data that `wire.split` took from a graph as arrays; what is no weight gets them back."""
    constants = constants_of(graph) if any(number == wire.NODE for number, _ in raw) else {}
    for (number, index), data in raw.items():
        if number == wire.INITIALIZER:
            tensor = graph.initializer[index]
            _enter(tensor, data, arrays, tensor.name)
            continue
        node = graph.node[index]
        is_weight = any(name in constants and node.attribute[0].name == "value" for name in node.output[:1])
        _enter(node.attribute[0].t, data, arrays, node.output[0] if is_weight else None)


def without_data(model: ModelProto, arrays: Arrays) -> ModelProto:
    """Return a copy of model without the data of its large initializers and Constant nodes, which become arrays."""
    result = ModelProto()
    wire.copy_fields(model, result, "graph")
    wire.copy_fields(model.graph, result.graph, "initializer", "node")
    for tensor in model.graph.initializer:
        _copy(tensor, result.graph.initializer.add(), arrays, tensor.name)
    large = {name for name, node in constants_of(model.graph).items() if _is_large(node.attribute[0].t)}
    for node in model.graph.node:
        copy = result.graph.node.add()
        if node.op_type != "Constant" or node.output[0] not in large:
            copy.CopyFrom(node)
            continue
        wire.copy_fields(node, copy, "attribute")
        attribute = copy.attribute.add()
        wire.copy_fields(node.attribute[0], attribute, "t")
        _copy(node.attribute[0].t, attribute.t, arrays, node.output[0])
    return result


def _is_large(tensor: TensorProto) -> bool:
    return len(tensor.raw_data) >= wire.MAPPED_FROM


def _copy(tensor: TensorProto, copy: TensorProto, arrays: Arrays, name: str) -> None:
    """Make copy that of a tensor; of a large one without its data, which become the array of this name."""
    if not _is_large(tensor):
        copy.CopyFrom(tensor)
        return
    wire.copy_fields(tensor, copy, "raw_data")
    _enter(copy, np.frombuffer(tensor.raw_data, np.uint8), arrays, name)


def _enter(tensor: TensorProto, data: NDArray[np.uint8], arrays: Arrays, name: str | None) -> None:
    """Enter data as the array of this name; into tensor itself where that is None or its elements are no whole bytes."""
    if name is None or tensor.data_type in PACKED:
        tensor.raw_data = data.tobytes()
        return
    check_bytes(tensor, data.size)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    arrays[name] = data.view(dtype).reshape(tuple(tensor.dims))


def check_bytes(tensor: TensorProto, size: int) -> None:
    """Raise ModelError where a tensor has not as many bytes of data as its shape needs."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if size != math.prod(tensor.dims) * dtype.itemsize:
        raise ModelError(f"initializer '{tensor.name}' has {size} bytes of data, not what its shape {list(tensor.dims)} needs")


def enter_external(model: ModelProto, folder: str, arrays: Arrays) -> frozenset[str]:
    """Enter external data as arrays, and return the real paths of the files that hold them."""
    files = set()
    stored = [(tensor.name, tensor) for tensor in model.graph.initializer]
    stored += [(name, n.attribute[0].t) for name, n in constants_of(model.graph).items() if n.attribute[0].name == "value"]
    names = {id(tensor): name for name, tensor in stored}
    for tensor in external_data_helper._get_all_tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        text = f"initializer '{tensor.name}': external data '{location}'"
        try:
            info = external_data_helper.ExternalDataInfo(tensor)
            path = os.path.join(folder, info.location)
            if os.path.commonpath([os.path.realpath(path), os.path.realpath(folder)]) != os.path.realpath(folder):
                raise ModelError(f"{text} lies outside the folder of the model")
            data = wire.mapped(path, info.offset or 0, info.length)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ModelError(f"{text} cannot be read: {reason}") from error
        files.add(os.path.realpath(path))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        _enter(tensor, data, arrays, names.get(id(tensor)) if data.size >= wire.MAPPED_FROM else None)
    return frozenset(files)
