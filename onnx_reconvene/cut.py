"""Masks to a smaller graph: weights are sliced wherever their labels are gone, and the integers that count channels follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.cutting import CutOp, Cutting, Mask
from onnx_reconvene.flow import Permutation, weight_constant, weight_values
from onnx_reconvene.groups import Analysis
from onnx_reconvene.operators import rule_for


def cut(analysis: Analysis, keep: Mask) -> None:
    """Remove from the analysed graph, in place, the units that keep [units] does not hold."""
    cutting = Cutting(analysis, keep)
    proto = analysis.graph.source.model.graph
    read = {name for node in proto.node for name in node.input}
    unread = {name for node in proto.node for name in node.output if name not in read}
    _slice_weights(cutting)
    for permutation in analysis.flow.permutations:
        _permute(cutting, permutation)
    for node in list(analysis.graph.nodes):
        _follow(cutting, node)
    _declare_shapes(cutting)
    _remove_dead(analysis.graph, unread)


def _slice_weights(cutting: Cutting) -> None:
    """Take from each weight what stays of it; weights that ConstantOfShape nodes make become initializers."""
    for name, tensor in cutting.analysis.flow.weights.items():
        kept = {axis: cutting.kept(labels) for axis, labels in cutting.analysis.spread(name).items()}
        if not all(mask.all() for mask in kept.values()):
            constant = weight_constant(tensor) or _folded(cutting.graph, tensor)
            constant.values = remaining(constant.values, kept)


def remaining(values: NDArray[Any], kept: Mapping[int, Mask]) -> NDArray[Any]:
    """Return what is left of a weight where masks, by axis and broadcastable to it, hold; a mask may vary along axis 0, too."""
    for axis, mask in kept.items():
        if mask.size > mask.shape[axis]:  # others in each block, equally many
            sizes = [-1 if a == axis else n for a, n in enumerate(values.shape)]
            values = values[np.broadcast_to(mask, values.shape)].reshape(sizes)
    for axis, mask in kept.items():
        if mask.size == mask.shape[axis] and not mask.all():
            values = np.compress(mask.ravel(), values, axis)
    return values


def _permute(cutting: Cutting, permutation: Permutation) -> None:
    """Turn a reordering of channels by data movement into a Gather, where what stays no longer fits its blocks."""
    kept = cutting.kept_along(permutation.root, permutation.axis)
    if all(_rectangular(kept[positions]) for _, positions in permutation.split):
        return
    tensors = cutting.graph.tensors()
    node, root = tensors[permutation.out].inputs[0], tensors[permutation.root]
    index = (np.cumsum(kept) - 1)[permutation.index[kept[permutation.index]]]
    node.op, node.attrs = "Gather", {"axis": permutation.axis}
    node.inputs = [root, cutting.constant(permutation.out, "indices", index)]
    cutting.done.add(id(node))


def _follow(cutting: Cutting, node: gs.Node) -> None:
    """Bring the integers of node up to date, and shield it from shape arithmetic whose results have changed."""
    view = CutOp(cutting, node)
    if cutting.analysis.integers.computes(node):
        view.divide_evenly()
    elif id(node) not in cutting.done:
        operator = rule_for(node)
        if operator is not None and operator.follow is not None and view.touched:
            operator.follow(view)
        view.shield()
    cutting.integers.visit(node, cutting.shape)


def _declare_shapes(cutting: Cutting) -> None:
    """Bring the shapes that the graph declares up to date."""
    for tensor in cutting.graph.tensors().values():
        shape = cutting.shape(tensor.name)
        if isinstance(tensor, gs.Variable) and tensor.shape is not None and shape is not None:
            old = cutting.analysis.shapes[tensor.name]
            tensor.shape = [n if n != o else s for s, o, n in zip(tensor.shape, old, shape, strict=True)]


def _folded(graph: gs.Graph, tensor: gs.Tensor) -> gs.Constant:
    """Turn the output of a ConstantOfShape node into an initializer of the same name."""
    values, node = weight_values(tensor), tensor.inputs[0]
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes = [other for other in graph.nodes if other is not node]
    return tensor.to_constant(values)


def _rectangular(kept: Mask) -> bool:
    """Tell whether kept positions are full rows and columns, so that they still fill a tensor."""
    full = np.ones(kept.shape, bool)
    for axis in range(kept.ndim):
        full &= kept.any(tuple(a for a in range(kept.ndim) if a != axis), keepdims=True)
    return bool((full == kept).all())


def _remove_dead(graph: gs.Graph, unread: set[str]) -> None:
    """Remove the nodes whose outputs nobody reads, but for those that nobody read before."""
    outputs = {t.name for t in graph.outputs}
    alive = []
    for node in reversed(list(graph.nodes)):
        names = {t.name for t in node.outputs if t.name}
        if any(t.outputs for t in node.outputs) or outputs & names or names <= unread:
            alive.append(node)
        else:
            node.inputs.clear()
    if len(alive) < len(graph.nodes):
        graph.nodes = alive[::-1]
