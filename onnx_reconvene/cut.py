"""Masks to a smaller graph: weights are sliced wherever their labels are gone, and the integers that count channels follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.cutting import CutOp, Cutting, Mask, rectangular
from onnx_reconvene.flow import Permutation, weight_constant, weight_values
from onnx_reconvene.graph import bodies_of, dead_nodes, every_graph, every_node, every_tensor
from onnx_reconvene.groups import Analysis
from onnx_reconvene.inference import has_free_sizes
from onnx_reconvene.operators import rule_for


def cut(analysis: Analysis, keep: Mask) -> None:
    """Remove from the analysed graph, in place, the units that keep [units] does not hold."""
    cutting = Cutting(analysis, keep)
    _slice_weights(cutting)
    tensors = every_tensor(analysis.graph)
    for permutation in analysis.flow.permutations:
        _permute(cutting, permutation, tensors)
    for node in list(every_node(analysis.graph)):
        _follow(cutting, node)
    _declare_shapes(cutting)
    _remove_dead(analysis.graph)


def _slice_weights(cutting: Cutting) -> None:
    """Take from each weight what stays of it; weights that ConstantOfShape nodes make become initializers."""
    for name, tensor in cutting.analysis.flow.weights.items():
        kept = {axis: cutting.kept(labels) for axis, labels in cutting.analysis.spread(name).items()}
        if not all(mask.all() for mask in kept.values()):
            constant = weight_constant(tensor) or _folded(cutting, tensor)
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


def _permute(cutting: Cutting, permutation: Permutation, tensors: Mapping[str, gs.Tensor]) -> None:
    """Turn a reordering of channels by data movement into a Gather, where what stays no longer fits its blocks."""
    kept = cutting.kept_along(permutation.root, permutation.axis)
    if all(rectangular(kept[positions]) for _, positions in permutation.split):
        return
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
    for body in bodies_of(node):
        _shield_results(cutting, body)
    cutting.integers.visit(node, cutting.shape)


def _shield_results(cutting: Cutting, body: gs.Graph) -> None:
    """Let a body return the integers that it returned before the cut: their readers outside were analysed with these."""
    old, new = cutting.analysis.integers, cutting.integers
    for tensor in [t for t in body.outputs if t.name in old.of_shapes and old.is_arithmetic(t.name) and t.name in new]:
        if np.array_equal(new[tensor.name], old[tensor.name]):
            continue
        (maker,) = tensor.inputs
        result = cutting.variable(tensor, "changed")
        for reader in list(tensor.outputs):
            reader.inputs = [result if t is tensor else t for t in reader.inputs]
        maker.outputs = [result if t is tensor else t for t in maker.outputs]
        new.visit(maker, cutting.shape)
        body.nodes.append(gs.Node("Identity", f"{result.name}_Identity", inputs=[result], outputs=[tensor]))
        cutting.home[id(body.nodes[-1])] = body
        CutOp(cutting, body.nodes[-1]).replace(0, old[tensor.name])


def _declare_shapes(cutting: Cutting) -> None:
    """Bring the shapes that the graph declares up to date."""
    for tensor in every_tensor(cutting.graph).values():
        shape = cutting.shape(tensor.name)
        if isinstance(tensor, gs.Variable) and tensor.shape is not None and shape is not None:
            old = cutting.analysis.shapes[tensor.name]
            if len(old) == len(tensor.shape):
                tensor.shape = [n if n != o else s for s, o, n in zip(tensor.shape, old, shape, strict=True)]
            elif not has_free_sizes(cutting.graph):  # else the size of a free dimension decides on the rank
                tensor.shape = list(shape)


def _folded(cutting: Cutting, tensor: gs.Tensor) -> gs.Constant:
    """Turn the output of a ConstantOfShape node into an initializer of the same name."""
    values, node = weight_values(tensor), tensor.inputs[0]
    node.inputs.clear()
    node.outputs.clear()
    graph = cutting.home[id(node)]
    graph.nodes = [other for other in graph.nodes if other is not node]
    return tensor.to_constant(values)


def _remove_dead(graph: gs.Graph) -> None:
    """Remove the nodes whose outputs nobody reads, but for those that nobody read before."""
    dead = set()
    for node in dead_nodes(graph):
        for inner in [node, *(inner for body in bodies_of(node) for inner in every_node(body))]:
            dead.add(id(inner))
            inner.inputs.clear()
    for part in list(every_graph(graph)) if dead else ():
        part.nodes = [node for node in part.nodes if id(node) not in dead]
