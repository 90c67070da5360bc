"""ONNX models as onnx-graphsurgeon graphs: read without copying weights, written back without losing a field.

graphsurgeon drops metadata, doc strings and quantization annotations. So each graph keeps, as `graph.source`, the model it was
read from without its large weights; `to_model` puts what has changed into a copy of that.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_reconvene import wire
from onnx_reconvene.errors import ModelError, UsageError

PROTOBUF_LIMIT = 2**31 - 1  # bytes in one message
G_LOGGER.severity = G_LOGGER.CRITICAL  # graphsurgeon prints warnings that are none of the user's concern


@dataclass(frozen=True)
class Snapshot:
    """What a node was when it was read, beside its proto, to tell whether it has been touched since."""

    node: gs.Node
    proto: onnx.NodeProto
    state: tuple[Any, ...]


@dataclass
class Source:
    """The model a graph was read from: all of it but the data of large initializers, which lie in arrays by name."""

    model: onnx.ModelProto
    arrays: dict[str, NDArray[Any]]
    path: str | None = None
    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # by id(node)


def load(path: str | os.PathLike[str]) -> gs.Graph:
    """Return the graph of the ONNX file at path; its large weights stay in the file until they are looked at.

    Raises ModelError when the file is missing, unreadable or no valid ONNX model.
    """
    name = os.fspath(path)
    try:
        skeleton, raw = wire.split(name)
    except OSError as error:
        raise ModelError(f"{name}: cannot be read: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(skeleton)
    except DecodeError as error:
        raise ModelError(f"{name}: not an ONNX model (the protobuf message does not parse)") from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{name}: not an ONNX model (no graph or no opset import)")
    arrays: dict[str, NDArray[Any]] = {}
    for index, data in raw.items():
        tensor = model.graph.initializer[index]
        if not _map(tensor, data, arrays):
            tensor.raw_data = data.tobytes()
    _map_external(model, os.path.dirname(os.path.abspath(name)), arrays)
    return _graph(Source(model, arrays, name))


def from_model(model: onnx.ModelProto) -> gs.Graph:
    """Return the graph of model, which is not modified."""
    skeleton = onnx.ModelProto()
    _copy_fields(model, skeleton, but="graph")
    _copy_fields(model.graph, skeleton.graph, but="initializer")
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in model.graph.initializer:
        copy = skeleton.graph.initializer.add()
        if len(tensor.raw_data) < wire.MAPPED_FROM:
            copy.CopyFrom(tensor)
            continue
        _copy_fields(tensor, copy, but="raw_data")
        if not _map(copy, np.frombuffer(tensor.raw_data, np.uint8), arrays):
            copy.raw_data = tensor.raw_data
    _map_external(skeleton, os.getcwd(), arrays)
    return _graph(Source(skeleton, arrays))


def _copy_fields(source: Message, target: Message, but: str) -> None:
    for descriptor, value in source.ListFields():
        if descriptor.name == but:
            continue
        if descriptor.is_repeated:
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)


def _map(tensor: TensorProto, data: NDArray[np.uint8], arrays: dict[str, NDArray[Any]]) -> bool:
    """Enter data as the array of tensor; False for packed types, whose elements are no whole bytes."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_type in PACKED:
        return False
    if data.size != int(np.prod(tensor.dims)) * dtype.itemsize:
        raise ModelError(f"initializer '{tensor.name}' has {data.size} bytes of data, not what its shape {list(tensor.dims)} needs")
    arrays[tensor.name] = data.view(dtype).reshape(tuple(tensor.dims))
    return True


PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.INT2, TensorProto.UINT2}


def _map_external(model: onnx.ModelProto, folder: str, arrays: dict[str, NDArray[Any]]) -> None:
    for tensor in external_data_helper._get_all_tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        info = external_data_helper.ExternalDataInfo(tensor)
        path = os.path.join(folder, info.location)
        try:
            size = info.length or os.path.getsize(path) - (info.offset or 0)
            data = np.memmap(path, np.uint8, "r", info.offset or 0, (size,)) if size else np.empty(0, np.uint8)
        except (OSError, ValueError) as error:
            raise ModelError(f"initializer '{tensor.name}': external data '{info.location}' cannot be read: {error}") from error
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        top_level = size >= wire.MAPPED_FROM and any(tensor is t for t in model.graph.initializer)
        if not top_level or not _map(tensor, np.asarray(data), arrays):
            tensor.raw_data = data.tobytes()


