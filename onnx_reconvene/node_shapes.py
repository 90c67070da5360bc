"""Shapes of the outputs of one node, by onnx, or by what stands in for an operator that onnx knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper, shape_inference

from onnx_reconvene.shapes import Integers, Shape

# Operators whose shapes onnx does not infer, the operator that has the same, and which inputs they share with it.
STAND_IN = {
    **dict.fromkeys(["BiasGelu", "FastGelu", "Gelu", "GroupNormalization", "MeanVarianceNormalization"], ("Identity", (0,))),
    **dict.fromkeys(["MultiHeadAttention", "QLinearLeakyRelu", "QLinearSigmoid", "QuickGelu"], ("Identity", (0,))),
    **dict.fromkeys(["SimplifiedLayerNormalization", "SkipLayerNormalization"], ("Identity", (0,))),
    "SkipSimplifiedLayerNormalization": ("Identity", (0,)),
    **dict.fromkeys(["QLinearAdd", "QLinearMul"], ("Add", (0, 3))),
    "FusedConv": ("Conv", (0, 1)),
    "FusedGemm": ("Gemm", (0, 1)),
    "FusedMatMul": ("MatMul", (0, 1)),
}


WITH_SUM = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")  # of what they read, as their fourth output


def _stand_in(proto: onnx.NodeProto) -> onnx.NodeProto:
    op_type, inputs = STAND_IN[proto.op_type]
    result = helper.make_node(op_type, [proto.input[i] for i in inputs], proto.output[:1])
    result.attribute.extend(a for a in proto.attribute if a.name in onnx.defs.get_schema(op_type).attributes)
    return result


def _from_front(proto: onnx.NodeProto, rank: int) -> onnx.NodeProto:
    """Return a node with axes counted from the front: onnx infers nothing from others below opset 11, though runtimes take them."""
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    if "axis" in attributes:
        attributes["axis"] %= rank
    if "axes" in attributes:
        attributes["axes"] = [axis % rank for axis in attributes["axes"]]
    return helper.make_node(proto.op_type, proto.input, proto.output, proto.name, domain=proto.domain, **attributes)


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
    version = versions.get(proto.domain, versions.get("", 1))
    inputs = list(node.inputs)
    if proto.op_type in STAND_IN:
        inputs = [inputs[i] for i in STAND_IN[proto.op_type][1]]
        proto, version = _stand_in(proto), versions.get("", 1)
    first = types.get(proto.input[0]) if inputs else None
    if proto.op_type in ("Concat", "Slice") and first is not None and first.tensor_type.HasField("shape"):
        proto = _from_front(proto, len(first.tensor_type.shape.dim))
    if not onnx.defs.has(proto.op_type, version, proto.domain):
        return {}
    known, data = {}, {}
    for name, tensor in zip(proto.input, inputs, strict=True):
        if isinstance(tensor, gs.Constant):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            known[name] = helper.make_tensor_type_proto(kind, tensor.shape)
        elif name in types:
            known[name] = types[name]
        value = integers.get(tensor) if name else None
        if value is not None and (varying or not integers.varies(name)):
            data[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
    schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
    found = dict(shape_inference.infer_node_outputs(schema, proto, known, data))
    if node.op in WITH_SUM and len(node.outputs) > 3 and proto.output[0] in found:
        found[node.outputs[3].name] = found[proto.output[0]]
    return found


def static_shape(kind: onnx.TypeProto) -> Shape | None:
    """Return the shape of a tensor type, None where some size in it is not known."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    sizes = tuple(d.dim_value for d in dims)
    return sizes if all(sizes) or all(d.HasField("dim_value") for d in dims) else None
