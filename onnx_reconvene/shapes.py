"""Shapes of all tensors, and the integers that networks compute from shapes at run time.

`onnx.shape_inference` does most of the work. What it cannot follow (arithmetic on shapes, mostly) is evaluated here in numpy, one
node at a time, and handed back to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from onnx_reconvene.errors import ModelError

Array = NDArray[Any]
Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
FEW = 8  # elements; as many floating-point numbers as are computed from shapes (scales, square roots of widths)
SMALL = 4096  # elements; a larger tensor is data, not a shape


def _cast(attributes: Attributes, x: Array) -> Array:
    return x.astype(helper.tensor_dtype_to_np_dtype(int(attributes["to"])))


def _slice(attributes: Attributes, x: Array, *operands: Array) -> Array:
    starts, ends, axes, steps = slice_operands(attributes, x.ndim, operands)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = as_slice(start, end, step, x.shape[axis])
    return x[tuple(index)]


def slice_operands(
    attributes: Attributes, rank: int, operands: Sequence[Array | None]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return starts, ends, axes (>= 0) and steps of a Slice node of any opset."""
    if not operands:
        operands = [np.asarray(attributes[k]) for k in ("starts", "ends", "axes") if k in attributes]
    starts, ends, axes, steps = [*operands, None, None][:4]
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    return starts.tolist(), ends.tolist(), [int(a) % rank for a in axes], steps.tolist()


def as_slice(start: int, end: int, step: int, size: int) -> slice:
    """Return ONNX's (start, end, step) on an axis of `size` as a Python slice."""
    if step < 0:
        return slice(max(start, -size), None if end < -size else end, step)
    return slice(start, end, step)


def _squeeze(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
    axes = attributes.get("axes") if axes is None else axes
    return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
    axes = attributes["axes"] if axes is None else axes
    return np.expand_dims(x, tuple(int(a) for a in axes))


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    def run(attributes: Attributes, x: Array, axes: Array | None = None) -> Array:
        axes = attributes.get("axes") if axes is None else axes
        axis = None if axes is None or not len(axes) else tuple(int(a) for a in axes)
        if axis is None and attributes.get("noop_with_empty_axes"):
            return x
        return np.asarray(function(x, axis=axis, keepdims=bool(attributes.get("keepdims", 1))))

    return run


def _divide(_: Attributes, a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):  # C's division: towards zero
        return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)
    return a / b


def _modulo(attributes: Attributes, a: Array, b: Array) -> Array:
    return np.asarray(np.fmod(a, b) if attributes.get("fmod") else np.mod(a, b))


def _constant_of_shape(attributes: Attributes, shape: Array) -> Array:
    value = attributes["value"].values.reshape(-1)[0] if "value" in attributes else np.float32(0)
    return np.broadcast_to(value, tuple(shape.tolist()))


