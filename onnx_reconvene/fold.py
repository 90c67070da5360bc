"""Weights that are computed from constants (weight normalization, standardization, merged branches).

A layer must read a weight that is stored, so that slices of it can be removed, or be zero. The graph keeps its nodes until
something is cut: `fold` only lets layers read constants of the computed values, and says how to undo that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx_reconvene.errors import ModelError
from onnx_reconvene.graph import bodies_of, every_node
from onnx_reconvene.node_shapes import static_shape
from onnx_reconvene.shapes import SMALL, STANDARD, EvaluationError, Integers, Shape, dtype_of, evaluate, is_function

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
LAYERS = {"Conv", "ConvTranspose", "DeformConv", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
MOVES = {
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "DequantizeLinear",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}  # what leaves zeros zeros, and so needs no evaluation


def moved_constants(graph: gs.Graph, integers: Integers) -> frozenset[str]:
    """Return the tensors that hold constants, moved about perhaps but not computed with; by how much may be computed of shapes."""
    found = {name for name, computed in _constants(graph).items() if not computed}
    for node in every_node(graph):
        if node.op in MOVES and node.inputs and not found.issuperset(t.name for t in node.outputs):
            what, *how = node.inputs
            numbers = all(isinstance(t, gs.Constant) or integers.is_arithmetic(t.name) for t in how)
            if numbers and (isinstance(what, gs.Constant) or what.name in found):
                found.update(t.name for t in node.outputs)
    return frozenset(found)


def fold(graph: gs.Graph) -> Callable[[], None]:
    """Let layers read constants in place of weights that are computed; returns what undoes that."""
    computed = _constants(graph)
    layers = [node for node in every_node(graph) if node.op in LAYERS]
    reads = [(node, i) for node in layers for i, t in enumerate(node.inputs) if computed.get(t.name)]
    order = {id(node): k for k, node in enumerate(every_node(graph))}
    steps = {tensor.name: _steps(tensor, order) for tensor in (node.inputs[i] for node, i in reads)}
    kinds = _kinds(steps.values(), graph.opset or 1) if steps else {}
    folded = {
        name: gs.Constant(f"{name}_folded", Computed(name, *kinds[name], steps[name], graph.opset or 1))
        for name in steps.keys() & kinds.keys()
    }
    changed = [(node, i, node.inputs[i]) for node, i in reads if _is_weight(node, folded.get(node.inputs[i].name))]
    for node, i, tensor in changed:
        node.inputs[i] = folded[tensor.name]

    def undo() -> None:
        for node, i, tensor in changed:
            node.inputs[i] = tensor

    return undo


@dataclass(frozen=True)
class Step:
    """A node as it was before layers read its result in another way; has what `evaluate` looks at."""

    op: str
    name: str
    domain: str | None
    attrs: dict[str, Any]
    inputs: Sequence[gs.Tensor]
    outputs: Sequence[gs.Tensor]


class Computed(LazyValues):  # type: ignore[misc]
    """The values of a tensor that is computed from constants, evaluated when they are looked at."""

    def __init__(self, name: str, shape: Shape, dtype: np.dtype[Any], steps: Sequence[Step], opset: int) -> None:
        self.shape, self.dtype, self.nbytes = list(shape), dtype, math.prod(shape) * dtype.itemsize
        self._name, self._steps, self._opset = name, steps, opset

    def load(self) -> NDArray[Any]:
        """Return the values. Raises ModelError where they cannot be evaluated."""
        values: dict[str, NDArray[Any]] = {}
        try:
            for step in self._steps:
                operands = [_operand(tensor, values) for tensor in step.inputs]
                results = evaluate(step, operands, self._opset)
                values.update(zip((t.name for t in step.outputs if t.name), results, strict=True))
        except EvaluationError as error:
            raise ModelError(f"the weight '{self._name}' is computed from constants, but {error}") from error
        return np.ascontiguousarray(values[self._name])


def _operand(tensor: gs.Tensor, values: dict[str, NDArray[Any]]) -> NDArray[Any] | None:
    if not tensor.name:
        return None
    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else values[tensor.name]


def _steps(tensor: gs.Tensor, order: Mapping[int, int]) -> list[Step]:
    """Return the nodes that compute tensor from constants, in the order of the graph, which is given by id."""
    needed: dict[int, gs.Node] = {}
    waiting = list(tensor.inputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in needed:
            needed[id(node)] = node
            waiting += [maker for t in node.inputs for maker in t.inputs]
    nodes = [needed[key] for key in sorted(needed, key=lambda key: order[key])]
    return [Step(node.op, node.name, node.domain, dict(node.attrs), list(node.inputs), list(node.outputs)) for node in nodes]


def _kinds(chains: Iterable[Sequence[Step]], opset: int) -> dict[str, tuple[Shape, np.dtype[Any]]]:
    """Return shape and type of what is computed as far as they can be inferred and are those of a weight."""
    steps = {step.outputs[0].name: step for chain in chains for step in chain}.values()
    stored = {t.name: t for step in steps for t in step.inputs if isinstance(t, gs.Constant)}
    known = {name: t for name, t in stored.items() if dtype_of(t).kind in "iu" and np.prod(t.shape) <= SMALL}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype_of(t)), t.shape)
        for name, t in stored.items()
        if name not in known
    ]
    values = [numpy_helper.from_array(np.asarray(t.values), name) for name, t in known.items()]
    part = helper.make_graph([OnnxExporter.export_node(step) for step in steps], "weights", inputs, [], values)
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", opset)])
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    kinds = {value.name: (static_shape(value.type), value.type.tensor_type.elem_type) for value in inferred}
    return {
        name: (shape, np.dtype(helper.tensor_dtype_to_np_dtype(element)))
        for name, (shape, element) in kinds.items()
        if shape is not None and math.prod(shape) > 1 and element in FLOATS
    }


def _constants(graph: gs.Graph) -> dict[str, bool]:
    """Return the tensors computed from constants alone, and whether something has been computed, not just moved."""
    opset, constants = graph.opset or 1, dict[str, bool]()
    for node in every_node(graph):
        inputs = [t for t in node.inputs if t.name]
        follows = node.domain in STANDARD and is_function(node.op, opset) and not bodies_of(node)
        if follows and all(isinstance(t, gs.Constant) or t.name in constants for t in inputs):
            computed = node.op not in MOVES or any(constants.get(t.name, False) for t in inputs)
            constants.update(dict.fromkeys((t.name for t in node.outputs), computed))
    return constants


def _is_weight(node: gs.Node, constant: gs.Constant | None) -> bool:
    """Return True if a layer may read a constant: not a MatMul a stack of matrices to multiply activations by."""
    return constant is not None and (node.op not in ("MatMul", "Einsum") or len(constant.shape) <= 2)
