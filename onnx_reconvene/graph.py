"""ONNX models as onnx-graphsurgeon graphs: read without copying weights, written back without losing a field.

graphsurgeon drops metadata, doc strings and quantization annotations. So each graph keeps, as `graph.source`, the model it was
read from without its large weights; `to_model` puts what has changed into a copy of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_reconvene import wire
from onnx_reconvene.boundary import boundary
from onnx_reconvene.checks import check_fields
from onnx_reconvene.errors import ModelError
from onnx_reconvene.header import is_unknown, put_header
from onnx_reconvene.homes import PACKED, constants_of, fill
from onnx_reconvene.mapping import check_bytes, enter, enter_external, without_data
from onnx_reconvene.plain import Plain, as_read, graphs_in, nodes_in, plain, sort_nodes

RUNTIME_OPERATORS = {"SimplifiedLayerNormalization"}  # of onnxruntime, in the standard domain
G_LOGGER.severity = G_LOGGER.CRITICAL  # graphsurgeon prints warnings that are none of the user's concern


@dataclass(frozen=True)
class Snapshot:
    """What a node was when it was read, beside its proto, to tell whether it has been touched since."""

    node: gs.Node
    proto: onnx.NodeProto
    state: dict[str, Any]


@dataclass
class Source:
    """The model a graph was read from: all of it but the data of large initializers and Constant nodes, which lie in arrays by
    name. That of a graph is in plain form."""

    model: onnx.ModelProto
    arrays: dict[str, NDArray[Any]]
    path: str | None = None
    form: Plain | None = None  # says what the model was before it was put in plain form
    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # by id(node)
    external: frozenset[str] = frozenset()  # real paths of the files of external data that it was read from


def load(path: str | os.PathLike[str]) -> gs.Graph:
    """Return the graph of the ONNX file at path; its large weights stay in the file until they are looked at.

    Raises ModelError when the file is missing, unreadable or no valid ONNX model.
    """
    name = os.fspath(path)
    with boundary("load", name):
        skeleton, raw = wire.split(name)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(skeleton)
        except DecodeError as error:
            raise ModelError(f"{name}: not an ONNX model (the protobuf message does not parse)") from error
        if not model.HasField("graph") or not model.opset_import:
            raise ModelError(f"{name}: not an ONNX model (no graph or no opset import)")
        check_fields(model, name)
        arrays: dict[str, NDArray[Any]] = {}
        enter(model.graph, raw, arrays)
        external = enter_external(model, os.path.dirname(os.path.abspath(name)), arrays)
        return from_source(Source(model, arrays, name, external=external))


def from_model(model: onnx.ModelProto, folder: str = "") -> gs.Graph:
    """Return the graph of model, which is not modified; its external data, if any, lie in folder. Raises ModelError where the model
    is invalid."""
    with boundary("load", model):
        check_fields(model, "the model")
        arrays: dict[str, NDArray[Any]] = {}
        skeleton = without_data(model, arrays)
        enter_external(skeleton, os.path.abspath(folder), arrays)
        return from_source(Source(skeleton, arrays))


def reopen(graph: gs.Graph) -> gs.Graph:
    """Return a new graph of the same network, to which what was changed in graph is how it was read; no weight is copied."""
    result = from_source(without_weights(graph))
    result.input_values = graph.input_values
    return result


def bodies_of(node: gs.Node) -> list[gs.Graph]:
    """Return the graphs among the attributes of node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)] if node.attrs else []


def every_graph(graph: gs.Graph) -> Iterator[gs.Graph]:
    """Yield graph and the bodies of control flow in it, at any depth."""
    yield graph
    for node in graph.nodes:
        for body in bodies_of(node):
            yield from every_graph(body)


