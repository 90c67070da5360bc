"""What onnx infers of one node, or of the plain operator of which it is a form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper, shape_inference

from onnx_reconvene.contrib_shapes import FLOATS, NEEDED, SHAPES
from onnx_reconvene.shapes import Integers, Shape, dtype_of
from onnx_reconvene.twins import ABSENT, RESULT, TWINS, Twin, qualified

WITH_SUM = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")  # of what they read, as their fourth output
LIKE_FIRST = ("GroupNormalization", "MeanVarianceNormalization", "RotaryEmbedding", "SimplifiedLayerNormalization", *WITH_SUM)


def _attributes(proto: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}


def _twin_of(proto: onnx.NodeProto, version: int) -> Twin | None:
    """Return what says how the outputs of proto are shaped, where onnx does not."""
    if proto.op_type in LIKE_FIRST:
        return Twin("Identity", "0")
    known = onnx.defs.has(proto.op_type, version, proto.domain)
    twin = None if known else TWINS.get(qualified(proto.op_type, proto.domain))
    attributes = _attributes(proto)
    return None if twin is None or any(attributes.get(name, 0) for name in twin.plain_if_not) else twin


@dataclass(frozen=True)
class _Call:
    """A node as onnx infers its shapes: its operator, and what is known of its inputs."""

    node: onnx.NodeProto
    version: int
    types: dict[str, onnx.TypeProto]


def _as_plain(call: _Call, twin: Twin, version: int) -> _Call:
    """Return the plain operator of twin in place of a node; what is quantized stands for real numbers."""
    proto = call.node
    attributes = _attributes(proto)
    operands = twin.operands(len(proto.input), attributes)
    names = [proto.input[i] if 0 <= i < len(proto.input) else "" for i in operands.inputs]
    quantized, types = {q.operand for q in twin.quantities(len(proto.input))}, {}
    for i, name in [(i, name) for i, name in enumerate(names) if name in call.types]:
        element = call.types[name].tensor_type.elem_type
        if quantized and element == onnx.TensorProto.INT32:  # a bias, or the lengths of sequences: neither decides on shapes
            names[i] = ""
            continue
        types[name] = _turned(call.types[name], operands.axis, i)
        types[name].tensor_type.elem_type = onnx.TensorProto.FLOAT if i in quantized else element
    version = twin.version or version
    known = onnx.defs.get_schema(twin.plain, version).attributes
    attributes = {name: value for name, value in attributes.items() if name in known}
    outputs = proto.output if twin.plain == "LSTM" else proto.output[:1]
    return _Call(helper.make_node(twin.plain, names, outputs, **attributes), version, types)


def _turned(kind: onnx.TypeProto, axis_of: Callable[[int, int, int], int], i: int) -> onnx.TypeProto:
    """Return the type of operand i, its axes in the order of the plain operator."""
    result, dims = onnx.TypeProto(), list(kind.tensor_type.shape.dim)
    result.CopyFrom(kind)
    for axis in range(len(dims)):
        result.tensor_type.shape.dim[axis].CopyFrom(dims[axis_of(i, axis, len(dims))])
    return result


def _result_type(call: _Call, twin: Twin) -> int:
    """Return the type of the elements of what a quantized twin returns, that of its zero point or that of scales; else 0."""
    quantities = twin.quantities(len(call.node.input))
    if not quantities:
        return 0
    sources = [q.zero for q in quantities if q.operand == RESULT] + [q.scale for q in quantities if q.operand != RESULT] + [0]
    names = [call.node.input[i] for i in sources if i != ABSENT]
    return next((call.types[name].tensor_type.elem_type for name in names if name in call.types), 0)


def _from_front(proto: onnx.NodeProto, rank: int) -> onnx.NodeProto:
    """Return a node with axes counted from the front: onnx infers nothing from others below opset 11, though runtimes take them."""
    attributes = _attributes(proto)
    if "axis" in attributes:
        attributes["axis"] %= rank
    if "axes" in attributes:
        attributes["axes"] = [axis % rank for axis in attributes["axes"]]
    return helper.make_node(proto.op_type, proto.input, proto.output, proto.name, domain=proto.domain, **attributes)


def _of_contrib(call: _Call, twin: Twin | None) -> dict[str, onnx.TypeProto] | None:
    """Return the types of the outputs of an operator, or of a form of one, that has a rule of its own; None where it has none."""
    proto = call.node
    attributes = _attributes(proto)
    name = qualified(proto.op_type, proto.domain) if twin is None else twin.plain
    if name not in SHAPES:
        return None
    operands = range(len(proto.input)) if twin is None else twin.operands(len(proto.input), attributes).inputs
    read = [proto.input[i] if 0 <= i < len(proto.input) else "" for i in operands]
    shapes = [static_shape(call.types[source]) if source in call.types else None if source else () for source in read]
    needed = shapes[: NEEDED.get(name, 3)]
    if None in needed:
        return {}
    kind = (twin and _result_type(call, twin)) or call.types[read[FLOATS.get(name, 0)]].tensor_type.elem_type
    shapes_of_results = SHAPES[name]([shape or () for shape in shapes], attributes)
    results = zip(proto.output, shapes_of_results, strict=False)
    return {result: helper.make_tensor_type_proto(kind, shape) for result, shape in results if result}


def infer_node(
    node: gs.Node,
    proto: onnx.NodeProto,
    versions: Mapping[str, int],
    types: Mapping[str, onnx.TypeProto],
    integers: Integers,
    varying: bool = False,
) -> dict[str, onnx.TypeProto]:
    """Return the types of the outputs of node as far as onnx infers them; varying: with integers that depend on sizes that are
    not certain, too."""
    first = types.get(proto.input[0]) if proto.input else None
    if proto.op_type in ("Concat", "Slice") and first is not None and first.tensor_type.HasField("shape"):
        proto = _from_front(proto, len(first.tensor_type.shape.dim))
    known, data = {}, {}
    for name, tensor in zip(proto.input, node.inputs, strict=True):
        if isinstance(tensor, gs.Constant):
            known[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype_of(tensor)), tensor.shape)
        elif name in types:
            known[name] = types[name]
        value = integers.get(tensor) if name else None
        if value is not None and (varying or not integers.varies(name)):
            data[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
    standard = versions.get("", 1)
    call = _Call(proto, versions.get(proto.domain, standard), known)
    twin = _twin_of(proto, call.version)
    results = _of_contrib(call, twin)
    if results is not None:
        return results
    element = 0 if twin is None else _result_type(call, twin)
    call = call if twin is None else _as_plain(call, twin, standard)
    if not onnx.defs.has(call.node.op_type, call.version, call.node.domain):
        return {}
    schema = onnx.defs.get_schema(call.node.op_type, call.version, call.node.domain)
    inferred = dict(shape_inference.infer_node_outputs(schema, call.node, call.types, data))
    if node.op in WITH_SUM and len(node.outputs) > 3 and proto.output[0] in inferred:
        inferred[node.outputs[3].name] = inferred[proto.output[0]]
    for kind in inferred.values():
        kind.tensor_type.elem_type = element or kind.tensor_type.elem_type
    return inferred


def static_shape(kind: onnx.TypeProto) -> Shape | None:
    """Return the shape of a tensor type, None where some size in it is not known."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    sizes = tuple(d.dim_value for d in dims)
    return sizes if all(sizes) or all(d.HasField("dim_value") for d in dims) else None