def _graph(source: Source) -> gs.Graph:
    _check(source)
    try:
        graph = gs.import_onnx(source.model)
    except Exception as error:  # graphsurgeon raises bare exceptions of its own
        raise ModelError(f"{source.path or 'the model'}: cannot be imported: {error}") from error
    if source.arrays:
        tensors = graph.tensors()
        for name, array in source.arrays.items():
            if isinstance(tensors.get(name), gs.Constant):
                tensors[name].values = array
    for node, proto in zip(graph.nodes, source.model.graph.node, strict=True):
        source.snapshots[id(node)] = Snapshot(node, proto, _state(node))
    graph.source = source
    return graph


def _check(source: Source) -> None:
    """Run the ONNX checker on the model, its large weights taken as empty."""
    copy = onnx.ModelProto()
    copy.CopyFrom(source.model)
    for tensor in copy.graph.initializer:
        if tensor.name in source.arrays:
            tensor.dims[:] = [0]
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        text = " ".join(str(error).split("==>")[0].split())
        raise ModelError(f"{source.path or 'the model'}: not a valid ONNX model: {text}") from error


def _state(node: gs.Node) -> tuple[Any, ...]:
    return (
        node.op,
        [t.name for t in node.inputs],
        [t.name for t in node.outputs],
        {key: _attribute(value) for key, value in node.attrs.items()},
    )


def _attribute(value: Any) -> Any:
    if isinstance(value, gs.Constant):
        return value._values
    return tuple(value) if isinstance(value, list) else value


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if a[:3] != b[:3] or a[3].keys() != b[3].keys():
        return False
    return all(a[3][k] is b[3][k] or (isinstance(a[3][k], int | float | str | tuple) and a[3][k] == b[3][k]) for k in a[3])


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """Return graph as an ONNX model; what was not changed since it was read is the same, field by field."""
    bare = without_weights(graph)
    for tensor in bare.model.graph.initializer:
        if tensor.name in bare.arrays:
            tensor.raw_data = bare.arrays[tensor.name].tobytes()
    return bare.model


def without_weights(graph: gs.Graph) -> Source:
    """Return graph as an ONNX model whose large initializers have no data, and these as arrays; no weight is copied."""
    source: Source = graph.source
    bare = Source(onnx.ModelProto(), {}, source.path)
    _copy_fields(source.model, bare.model, but="graph")
    _copy_fields(source.model.graph, bare.model.graph, but="node")
    bare.model.graph.node.extend(_node(node, source) for node in graph.nodes)
    _put_initializers(graph, source, bare)
    _put_shapes(graph, bare.model.graph)
    return bare


def _node(node: gs.Node, source: Source) -> onnx.NodeProto:
    snapshot = source.snapshots.get(id(node))
    if snapshot and _same(snapshot.state, _state(node)):
        return snapshot.proto
    proto: onnx.NodeProto = OnnxExporter.export_node(node)
    if snapshot:
        kept = {a.name: a for a in snapshot.proto.attribute}
        for attribute in proto.attribute:
            attribute.doc_string = kept[attribute.name].doc_string if attribute.name in kept else ""
        proto.doc_string, proto.overload = snapshot.proto.doc_string, snapshot.proto.overload
        proto.metadata_props.extend(snapshot.proto.metadata_props)
    return proto


def _put_initializers(graph: gs.Graph, source: Source, bare: Source) -> None:
    proto = bare.model.graph
    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    only_read_here = {name for s in source.snapshots.values() for name in s.proto.input} - captured(proto)
    old = list(proto.initializer)
    del proto.initializer[:]
    for tensor in old:
        constant = constants.pop(tensor.name, None)
        if constant is None and tensor.name in only_read_here:
            _withdraw_input(proto, tensor.name)
            continue
        stored = source.arrays.get(tensor.name)
        values = stored if constant is None else constant._values
        copy = proto.initializer.add()
        copy.CopyFrom(tensor)
        if stored is not None and values is stored:
            bare.arrays[tensor.name] = stored
        elif isinstance(values, np.ndarray) and (stored is not None or not _holds(tensor, values)):
            put_values(copy, values, bare.arrays)
    for constant in constants.values():
        if isinstance(constant._values, np.ndarray):
            tensor = proto.initializer.add(name=constant.name)
            put_values(tensor, constant._values, bare.arrays)
            if bare.model.ir_version < 4:  # where every initializer has to be an input as well
                proto.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _withdraw_input(proto: onnx.GraphProto, name: str) -> None:
    for value in [value for value in proto.input if value.name == name]:
        proto.input.remove(value)


