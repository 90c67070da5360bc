"""Stored tensors wherever a model has them, brought together as initializers of its main graph, and the way back.

A weight may also be the initializer of a body, a sparse tensor, or the value of a Constant node. What is not changed goes back as
it was read; a Constant node stays one, and a sparse tensor stays sparse as long as that is smaller.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_reconvene.names import first_output
from onnx_reconvene.wire import MAPPED_FROM

Arrays = dict[str, NDArray[Any]]
NO_WEIGHTS = (TensorProto.UNDEFINED, TensorProto.INT64, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.INT2, TensorProto.UINT2}
INDEX_BYTES = 8
NO_PARAMETERS = ("Resize", "Upsample")  # operators whose floats are settings


@dataclass(frozen=True)
class Home:
    """Where a model stores a tensor: in which of `graphs_by_name`, and as which Constant node or sparse tensor, if as one."""

    graph: str
    node: NodeProto | None = None
    sparse: SparseTensorProto | None = None


@dataclass(frozen=True)
class Homes:
    """Where the initializers of a plain form are stored in the model as it was read."""

    by_name: Mapping[str, Home]
    places: Mapping[str, int]  # of each node in its graph, by its first output
    before: Mapping[str, TensorProto]  # the initializers, as they were
    arrays: Arrays  # the data of large ones, some of which are `dense` forms of sparse tensors
    dense: Arrays

    def untouched(self, graph: GraphProto, arrays: Arrays) -> set[str]:
        """Return the names of those initializers of graph, the data of large ones in arrays, that are as they were."""
        return {
            tensor.name
            for tensor in graph.initializer
            if self.before.get(tensor.name) == tensor and arrays.get(tensor.name) is self.arrays.get(tensor.name)
        }

    def put_back(self, model: GraphProto, untouched: Collection[str], arrays: Arrays) -> None:
        """Move the initializers of model to where they were stored. What moves takes its data out of arrays, but for the Constant
        nodes of the main graph."""
        graphs = dict(graphs_by_name(model))
        constants: dict[str, list[NodeProto]] = {name: [] for name in graphs}
        stay = []
        for tensor in model.initializer:
            home = self.by_name.get(tensor.name)
            if home is None:
                stay.append(tensor)
            elif home.graph not in graphs:
                arrays.pop(tensor.name, None)
            elif home.node is not None:
                constants[home.graph].append(_constant(home.node, tensor, arrays, tensor.name in untouched))
                if home.graph and tensor.name in arrays:
                    constants[home.graph][-1].attribute[0].t.raw_data = arrays.pop(tensor.name).tobytes()
            elif (sparse := _sparse_again(home, tensor, arrays, tensor.name in untouched)) is not None:
                graphs[home.graph].sparse_initializer.append(sparse)
            elif home.graph:
                graphs[home.graph].initializer.append(_with_data(tensor, arrays))
            else:
                stay.append(tensor)
        copy = GraphProto(initializer=stay)
        del model.initializer[:]
        model.initializer.extend(copy.initializer)
        for name, nodes in reversed(constants.items()):  # bodies first, as nodes are copied
            _insert(graphs[name], nodes, self.places)


def graphs_by_name(graph: GraphProto, name: str = "") -> Iterator[tuple[str, GraphProto]]:
    """Yield graph and the bodies in it, at any depth, each with a name that it alone has: "" for graph itself."""
    yield name, graph
    for node in graph.node:
        for number, body in enumerate(_bodies(node)):
            yield from graphs_by_name(body, f"{first_output(node)}/{number}")


def is_scattered(graph: GraphProto) -> bool:
    """Return True if graph, its bodies left out, stores a weight otherwise than as an initializer."""
    return bool(graph.sparse_initializer or constants_of(graph))


def fill(graph: GraphProto, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Give the Constant nodes of graph the data that arrays hold for them."""
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in arrays and node.attribute[0].name == "value":
            node.attribute[0].t.raw_data = arrays[node.output[0]].tobytes()


