"""Values that are given for inputs: numbers on which shapes and branches depend, such as a sample rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_reconvene.errors import UsageError
from onnx_reconvene.graph import Source, every_node
from onnx_reconvene.shapes import Integers, dtype_of

OPTION = "--input-value"


def input_values(graph: gs.Graph, numbers: Mapping[str, float]) -> dict[str, NDArray[Any]]:
    """Return the values of inputs as arrays of their types and shapes. Raises UsageError for one that does not fit its input."""
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    for name in numbers:
        if name not in inputs:
            raise UsageError(f"{OPTION} {name}: the network has no such input; it has {', '.join(inputs)}")
    return {name: _array(inputs[name], value) for name, value in numbers.items()}


def _array(tensor: gs.Variable, value: float) -> NDArray[Any]:
    sizes = tensor.shape or ()
    if any(isinstance(size, int) and size != 1 for size in sizes):
        raise UsageError(f"{OPTION} {tensor.name}: the input takes {'x'.join(map(str, sizes))} numbers, not one; give it as data")
    dtype = dtype_of(tensor)
    with np.errstate(all="ignore"):
        array = np.full([1] * len(sizes), value).astype(dtype)
    if dtype.kind not in "biuf" or (dtype.kind != "f" and not (array == value).all()):
        raise UsageError(f"{OPTION} {tensor.name}={value:g}: the input is of type {dtype}")
    return array


def with_values(source: Source, values: Mapping[str, NDArray[Any]]) -> Source:
    """Return a network whose inputs of given values are constants."""
    if not values:
        return source
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    for value in [value for value in model.graph.input if value.name in values]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, 4)  # before that every initializer is an input, too
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    return Source(model, source.arrays, source.path)


def with_branches(source: Source, graph: gs.Graph) -> Source:
    """Return the network of graph with the nodes of a branch in place of each If that takes it at the given values of inputs."""
    if not graph.input_values:
        return source
    known = Integers(graph.opset or 1)
    for name, value in graph.input_values.items():
        known.assume(name, value)
    for node in every_node(graph):
        known.visit(node, lambda _: None)
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    del model.graph.node[:]
    model.graph.node.extend(_taken(source.model.graph.node, known))
    return Source(model, source.arrays, source.path)


def _taken(nodes: Iterable[onnx.NodeProto], known: Integers) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        if node.op_type != "If" or node.input[0] not in known:
            yield node
            continue
        name = "then_branch" if known[node.input[0]].all() else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == name)
        yield from _taken(branch.node, known)
        for result, output in zip(branch.output, node.output, strict=True):
            yield helper.make_node("Identity", [result.name], [output], output)
