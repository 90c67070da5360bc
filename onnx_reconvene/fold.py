"""Weights that are computed from constants (weight normalization, standardization, merged branches), evaluated once.

A layer must read a weight that is stored, so that slices of it can be removed, or be zero. The graph keeps its nodes until
something is cut: `fold` only lets layers read the evaluated constants, and says how to undo that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_reconvene.graph import bodies_of, every_node, plain_source
from onnx_reconvene.plain import nodes_in
from onnx_reconvene.shapes import Integers

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
    """Let layers read evaluated constants in place of weights that are computed; returns what undoes that."""
    constants = _constants(graph)
    layers = [node for node in every_node(graph) if node.op in LAYERS]
    reads = [(node, i) for node in layers for i, t in enumerate(node.inputs) if constants.get(t.name)]
    values = _evaluated(graph, {node.inputs[i].name for node, i in reads}, constants)
    folded = {name: gs.Constant(f"{name}_folded", np.ascontiguousarray(array)) for name, array in values.items()}
    changed = [
        (node, i, node.inputs[i])
        for node, i in reads
        if node.inputs[i].name in folded and not _is_matrix_of_many(node, values[node.inputs[i].name])
    ]
    for node, i, tensor in changed:
        node.inputs[i] = folded[tensor.name]

    def undo() -> None:
        for node, i, tensor in changed:
            node.inputs[i] = tensor

    return undo


def _constants(graph: gs.Graph) -> dict[str, bool]:
    """Return the tensors computed from constants alone, and whether something has been computed, not just moved."""
    found: dict[str, bool] = {}
    for node in every_node(graph):
        inputs = [t for t in node.inputs if t.name]
        if not bodies_of(node) and all(isinstance(t, gs.Constant) or t.name in found for t in inputs):
            computed = node.op not in MOVES or any(found.get(t.name, False) for t in inputs)
            found.update(dict.fromkeys((t.name for t in node.outputs), computed))
    return found


def _evaluated(graph: gs.Graph, names: set[str], constants: dict[str, bool]) -> dict[str, NDArray[Any]]:
    """Return the values of floating-point tensors computed from constants; none where onnx's evaluator lacks an operator."""
    if not names:
        return {}
    from onnx.reference import ReferenceEvaluator

    bare = plain_source(graph)
    nodes = [node for node in nodes_in(bare.model.graph) if node.output and node.output[0] in constants]
    needed = {name for node in nodes for name in node.input}
    stored = [t for t in bare.model.graph.initializer if t.name in needed]
    weights = [numpy_helper.from_array(bare.arrays[t.name], t.name) if t.name in bare.arrays else t for t in stored]
    outputs = [helper.make_empty_tensor_value_info(name) for name in sorted(names)]
    part = helper.make_model(helper.make_graph(nodes, "weights", [], outputs, weights), opset_imports=bare.model.opset_import)
    try:
        values = ReferenceEvaluator(part).run(None, {})
    except Exception:  # then these weights stay computed, and what they read is frozen
        return {}
    return {name: value for name, value in zip(sorted(names), values, strict=True) if value.dtype.kind == "f" and value.size > 1}


def _is_matrix_of_many(node: gs.Node, value: NDArray[Any]) -> bool:
    """Tell whether a MatMul would get a stack of matrices to multiply activations by, which is no weight of a layer."""
    return node.op in ("MatMul", "Einsum") and value.ndim > 2
