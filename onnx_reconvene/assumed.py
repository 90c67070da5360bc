"""Shapes that cannot be inferred: what the file states, what the weight of a layer tells, and what is assumed of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from onnx_reconvene.plain import graphs_in
from onnx_reconvene.shapes import Shape
from onnx_reconvene.twins import as_plain

Partial = list[int | None]  # a shape of which some sizes are not known


class Stated:
    """The shapes that a file states, their symbols replaced by the sizes that these have in the shapes of the graph inputs."""

    def __init__(self, model: onnx.ModelProto, graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> None:
        values = [v for part in graphs_in(model.graph) for v in [*part.value_info, *part.output]]
        self._types = {v.name: v.type for v in values}
        self._symbols: dict[str, set[int]] = {}
        for tensor in graph.inputs:
            for dimension, size in zip(tensor.shape or (), sizes.get(tensor.name, ()), strict=False):
                if isinstance(dimension, str):
                    self._symbols.setdefault(dimension, set()).add(size)

    def complete(self, name: str, kind: onnx.TypeProto | None) -> Partial | None:
        """Return what is known of the shape of a tensor: what is inferred, the rest as stated if that does not contradict it."""
        inferred, stated = self._sizes(kind), self._sizes(self._types.get(name))
        if inferred is None or stated is None:
            return stated if inferred is None else inferred
        if len(inferred) != len(stated) or any(
            None not in both and both[0] != both[1] for both in zip(inferred, stated, strict=False)
        ):
            return inferred
        return [a if a is not None else b for a, b in zip(inferred, stated, strict=True)]

    def element_type(self, name: str) -> int:
        """Return the type of the elements of a tensor as stated, 0 for unknown."""
        return int(self._types[name].tensor_type.elem_type) if name in self._types else 0

    def _sizes(self, kind: onnx.TypeProto | None) -> Partial | None:
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return [self._size(dimension) for dimension in kind.tensor_type.shape.dim]

    def _size(self, dimension: onnx.TensorShapeProto.Dimension) -> int | None:
        if dimension.HasField("dim_value"):
            return int(dimension.dim_value) if dimension.dim_value >= 0 else None
        sizes = self._symbols.get(dimension.dim_param, set())
        return next(iter(sizes)) if len(sizes) == 1 else None


def read_by_layer(node: gs.Node, shape: Callable[[gs.Tensor], Shape | None], like: Shape | None) -> Partial | None:
    """Return what a layer tells of the shape of its input 0, None where that is nothing.

    shape gives that of its weight; like is that of a tensor of which input 0 is computed, or that of the output.
    """
    plain = as_plain(node)
    weight = shape(plain.inputs[1]) if len(plain.inputs) > 1 else None
    if weight is None or len(weight) < 2:
        return None
    if 1 in plain.swapped:
        weight = (*weight[:-2], weight[-1], weight[-2])
    if plain.op == "Conv":
        return [None, weight[1] * int(plain.attrs.get("group", 1)), *[None] * (len(weight) - 2)]
    if plain.op == "ConvTranspose":
        return [None, weight[0], *[None] * (len(weight) - 2)]
    if plain.op == "Gemm":
        inner = weight[1 if plain.attrs.get("transB", 0) else 0]
        return [inner, None] if plain.attrs.get("transA", 0) else [None, inner]
    if plain.op == "MatMul" and len(weight) == 2 and 0 not in plain.swapped and like and like[-1] in weight:
        return [*[None] * (len(like) - 1), weight[0]]
    return [None, None, weight[2]] if plain.op in ("GRU", "LSTM", "RNN") and len(weight) == 3 else None


def nearest(tensor: gs.Tensor, shape: Callable[[gs.Tensor], Shape | None]) -> Shape | None:
    """Return the shape of the nearest tensor that has one and that leads to this through the first inputs of nodes."""
    while shape(tensor) is None and tensor.inputs and tensor.inputs[0].inputs:
        tensor = tensor.inputs[0].inputs[0]
    return shape(tensor)


def assumed(known: Partial, like: Shape | None) -> Shape:
    """Return a shape of which all sizes that are not known are those of another of the same rank, if there is one, or else 1."""
    others = like if like is not None and len(like) == len(known) else (1,) * len(known)
    return tuple(other if size is None else size for size, other in zip(known, others, strict=True))
