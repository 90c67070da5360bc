"""Constants of one value that several nodes read: zero biases, unit scales.

Exporters store equal initializers once, and in a freshly initialized network all zero biases of one length are equal. That must not
tie the layers that read them. So each reader gets a copy of its own while channels are chosen and cut; then copies of the same
shape become one again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.flow import holds_weights
from onnx_reconvene.graph import every_node, every_tensor


@dataclass(frozen=True)
class Shared:
    """A constant of one value, and the places where nodes read it: the first of them itself, others a copy."""

    constant: gs.Constant
    reads: tuple[tuple[gs.Node, int, gs.Constant], ...]  # (node, input, what it reads while they are apart)


def separate(graph: gs.Graph) -> tuple[Shared, ...]:
    """Give every reader of a shared constant of one value a copy of its own."""
    reads: dict[str, list[tuple[gs.Node, int]]] = {}
    for node in every_node(graph):
        for i, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                reads.setdefault(tensor.name, []).append((node, i))
    taken = set(every_tensor(graph))
    outputs = {tensor.name for tensor in graph.outputs}
    found = []
    for name, places in reads.items():
        (node, i), *others = places
        constant = node.inputs[i]
        if not others or name in outputs or not _is_uniform(constant):
            continue
        apart = [(node, i, constant)]
        for node, i in others:
            copy = gs.Constant(_free(f"{name}_{len(apart) + 1}", taken), constant.values)
            node.inputs[i] = copy
            apart.append((node, i, copy))
        found.append(Shared(constant, tuple(apart)))
    return tuple(found)


def unite(shared: Iterable[Shared]) -> None:
    """Let readers of copies that have the same shape read one and the same."""
    for family in shared:
        by_shape: dict[tuple[int, ...], gs.Constant] = {}
        for node, i, copy in family.reads:
            one = by_shape.setdefault(tuple(copy.shape), copy)
            if one is not copy and i < len(node.inputs) and node.inputs[i] is copy:
                node.inputs[i] = one


def _is_uniform(constant: gs.Constant) -> bool:
    if not holds_weights(constant) or np.prod(constant.shape) <= 1:
        return False
    values = constant.values
    return values.dtype.kind not in "iub" and bool((values == values.flat[0]).all())


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