def bring_together(model: ModelProto, arrays: Arrays) -> Homes:
    """Make all weights that model stores initializers of its main graph; arrays: the data of large ones that it lacks."""
    homes: dict[str, Home] = {}
    places: dict[str, int] = {}
    stored: list[TensorProto] = []
    dense: Arrays = {}
    for name, graph in reversed(list(graphs_by_name(model.graph))):  # bodies first, as nodes are copied
        places |= {first_output(node): place for place, node in enumerate(graph.node)}
        for home, tensor in _taken(graph, dense):
            homes[tensor.name] = replace(home, graph=name)
            stored.append(tensor)
        if name:
            results = {value.name for value in graph.output}  # which a body must not return from outside of it
            kept = [tensor for tensor in graph.initializer if tensor.name in results]
            moved = [tensor for tensor in graph.initializer if tensor.name not in results]
            homes |= {tensor.name: Home(name) for tensor in moved}
            stored += moved
            del graph.initializer[:]
            graph.initializer.extend(kept)
    model.graph.initializer.extend(stored)
    data = {name: array for name, array in arrays.items() if name in homes} | dense
    return Homes(homes, places, {t.name: t for t in model.graph.initializer if t.name in homes}, data, dense)


def _taken(graph: GraphProto, dense: Arrays) -> Iterator[tuple[Home, TensorProto]]:
    """Take from graph its sparse initializers, and the Constant nodes that hold weights but for its results."""
    for sparse in graph.sparse_initializer:
        yield Home("", sparse=sparse), _dense(sparse, sparse.values.name, dense)
    del graph.sparse_initializer[:]
    constants = constants_of(graph)
    yield from ((Home("", node=node), _value(node, dense)) for node in constants.values())
    if constants:
        put_nodes(graph, [node for node in graph.node if first_output(node) not in constants])


def put_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Make nodes, of graph itself perhaps, those of graph."""
    copy = GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(copy.node)


def constants_of(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the Constant nodes of graph that hold weights, by their output, but for its results.

    What holds one number, or only goes into settings such as the scales of a Resize, is none; unless the number is read beside a
    weight, as the bias of a single channel is.
    """
    results = {value.name for value in graph.output}
    nodes = {node.output[0]: node for node in graph.node if node.op_type == "Constant" and node.domain in ("", "ai.onnx")}
    sizes = {name: _elements(node) for name, node in nodes.items() if name not in results}
    readers = [node for node in graph.node if node.op_type not in NO_PARAMETERS] if any(sizes.values()) else []
    weights = {name for name, size in sizes.items() if size > 1}
    weights &= _read_as_numbers(graph) if weights else set()
    beside = {name for node in readers if not weights.isdisjoint(node.input) for name in node.input}
    return {name: nodes[name] for name, size in sizes.items() if name in weights or (size == 1 and name in beside)}


def _read_as_numbers(graph: GraphProto) -> set[str]:
    """Return the names of the tensors that the results of graph, and what nobody reads, are computed from, not only sized by."""
    needed = {name for node in graph.node for name in node.output}
    needed -= {name for node in graph.node for name in _reads(node)}
    needed |= {value.name for value in graph.output}
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input[:1] if node.op_type in NO_PARAMETERS else _reads(node))
    return needed


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield the names that node reads, in its bodies too."""
    yield from node.input
    for body in _bodies(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _reads(inner)


def _bodies(node: NodeProto) -> list[GraphProto]:
    return [body for a in node.attribute for body in [*([a.g] if a.HasField("g") else []), *a.graphs]]


def _elements(node: NodeProto) -> int:
    """Return how many numbers a Constant node holds, 0 if these are no weights: a scalar, a shape or an index."""
    (attribute,) = node.attribute
    if attribute.name == "sparse_value":
        return 0 if attribute.sparse_tensor.values.data_type == TensorProto.STRING else math.prod(attribute.sparse_tensor.dims)
    if attribute.name == "value_floats":
        return len(attribute.floats)
    numbers = attribute.name == "value" and attribute.t.data_type not in NO_WEIGHTS
    return math.prod(attribute.t.dims) if numbers and attribute.t.dims else 0


def _value(node: NodeProto, dense: Arrays) -> TensorProto:
    """Return what a Constant node holds, under the name of its output."""
    attribute, name = node.attribute[0], node.output[0]
    if attribute.name == "sparse_value":
        return _dense(attribute.sparse_tensor, name, dense)
    if attribute.name == "value_floats":
        return numpy_helper.from_array(np.asarray(attribute.floats, np.float32), name)
    tensor = TensorProto()
    tensor.CopyFrom(attribute.t)
    tensor.name = name
    return tensor


def _with_data(tensor: TensorProto, arrays: Arrays) -> TensorProto:
    """Return tensor, with the data that arrays hold for it."""
    array = arrays.pop(tensor.name, None)
    if array is not None:
        tensor.raw_data = array.tobytes()
    return tensor


def _dense(sparse: SparseTensorProto, name: str, arrays: Arrays) -> TensorProto:
    """Return a sparse tensor as a dense one; a large one has its data in arrays."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = values
    else:
        array[tuple(indices.T)] = values
    if array.nbytes < MAPPED_FROM or sparse.values.data_type in PACKED:
        return numpy_helper.from_array(array, name)
    arrays[name] = array
    return TensorProto(name=name, data_type=sparse.values.data_type, dims=sparse.dims)