def every_node(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield the nodes of graph and of the bodies in it, those of a body before the node that runs it."""
    for node in graph.nodes:
        for body in bodies_of(node):
            yield from every_node(body)
        yield node


def dead_nodes(graph: gs.Graph) -> list[gs.Node]:
    """Return the nodes, in bodies too, whose results nobody reads though somebody did when graph was read."""
    before = list(nodes_in(graph.source.model.graph))
    read_before = {name for node in before for name in node.input}
    unread = {name for node in before for name in node.output if name not in read_before}
    needed = {t.name for part in every_graph(graph) for t in part.outputs}
    dead = []
    for node in reversed(list(every_node(graph))):
        names = {t.name for t in node.outputs if t.name}
        if needed & names or names <= unread:
            needed |= {t.name for t in node.inputs}
        else:
            dead.append(node)
    return dead


def every_tensor(graph: gs.Graph) -> dict[str, gs.Tensor]:
    """Return the tensors of graph and of the bodies in it, by name."""
    tensors: dict[str, gs.Tensor] = {}
    for part in every_graph(graph):
        tensors = {**part.tensors(), **tensors}
    return tensors


def from_source(source: Source) -> gs.Graph:
    """Return the graph of a model whose large weights are kept apart."""
    _check(source)
    for tensor in source.model.graph.initializer:
        if tensor.HasField("raw_data") and tensor.data_type not in PACKED:
            check_bytes(tensor, len(tensor.raw_data))
    form = plain(source.model, source.arrays)
    if form is not None:
        source = replace(source, model=form.model, form=form, arrays=source.arrays | form.homes.dense)
    graph = gs.import_onnx(source.model)
    for tensor in [*graph.inputs, *graph.outputs]:
        tensor.shape = tensor.shape and [None if is_unknown(size) else size for size in tensor.shape]
    if source.arrays:
        tensors = every_tensor(graph)
        for name, array in source.arrays.items():
            if isinstance(tensors.get(name), gs.Constant):
                tensors[name].values = array
    for node, proto in zip(every_node(graph), nodes_in(source.model.graph), strict=True):
        source.snapshots[id(node)] = Snapshot(node, proto, _state(node))
    graph.source = source
    graph.input_values = {}  # of inputs for which one is given, by name
    return graph


def _check(source: Source) -> None:
    """Run the ONNX checker on the model, its large weights taken as empty."""
    copy = onnx.ModelProto()
    copy.CopyFrom(source.model)
    for tensor in copy.graph.initializer:
        if tensor.name in source.arrays:
            tensor.dims[:] = [0]
    for name, node in constants_of(copy.graph).items():
        if name in source.arrays:
            node.attribute[0].t.dims[:] = [0]
    for value in copy.graph.input:  # an input of unknown rank is what --input-shape is for
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    for node in nodes_in(copy.graph):  # operators that a runtime adds to the standard domain are unknown, not invalid
        if node.op_type in RUNTIME_OPERATORS and node.domain in ("", "ai.onnx"):
            node.domain = "unregistered"
    copy.opset_import.add(domain="unregistered", version=1)
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        if sort_nodes(source.model.graph):  # as runtimes do
            return _check(source)
        text = " ".join(str(error).split("==>")[0].split())
        raise ModelError(f"{source.path or 'the model'}: not a valid ONNX model: {text}") from error


def _state(node: gs.Node) -> dict[str, Any]:
    """Return the attributes of node, with what could be changed in place taken by value or by its own identity."""
    return {key: _attribute(value) for key, value in node.attrs.items()}


def _attribute(value: Any) -> Any:
    if isinstance(value, gs.Constant):
        return value._values
    return tuple(value) if isinstance(value, list) else value


def _same(before: Any, now: Any, proto: onnx.AttributeProto) -> bool:
    if before is now:
        return True
    if isinstance(before, LazyValues) and isinstance(now, np.ndarray):  # it has been looked at, perhaps replaced
        return _holds(proto.t, now)
    return isinstance(now, int | float | str | tuple) and type(now) is type(before) and bool(now == before)


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """Return graph as an ONNX model; what was not changed since it was read is the same, field by field."""
    bare = without_weights(graph)
    for tensor in bare.model.graph.initializer:
        if tensor.name in bare.arrays:
            tensor.raw_data = bare.arrays[tensor.name].tobytes()
    fill(bare.model.graph, bare.arrays)
    return bare.model


def without_weights(graph: gs.Graph) -> Source:
    """Return graph as an ONNX model whose large initializers and Constant nodes have no data, and these as arrays; no weight of its
    main graph is copied."""
    bare, source = plain_source(graph), graph.source
    if source.form is not None:
        bare = Source(as_read(source.form, bare.model, bare.arrays), bare.arrays, bare.path)
    put_header(graph, source.model, bare.model)
    return bare


def plain_source(graph: gs.Graph) -> Source:
    """Return what `without_weights` does, but in plain form: as the analysis knows it."""
    source: Source = graph.source
    bare = Source(onnx.ModelProto(), {}, source.path)
    bare.model.CopyFrom(source.model)
    _put_nodes(graph, bare.model.graph, source)
    _put_initializers(graph, source, bare)
    _put_shapes(graph, source, bare.model.graph)
    return bare


def _put_nodes(graph: gs.Graph, proto: onnx.GraphProto, source: Source) -> None:
    del proto.node[:]
    proto.node.extend(_node(node, source) for node in graph.nodes)


def _node(node: gs.Node, source: Source) -> onnx.NodeProto:
    """Return node as it was read but for what was changed."""
    snapshot = source.snapshots.get(id(node))
    if snapshot is None:
        exported: onnx.NodeProto = OnnxExporter.export_node(node)
        return exported
    proto, state = onnx.NodeProto(), _state(node)
    proto.CopyFrom(snapshot.proto)
    if proto.op_type != node.op:
        proto.op_type = node.op
    for field_, tensors in ((proto.input, node.inputs), (proto.output, node.outputs)):
        names = [tensor.name for tensor in tensors]
        if list(field_) != names:
            field_[:] = names
    for attribute in list(proto.attribute):
        if attribute.name not in state:
            proto.attribute.remove(attribute)
        elif isinstance(node.attrs[attribute.name], gs.Graph):
            _put_nodes(node.attrs[attribute.name], attribute.g, source)
        elif not _same(snapshot.state[attribute.name], state[attribute.name], attribute):
            (new,) = OnnxExporter.export_attributes({attribute.name: node.attrs[attribute.name]})
            wire.copy_fields(new, attribute, "t")
            if new.HasField("t"):
                put_values(attribute.t, node.attrs[attribute.name].values)
    added = {key: node.attrs[key] for key in state.keys() - snapshot.state.keys()}
    proto.attribute.extend(OnnxExporter.export_attributes(added))
    return proto


def _put_initializers(graph: gs.Graph, source: Source, bare: Source) -> None:
    proto = bare.model.graph
    constants = {t.name: t for t in every_tensor(graph).values() if isinstance(t, gs.Constant)}
    read = {name for s in source.snapshots.values() for name in s.proto.input}
    read -= {value.name for part in graphs_in(proto) for value in part.output}
    old = list(proto.initializer)
    del proto.initializer[:]
    for tensor in old:
        constant = constants.pop(tensor.name, None)
        if constant is None and tensor.name in read:
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
            _put_new(constant, bare)


def _put_new(constant: gs.Constant, bare: Source) -> None:
    """Add a constant that the model did not have. Before IR version 4 every initializer has to be an input as well; what is no
    weight becomes a node there."""
    proto, values = bare.model.graph, constant._values
    if bare.model.ir_version < 4 and values.dtype.kind != "f":
        node = helper.make_node("Constant", [], [constant.name], value=onnx.numpy_helper.from_array(values))
        proto.node.insert(0, node)
        return
    tensor = proto.initializer.add(name=constant.name)
    put_values(tensor, values, bare.arrays)
    if bare.model.ir_version < 4:
        proto.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _withdraw_input(proto: onnx.GraphProto, name: str) -> None:
    for value in [value for value in proto.input if value.name == name]:
        proto.input.remove(value)


def _holds(tensor: TensorProto, values: NDArray[Any]) -> bool:
    return tuple(tensor.dims) == values.shape and onnx.numpy_helper.to_array(tensor).tobytes() == values.tobytes()


def put_values(tensor: TensorProto, values: NDArray[Any], arrays: dict[str, NDArray[Any]] | None = None) -> None:
    """Make tensor hold values: by itself where they are few or arrays is None, else in arrays."""
    for data in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(data)
    tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor.dims[:] = values.shape
    if arrays is None or values.nbytes < wire.MAPPED_FROM:
        tensor.raw_data = values.tobytes()
    else:
        arrays[tensor.name] = values


def _put_shapes(graph: gs.Graph, source: Source, proto: onnx.GraphProto) -> None:
    """Bring declared shapes up to date, and drop those of tensors that are gone."""
    tensors = every_tensor(graph)
    before = {name for s in source.snapshots.values() for name in [*s.proto.input, *s.proto.output]}
    for part in graphs_in(proto):
        for value in [v for v in part.value_info if v.name in before and v.name not in tensors]:
            part.value_info.remove(value)
        for value in [*part.value_info, *part.input, *part.output]:
            _put_shape(getattr(tensors.get(value.name), "shape", None), value)


def _put_shape(shape: Sequence[Any] | None, value: onnx.ValueInfoProto) -> None:
    dims = value.type.tensor_type.shape.dim
    if shape is None or not dims:
        return
    if len(shape) != len(dims):  # what was declared contradicts what is computed
        if all(isinstance(size, int | np.integer) for size in shape):
            value.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, shape).tensor_type.shape)
        return
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(size, int | np.integer) and dim.HasField("dim_value") and dim.dim_value != size:
            dim.dim_value = int(size)
