"""A network under differentiation: its tensors with their shapes, types and known values, and the nodes appended to it."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from onnx_reconvene.errors import ModelError
from onnx_reconvene.graph import Source
from onnx_reconvene.inference import pinned
from onnx_reconvene.shapes import Integers, Shape

Array = NDArray[Any]
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


class Builder:
    """The graph of a model without its weights, to which nodes are appended; every tensor's type is known from its birth.

    sizes gives a shape for each graph input that has free dimensions; known, types of tensors that need not follow from these.
    """

    def __init__(self, source: Source, sizes: Mapping[str, Shape], known: Mapping[str, onnx.TypeProto] | None = None) -> None:
        self.model = pinned(source.model, sizes)
        self.nodes: list[onnx.NodeProto] = []
        self.varying: Collection[str] = ()  # the tensors that gradients flow through, once they are known
        self._versions = {o.domain: o.version for o in self.model.opset_import}
        declared = [*self.model.graph.value_info, *self.model.graph.output, *self.model.graph.input]
        self._types: dict[str, onnx.TypeProto] = {value.name: value.type for value in declared} | dict(known or {})
        self._stated: list[str] = []  # tensors whose shapes are known because they are stated alone
        self._values: dict[str, Array] = {}
        self._constants: dict[tuple[str, Shape, bytes], Tensor] = {}
        for tensor in self.model.graph.initializer:
            self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        self._names = set(self._types) | {name for node in self.model.graph.node for name in (*node.output, node.name)}
        self._record(source)

    def _record(self, source: Source) -> None:
        """Find the types of all tensors, and the values of those computed from shapes and constants alone."""
        graph = gs.import_onnx(self.model)
        tensors = graph.tensors()
        for name, array in source.arrays.items():
            if isinstance(tensors.get(name), gs.Constant):
                tensors[name].values = array
        integers = Integers(self._versions.get("", 1))
        for node, proto in zip(graph.nodes, self.model.graph.node, strict=True):
            for tensor in node.inputs:
                value = integers.get(tensor) if tensor.name else None
                if value is not None:
                    self._values[tensor.name] = value
            stated = {name: self._types[name] for name in proto.output if self.shape(name) is not None}
            self._infer(proto)
            self._stated += [name for name, kind in stated.items() if self._types[name] is kind]
            integers.visit(node, self.shape)
            for name in proto.output:
                if name in integers:
                    self._values[name] = integers[name]
                    dtype = helper.np_dtype_to_tensor_dtype(self._values[name].dtype)
                    self._types[name] = helper.make_tensor_type_proto(dtype, self._values[name].shape)

    def _infer(self, proto: onnx.NodeProto) -> None:
        version = self._versions.get(proto.domain, 1)
        if not onnx.defs.has(proto.op_type, version, proto.domain):
            return
        if any(name not in self._types for name in proto.input if name):
            return
        known = {name: self._types[name] for name in proto.input if name}
        data = {n: numpy_helper.from_array(np.array(self._values[n], order="C"), n) for n in proto.input if n in self._values}
        schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
        try:
            inferred = shape_inference.infer_node_outputs(schema, proto, known, data)
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"{proto.op_type} '{proto.name or proto.output[0]}': shapes do not fit: {reason}") from error
        declared = {name: self._types[name] for name in inferred if self.rank(name) is not None}
        self._types |= inferred
        self._types |= {name: kind for name, kind in declared.items() if self.shape(name) is None}
        if proto.op_type == "Compress" and proto.input[1] in data:
            self._types[proto.output[0]] = self._compressed(proto)

    def _compressed(self, proto: onnx.NodeProto) -> onnx.TypeProto:
        """Return the type of what a Compress picks by a condition of known value, whose size onnx leaves open."""
        x, axis = self.tensor(proto.input[0]), next((a.i for a in proto.attribute), None)
        shape = [math.prod(x.shape)] if axis is None else list(x.shape)
        shape[axis or 0] = int(self._values[proto.input[1]][: shape[axis or 0]].sum())
        return helper.make_tensor_type_proto(self._types[x.name].tensor_type.elem_type, shape)

    def schema(self, proto: onnx.NodeProto) -> onnx.defs.OpSchema:
        """Return the definition of the operator of a node."""
        return onnx.defs.get_schema(proto.op_type, self._versions[proto.domain], proto.domain)

    def add_output(self, proto: onnx.NodeProto, index: int) -> str:
        """Return the name of an output of a node, which is given one if it has none there."""
        proto.output.extend([""] * (index + 1 - len(proto.output)))
        if not proto.output[index]:
            proto.output[index] = self.fresh(f"{proto.output[0]}/{index}")
            self._infer(proto)
        return str(proto.output[index])

    def unshaped(self) -> list[str]:
        """Return the tensors whose shapes are not known before the network runs; sequences and the like have none."""
        unknown = [name for node in self.model.graph.node for name in node.output if name and self.shape(name) is None]
        return [name for name in unknown if name not in self._types or self._types[name].HasField("tensor_type")]

    def stated(self) -> list[onnx.ValueInfoProto]:
        """Return the types of tensors that do not follow from those of others, which a network must go on to state."""
        return [helper.make_value_info(name, self._types[name]) for name in self._stated]

    def has(self, name: str) -> bool:
        """Return True if there is a tensor of this name."""
        return name in self._names

    def is_float(self, name: str) -> bool:
        """Return True if a tensor holds floating-point numbers, as one of unknown type may."""
        kind = self._types.get(name)
        return kind is None or (kind.HasField("tensor_type") and kind.tensor_type.elem_type in {0, *FLOATS})

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a tensor, None where it is not known before the network runs."""
        kind = self._types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None

    def rank(self, name: str) -> int | None:
        """Return the number of axes of a tensor, None where it is not known before the network runs."""
        kind = self._types.get(name)
        return len(kind.tensor_type.shape.dim) if kind is not None and kind.tensor_type.HasField("shape") else None

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the element type of a tensor. Raises ModelError where it is unknown."""
        if name not in self._types:
            raise ModelError(f"tensor '{name}': its type is unknown")
        return np.dtype(helper.tensor_dtype_to_np_dtype(self._types[name].tensor_type.elem_type))

    def value(self, name: str) -> Array | None:
        """Return the value of a small tensor that is the same at every run, None for any other."""
        return self._values.get(name)

    def fixed(self, name: str) -> Array | None:
        """Return the value of a tensor as `value` does, None for one that gradients flow through, too."""
        return None if name in self.varying else self.value(name)

    def type_of(self, name: str) -> onnx.TypeProto:
        """Return the ONNX type of a tensor that has one."""
        return self._types[name]

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of this name."""
        return Tensor(self, name)

    def fresh(self, stem: str) -> str:
        """Return a name that is not taken: stem, or stem and a number."""
        name, number = stem, 1
        while name in self._names:
            name, number = f"{stem}_{number}", number + 1
        self._names.add(name)
        return name

    def emit(self, op: str, *inputs: Tensor | None, outputs: int = 1, **attributes: Any) -> tuple[Tensor, ...]:
        """Append a node of the standard domain and return its outputs."""
        number = len(self.nodes)
        names = [f"backward/{number}/{op}" + (f"/{k}" if k else "") for k in range(outputs)]
        names = [self.fresh(name) for name in names]
        proto = helper.make_node(op, ["" if x is None else x.name for x in inputs], names, names[0], **attributes)
        self.append(proto)
        return tuple(Tensor(self, name) for name in names)

    def append(self, proto: onnx.NodeProto) -> None:
        """Append a node whose outputs have fresh names."""
        self._infer(proto)
        self.nodes.append(proto)

    def copy(self, tensor: Tensor, name: str) -> Tensor:
        """Append a node that gives a tensor another name, and return it under that."""
        self._names.add(name)
        self._types[name] = self._types[tensor.name]
        self.nodes.append(helper.make_node("Identity", [tensor.name], [name], name))
        return Tensor(self, name)

    def apply(self, op: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """Append a node of one output and return that."""
        return self.emit(op, *inputs, **attributes)[0]

    def constant(self, value: Array) -> Tensor:
        """Return a constant of this value; the same one for the same value."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            (tensor,) = self.emit("Constant", value=numpy_helper.from_array(np.array(value, order="C")))
            self._values[tensor.name] = value
            self._constants[key] = tensor
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> Tensor:
        """Return a constant of 64-bit integers, such as axes or a shape."""
        return self.constant(np.asarray(values, np.int64))

    def full(self, shape: Sequence[int], value: float, dtype: np.dtype[Any]) -> Tensor:
        """Return a tensor of this shape, equal to value everywhere."""
        fill = numpy_helper.from_array(np.full(1, value, dtype))
        return self.apply("ConstantOfShape", self.integers(shape), value=fill)


class Tensor:
    """A tensor of the network. Arithmetic on tensors appends nodes; a number takes the type of the tensor beside it."""

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder = builder
        self.name = name

    @property
    def shape(self) -> Shape:
        """The shape. Raises ModelError where it depends on data."""
        shape = self.builder.shape(self.name)
        if shape is None:
            raise ModelError(f"tensor '{self.name}': its shape is not known before the network runs")
        return shape

    @property
    def rank(self) -> int:
        """The number of axes. Raises ModelError where it depends on data."""
        rank = self.builder.rank(self.name)
        return len(self.shape) if rank is None else rank

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self.builder.dtype(self.name)

    @property
    def value(self) -> Array:
        """The value. Raises ModelError unless it is small and the same at every run."""
        value = self.builder.value(self.name)
        if value is None:
            raise ModelError(f"tensor '{self.name}': its value is not known before the network runs")
        return value

    def apply(self, op: str, *operands: Tensor | float | Array | None, **attributes: Any) -> Tensor:
        """Return op(self, *operands)."""
        return self.builder.apply(op, self, *(None if x is None else self.beside(x) for x in operands), **attributes)

    def beside(self, other: Tensor | float | Array) -> Tensor:
        """Return other as a tensor of this one's type."""
        return other if isinstance(other, Tensor) else self.builder.constant(np.asarray(other, self.dtype))

    def __add__(self, other: Tensor | float | Array) -> Tensor:
        return self.apply("Add", other)

    def __sub__(self, other: Tensor | float | Array) -> Tensor:
        return self.apply("Sub", other)

    def __mul__(self, other: Tensor | float | Array) -> Tensor:
        return self.apply("Mul", other)

    def __truediv__(self, other: Tensor | float | Array) -> Tensor:
        return self.apply("Div", other)

    def __pow__(self, other: Tensor | float | Array) -> Tensor:
        return self.apply("Pow", other)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.apply("MatMul", other)

    def __neg__(self) -> Tensor:
        return self.apply("Neg")

    def __gt__(self, other: Tensor | float) -> Tensor:
        return self.apply("Greater", other)

    def __lt__(self, other: Tensor | float) -> Tensor:
        return self.apply("Less", other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float | Array) -> Tensor:
        return self.beside(other) - self

    def equals(self, other: Tensor | float | Array) -> Tensor:
        """Return where the two are equal."""
        return self.apply("Equal", other)

    def cast(self, like: Tensor) -> Tensor:
        """Return this in the element type of another tensor."""
        if self.dtype == like.dtype:
            return self
        return self.apply("Cast", to=helper.np_dtype_to_tensor_dtype(like.dtype))

    def sum(self, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """Return the sums over axes."""
        if keepdims and all(self.shape[axis] == 1 for axis in axes):
            return self
        return self.reduce("ReduceSum", axes, keepdims)

    def mean(self, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """Return the means over axes."""
        return self.reduce("ReduceMean", axes, keepdims)

    def reduce(self, op: str, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """Return a reduction over axes, itself where there are none."""
        return self.apply(op, self.builder.integers(axes), keepdims=int(keepdims)) if len(axes) else self

    def reshape(self, *shape: int) -> Tensor:
        """Return the same elements in another shape, which may have one -1."""
        return self if tuple(shape) == self.shape else self.apply("Reshape", self.builder.integers(shape), allowzero=1)

    def transpose(self, *perm: int) -> Tensor:
        """Return this with its axes in the order perm."""
        return self if perm == tuple(range(len(perm))) else self.apply("Transpose", perm=perm)

    def slice(self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Return a strided part of this."""
        if all(a == 0 and e == self.shape[k] and s == 1 for a, e, k, s in zip(starts, ends, axes, steps, strict=True)):
            return self
        return self.apply("Slice", *map(self.builder.integers, (starts, ends, axes, steps)))

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Tensor:
        """Return this with zeros around it, per axis; a negative number crops."""
        starts, ends = [max(-p, 0) for p in before], [size + min(p, 0) for size, p in zip(self.shape, after, strict=True)]
        cropped = self.slice(starts, ends, range(self.rank), [1] * self.rank)
        pads = [max(p, 0) for p in (*before, *after)]
        return cropped.apply("Pad", self.builder.integers(pads)) if any(pads) else cropped

    def expand(self, shape: Sequence[int]) -> Tensor:
        """Return this broadcast to shape."""
        return self if tuple(shape) == self.shape else self.apply("Expand", self.builder.integers(shape))

    def zeros(self) -> Tensor:
        """Return zeros of this shape and type."""
        return self.builder.full(self.shape, 0, self.dtype)

    def fit(self, shape: Sequence[int]) -> Tensor:
        """Return the gradient of a tensor of this shape, given that of what it was broadcast to: sums over the axes it was
        broadcast along; and a gradient that is itself the same along some axes is broadcast."""
        lead = max(self.rank - len(shape), 0)
        padded = (1,) * lead + tuple(shape)
        own = (1,) * (len(shape) - self.rank) + self.shape
        axes = [axis for axis, (size, here) in enumerate(zip(padded, own, strict=True)) if size == 1 and here != 1]
        summed = self.sum(axes)
        return summed.reshape(*shape) if lead else summed.expand(shape)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a where condition holds, b elsewhere."""
    return condition.apply("Where", a, b)


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Return tensors one after another along axis."""
    return tensors[0].builder.apply("Concat", *tensors, axis=axis)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors of one shape along a new first axis."""
    return concat([tensor.reshape(1, *tensor.shape) for tensor in tensors], 0)


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape."""
    return reduce(operator.add, tensors)