def _sparse(array: NDArray[Any], like: SparseTensorProto) -> SparseTensorProto | None:
    """Return array as a sparse tensor in the form of another, None where it would take more bytes than a dense one."""
    places = np.flatnonzero(array)
    if not 0 < places.size * (array.itemsize + INDEX_BYTES) < array.nbytes:
        return None
    indices = places if len(like.indices.dims) == 1 else np.stack(np.unravel_index(places, array.shape), 1)
    values = numpy_helper.from_array(array.reshape(-1)[places], like.values.name)
    numbers = numpy_helper.from_array(indices.astype(np.int64), like.indices.name)
    return helper.make_sparse_tensor(values, numbers, array.shape)


def _sparse_again(home: Home, tensor: TensorProto, arrays: Arrays, untouched: bool) -> SparseTensorProto | None:
    """Return an initializer as the sparse tensor that it was, None where it was none, or would get larger."""
    if home.sparse is None:
        return None
    array = arrays.get(tensor.name)
    sparse = home.sparse if untouched else _sparse(numpy_helper.to_array(tensor) if array is None else array, home.sparse)
    if sparse is not None:
        arrays.pop(tensor.name, None)
    return sparse


def _constant(node: NodeProto, tensor: TensorProto, arrays: Arrays, untouched: bool) -> NodeProto:
    """Return the Constant node that held a tensor, now with what that holds."""
    result = NodeProto()
    result.CopyFrom(node)
    (attribute,) = result.attribute
    if attribute.name != "value":
        tensor = _with_data(tensor, arrays)
    if untouched:
        return result
    sparse = _sparse(numpy_helper.to_array(tensor), attribute.sparse_tensor) if attribute.name == "sparse_value" else None
    if sparse is not None:
        attribute.sparse_tensor.CopyFrom(sparse)
    elif attribute.name == "value_floats":
        attribute.floats[:] = numpy_helper.to_array(tensor).tolist()
    else:
        name = attribute.t.name
        attribute.CopyFrom(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
        attribute.t.name = name
    return result


def _insert(graph: GraphProto, constants: list[NodeProto], places: Mapping[str, int]) -> None:
    """Put Constant nodes where they were among the nodes of graph; one that is new there stands right before the next known."""
    if not constants:
        return
    waiting = deque(sorted(constants, key=lambda node: places[node.output[0]]))
    limits = [len(places)]
    for node in reversed(graph.node):
        limits.append(places.get(first_output(node), limits[-1]))
    nodes: list[NodeProto] = []
    for node, limit in zip(graph.node, reversed(limits), strict=False):
        while waiting and places[waiting[0].output[0]] < limit:
            nodes.append(waiting.popleft())
        nodes.append(node)
    put_nodes(graph, [*nodes, *waiting])
