"""What is refused of a model before anything is made of it, as neither the ONNX checker nor graphsurgeon does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from onnx_reconvene.errors import ModelError
from onnx_reconvene.names import name_of
from onnx_reconvene.plain import graphs_in
from onnx_reconvene.process import memory


def check_fields(model: ModelProto, name: str) -> None:
    """Raise ModelError, which starts with the name of the model, where it holds what no network can."""
    text = f"{name}: not a valid ONNX model:"
    graphs = list(graphs_in(model.graph))
    try:
        "".join(_texts(model, graphs))
    except TypeError as error:  # protobuf gives what is not UTF-8 as bytes
        raise ModelError(f"{text} a name in it is not UTF-8") from error
    for graph in graphs:
        for value in [*graph.input, *graph.output, *graph.value_info]:
            _check_type(value.type.tensor_type.elem_type or TensorProto.FLOAT, f"{text} '{value.name}'")
        for tensor in _tensors(graph):
            _check_tensor(tensor, text)
        for sparse in _sparse_tensors(graph):
            _check_sparse(sparse, text)
        for node in graph.node:
            _check_attributes(node, text)
            _check_bodies(node, text)


def _texts(model: ModelProto, graphs: Sequence[GraphProto]) -> Iterator[str]:
    """Yield the texts that name things in a model."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    yield from (imported.domain for imported in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    for graph in graphs:
        yield from (tensor.name for tensor in _tensors(graph))
        for value in [*graph.input, *graph.output, *graph.value_info]:
            yield from (value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim))
    for nodes in [*(graph.node for graph in graphs), *(function.node for function in model.functions)]:
        for node in nodes:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (attribute.name for attribute in node.attribute)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the dense tensors of a graph, without those of bodies in it."""
    yield from graph.initializer
    for attribute in _attributes(graph):
        yield from [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]


def _sparse_tensors(graph: GraphProto) -> Iterator[SparseTensorProto]:
    yield from graph.sparse_initializer
    for attribute in _attributes(graph):
        yield from [*attribute.sparse_tensors, *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])]


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    return (attribute for node in graph.node for attribute in node.attribute)


def _check_bodies(node: NodeProto, text: str) -> None:
    """Raise ModelError where a body of control flow does not return what its node does; the condition of a Loop comes on top."""
    if node.domain in STANDARD and node.op_type in ("If", "Loop", "Scan"):
        returned = len(node.output) + (node.op_type == "Loop")
        for attribute in node.attribute:
            if attribute.HasField("g") and len(attribute.g.output) < returned:
                what = f"{node.op_type} '{name_of(node)}' has {len(node.output)} outputs"
                raise ModelError(f"{text} {what}, but '{attribute.name}' returns {len(attribute.g.output)} values")


def _check_attributes(node: NodeProto, text: str) -> None:
    for attribute in node.attribute:
        what = f"{text} {node.op_type} '{node.name}': attribute '{attribute.name}'"
        if attribute.ref_attr_name:
            raise ModelError(f"{what} refers to one of a function, outside of any")
        one = attribute.i if attribute.type == AttributeProto.INT else 1
        if attribute.name in POSITIVE and node.domain in STANDARD and min(attribute.ints, default=one) < 1:
            raise ModelError(f"{what} holds a size below 1")
        if node.op_type == "Split" and attribute.name == "num_outputs" and attribute.i != len(node.output):
            raise ModelError(f"{what} is {attribute.i}, not {len(node.output)}")  # onnx's shape inference would abort


def _check_type(kind: int, text: str) -> None:
    if kind not in TYPES:
        raise ModelError(f"{text} has elements of type {kind}, which this version of onnx does not know")


def _check_tensor(tensor: TensorProto, text: str) -> None:
    text = f"{text} tensor '{tensor.name}'"
    _check_type(tensor.data_type, text)
    if min(tensor.dims, default=0) < 0:
        raise ModelError(f"{text} has the shape {list(tensor.dims)}")
    if tensor.HasField("segment"):
        raise ModelError(f"{text} is a segment of a tensor; store it whole")


def _check_sparse(sparse: SparseTensorProto, text: str) -> None:
    for part in (sparse.values, sparse.indices):
        _check_tensor(part, text)
    if min(sparse.dims, default=0) < 0 or 8 * math.prod(sparse.dims) > memory():
        raise ModelError(f"{text} sparse tensor '{sparse.values.name}' of shape {list(sparse.dims)} does not fit into memory")


STANDARD = ("", "ai.onnx", "com.microsoft")
POSITIVE = ("blocksize", "dilations", "group", "hidden_size", "kernel_shape", "kv_num_heads", "num_groups", "num_heads", "strides")
TYPES = frozenset(helper.get_all_tensor_dtypes())