def _holds(tensor: TensorProto, values: NDArray[Any]) -> bool:
    return tuple(tensor.dims) == values.shape and onnx.numpy_helper.to_array(tensor).tobytes() == values.tobytes()


def put_values(tensor: TensorProto, values: NDArray[Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Make tensor hold values: by itself where they are few, in arrays where they are many."""
    for data in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(data)
    tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor.dims[:] = values.shape
    if values.nbytes < wire.MAPPED_FROM:
        tensor.raw_data = values.tobytes()
    else:
        arrays[tensor.name] = values


def _put_shapes(graph: gs.Graph, proto: onnx.GraphProto) -> None:
    """Bring declared shapes up to date, and drop those of tensors that are gone."""
    tensors = graph.tensors()
    outside = captured(proto)
    gone = [v for v in proto.value_info if v.name not in tensors and v.name not in outside]
    for value in gone:
        proto.value_info.remove(value)
    for value in [*proto.value_info, *proto.input, *proto.output]:
        shape = getattr(tensors.get(value.name), "shape", None)
        dims = value.type.tensor_type.shape.dim
        if shape is None or len(shape) != len(dims):
            continue
        for dim, size in zip(dims, shape, strict=True):
            if isinstance(size, int | np.integer) and dim.HasField("dim_value") and dim.dim_value != size:
                dim.dim_value = int(size)


def captured(graph: onnx.GraphProto) -> set[str]:
    """Return the names that subgraphs of graph (bodies of If, Loop, Scan) read."""
    names: set[str] = set()
    for node in graph.node:
        for body in bodies(node):
            names |= {name for inner in body.node for name in inner.input} | {v.name for v in body.output} | captured(body)
    return names


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs among the attributes of node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def save(bare: Source, path: str | os.PathLike[str]) -> None:
    """Write a model to path so that the file there is whole, old or new, whatever happens.

    A model over 2 GB keeps its weights beside it, in a file of another name for other weights: what is at path refers to a whole
    one, old or new. Raises UsageError where path cannot be written.
    """
    name = os.fspath(path)
    if sum(array.nbytes for array in bare.arrays.values()) + bare.model.ByteSize() + 2**20 <= PROTOBUF_LIMIT:
        with _replacing(name) as file:
            file.writelines(wire.join(bare.model, bare.arrays))
        return
    digest = hashlib.sha256()
    for array in bare.arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    location = f"{os.path.basename(name)}.{digest.hexdigest()[:12]}.data"
    with _replacing(os.path.join(os.path.dirname(name), location)) as file:
        write_data(bare, file, location)
    write_whole(name, bare.model.SerializeToString())
    for old in pathlib.Path(os.path.dirname(name) or ".").glob(f"{glob.escape(os.path.basename(name))}.{'[0-9a-f]' * 12}.data"):
        if old.name != location:
            old.unlink()


def write_data(bare: Source, file: IO[bytes], location: str | None = None) -> None:
    """Write the arrays of a model to file and let its initializers refer to them there, as ONNX external data."""
    for tensor in bare.model.graph.initializer:
        if tensor.name in bare.arrays:
            data = np.ascontiguousarray(bare.arrays[tensor.name])
            offset = file.seek(-file.tell() % 4096, os.SEEK_CUR)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": location or os.path.basename(file.name), "offset": offset, "length": data.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(data.data)


def write_whole(path: str, content: bytes) -> None:
    """Replace the file at path by content: written beside it, synced, renamed."""
    with _replacing(path) as file:
        file.write(content)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise UsageError where path cannot be written, before any work is done for it."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise UsageError(f"{os.fspath(path)}: is a folder; name a file to write")
    if not os.path.isdir(folder):
        raise UsageError(f"{os.fspath(path)}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK) or (os.path.exists(target) and not os.access(target, os.W_OK)):
        raise UsageError(f"{os.fspath(path)}: cannot be written: permission denied")


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    target = os.path.realpath(path)
    beside = f"{target}.{secrets.token_hex(4)}.part"
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(beside, os.stat(target).st_mode & 0o777)
        os.replace(beside, target)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)