def _reshape(attributes: Attributes, x: Array, shape: Array) -> Array:
    sizes = [x.shape[i] if s == 0 and not attributes.get("allowzero") else int(s) for i, s in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _numpy(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda _, *x: np.asarray(function(*x))


EVALUATE: dict[str, Callable[..., Array]] = {
    "Abs": _numpy(np.abs),
    "Add": _numpy(np.add),
    "And": _numpy(np.logical_and),
    "Cast": _cast,
    "Ceil": _numpy(np.ceil),
    "Concat": lambda a, *x: np.concatenate(x, a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": _numpy(np.equal),
    "Expand": lambda _, x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Floor": _numpy(np.floor),
    "Gather": lambda a, x, i: np.take(x, i, a.get("axis", 0)),
    "Greater": _numpy(np.greater),
    "GreaterOrEqual": _numpy(np.greater_equal),
    "Identity": lambda _, x: x,
    "Less": _numpy(np.less),
    "LessOrEqual": _numpy(np.less_equal),
    "Max": lambda _, *x: np.asarray(np.max(np.stack(np.broadcast_arrays(*x)), 0)),
    "Min": lambda _, *x: np.asarray(np.min(np.stack(np.broadcast_arrays(*x)), 0)),
    "Mod": _modulo,
    "Mul": _numpy(np.multiply),
    "Neg": _numpy(np.negative),
    "Not": _numpy(np.logical_not),
    "Or": _numpy(np.logical_or),
    "Pow": lambda _, x, y: np.power(x, y).astype(x.dtype),
    "Range": _numpy(np.arange),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Round": _numpy(np.round),
    "Slice": _slice,
    "Sqrt": _numpy(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _numpy(np.subtract),
    "Transpose": lambda a, x: np.transpose(x, a.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _numpy(np.where),
}


class Integers:
    """Small tensors whose values follow from constants and shapes alone, evaluated node by node."""

    def __init__(self) -> None:
        self._values: dict[str, Array] = {}
        self.of_shapes: set[str] = set()  # those that some Shape node had a part in
        self._of_weights: set[str] = set()  # those that floating-point numbers of a weight had a part in

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def is_arithmetic(self, name: str) -> bool:
        """Tell whether a tensor has a known value that is no data: integers, or a few numbers computed from shapes."""
        if name not in self._values:
            return False
        value = self._values[name]
        return (value.dtype.kind in "iub" and name not in self._of_weights) or (name in self.of_shapes and value.size <= FEW)

    def computes(self, node: gs.Node) -> bool:
        """Tell whether node does nothing but arithmetic on shapes and constants of known value."""
        return all(self.is_arithmetic(tensor.name) for tensor in node.outputs)

    def get(self, tensor: gs.Tensor) -> Array | None:
        """Return the value of tensor, or None where it is data."""
        if isinstance(tensor, gs.Constant) and tensor.name not in self._values and np.prod(tensor.shape) <= SMALL:
            self._values[tensor.name] = np.asarray(tensor.values)
        return self._values.get(tensor.name)

    def put(self, name: str, value: Array) -> None:
        """Enter the value of a tensor that no node here computes."""
        self._values[name] = value

    def visit(self, node: gs.Node, shape: Callable[[str], Shape | None]) -> None:
        """Evaluate node where all it reads is known; shape gives the shape of a tensor by name."""
        if len(node.outputs) != 1 or node.domain not in (None, "", "ai.onnx"):
            return
        if node.op == "Constant":
            value = node.attrs.get("value")
            if isinstance(value, gs.Constant) and np.prod(value.shape) <= SMALL:
                self._values[node.outputs[0].name] = np.asarray(value.values)
            elif value is None and len(node.attrs) == 1:
                self._values[node.outputs[0].name] = _plain_constant(node)
        elif node.op in ("Shape", "Size"):
            sizes = shape(node.inputs[0].name)
            if sizes is not None:
                self._values[node.outputs[0].name] = _shape(node, sizes)
                self.of_shapes.add(node.outputs[0].name)
        elif node.op in EVALUATE:
            self._evaluate(node)
            if any(t.name in self.of_shapes for t in node.inputs):
                self.of_shapes.add(node.outputs[0].name)

    def _evaluate(self, node: gs.Node) -> None:
        operands = [self.get(tensor) if tensor.name else None for tensor in node.inputs]
        if any(x is None and t.name for x, t in zip(operands, node.inputs, strict=True)):
            return
        if node.op == "ConstantOfShape" and math.prod(np.asarray(operands[0]).tolist()) > FEW:
            return
        try:
            value = EVALUATE[node.op](node.attrs, *operands)
        except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
            return  # what cannot be evaluated stays unknown, and what depends on it is frozen
        if value.size <= SMALL:
            self._values[node.outputs[0].name] = value
            if any(t.name in self._of_weights or self._is_weight(t.name) for t in node.inputs):
                self._of_weights.add(node.outputs[0].name)

    def _is_weight(self, name: str) -> bool:
        value = self._values.get(name)
        return value is not None and value.dtype.kind == "f" and value.size > 1 and name not in self.of_shapes


def _plain_constant(node: gs.Node) -> Array:
    ((kind, value),) = node.attrs.items()
    return np.asarray(value, np.float32 if "float" in kind else np.int64 if "int" in kind else None)


def _shape(node: gs.Node, sizes: Shape) -> Array:
    if node.op == "Size":
        return np.asarray(np.prod(sizes, dtype=np.int64))
    return np.asarray(sizes, np.int64)[node.attrs.get("start", 0) : node.attrs.get("end")]


def pinned(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return a copy of model whose inputs have the given sizes and whose other declared shapes are forgotten.

    Sparse initializers, of which shape inference knows nothing, become inputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for sparse in model.graph.sparse_initializer:
        value = helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, sparse.dims)
        copy.graph.input.append(value)
    del copy.graph.sparse_initializer[:]
    if not sizes:
        return copy
    for value in copy.graph.input:
        if value.name in sizes:
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, sizes[value.name]))
    stored = {t.name for t in copy.graph.initializer}
    for value in [v for v in copy.graph.value_info if v.name in stored]:
        copy.graph.value_info.remove(value)
    for value in [*copy.graph.output, *copy.graph.value_info]:
        value.type.tensor_type.ClearField("shape")
    return copy


def has_free_sizes(graph: gs.Graph) -> bool:
    """Tell whether some input of graph has a dimension that is not fixed."""
    return any(t.shape is None or not all(isinstance(size, int) for size in t.shape) for t in graph.inputs)


def infer(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Shape], Integers]:
    """Return the shape of every tensor that has one, and the values of the small integer tensors.

    sizes gives a shape for each graph input. Raises ModelError where the network does not fit these sizes.
    """
    model: onnx.ModelProto = graph.source.model
    inferred = pinned(model, sizes if has_free_sizes(graph) else {})
    careful = _may_abort(graph)
    if careful:
        del inferred.graph.value_info[:]
    else:
        inferred = _infer_all(inferred)
    types = {v.name: v.type for v in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]}
    shapes = {name: shape for name, kind in types.items() if (shape := _static(kind)) is not None}
    shapes |= {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes |= {t.name: tuple(t.shape) for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    integers = Integers()
    protos = {output: node for node in model.graph.node for output in node.output if output}
    versions = {o.domain: o.version for o in model.opset_import}
    for node in graph.nodes:
        outputs = [t.name for t in node.outputs if t.name]
        integers.visit(node, shapes.get)
        if outputs and outputs[0] in integers and outputs[0] not in shapes:
            value = integers[outputs[0]]
            shapes[outputs[0]] = value.shape
            types[outputs[0]] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        if outputs and any(name not in shapes for name in outputs) and outputs[0] in protos:
            try:
                _infer_one(node, protos[outputs[0]], versions, types, shapes, integers)
            except Exception as error:  # what onnx cannot infer stays unknown, and what is unknown is frozen
                if careful and "ShapeInferenceError" in str(error):
                    raise ModelError(f"shapes do not fit: {_last_line(error)}") from error
        for name in outputs:
            if min(shapes.get(name, ()), default=0) < 0:
                raise ModelError(f"shapes do not fit: the window of {node.op} '{node.name}' is larger than its input")
    return shapes, integers


WINDOWED = ("AveragePool", "Conv", "LpPool", "MaxPool")


def _may_abort(graph: gs.Graph) -> bool:
    """Tell whether onnx's inference over the whole graph could end the process: that of Slice does where a size is negative, as
    behind a window larger than its input."""
    ops = {node.op for node in graph.nodes}
    return "Slice" in ops and not ops.isdisjoint(WINDOWED)


def _infer_all(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    except Exception as error:
        if "TypeInferenceError" not in str(error):
            raise ModelError(f"shapes do not fit: {_last_line(error)}") from error
        return shape_inference.infer_shapes(model, data_prop=True)  # behind an operator that onnx knows nothing of


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


def _infer_one(
    node: gs.Node,
    proto: onnx.NodeProto,
    versions: Mapping[str, int],
    types: dict[str, onnx.TypeProto],
    shapes: dict[str, Shape],
    integers: Integers,
) -> None:
    version = versions.get(proto.domain, versions.get("", 1))
    inputs = list(node.inputs)
    if proto.op_type in STAND_IN:
        inputs = [inputs[i] for i in STAND_IN[proto.op_type][1]]
        proto, version = _stand_in(proto), versions.get("", 1)
    if proto.op_type in ("Concat", "Slice") and inputs and proto.input[0] in shapes:
        proto = _from_front(proto, len(shapes[proto.input[0]]))
    if not onnx.defs.has(proto.op_type, version, proto.domain):
        return
    known, data = {}, {}
    for name, tensor in zip(proto.input, inputs, strict=True):
        if isinstance(tensor, gs.Constant):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            known[name] = helper.make_tensor_type_proto(kind, tensor.shape)
        elif name in types:
            known[name] = types[name]
        value = integers.get(tensor) if name else None
        if value is not None:
            data[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
    schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
    for name, kind in shape_inference.infer_node_outputs(schema, proto, known, data).items():
        types[name] = kind
        shape = _static(kind)
        if shape is not None:
            shapes[name] = shape


def _static(kind: onnx.TypeProto) -> Shape | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    sizes = tuple(d.dim_value for d in dims)
    return sizes if all(sizes) or all(d.HasField("dim_value") for d in dims) else None


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
