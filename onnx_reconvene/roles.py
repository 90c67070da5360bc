"""What the free dimensions of a network's inputs stand for: the batch, channels, the sides of an image, the steps of a sequence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.shapes import small_constant
from onnx_reconvene.twins import as_plain

BATCH, IMAGE, SEQUENCE, VOLUME = "batch", "image", "sequence", "volume"
Key = str | tuple[str, int]  # a dimension: the symbol that names it, else its input and axis
Role = str | int  # or how large it has to be
SPATIAL = {1: SEQUENCE, 2: IMAGE, 3: VOLUME}  # by the number of axes over which a window slides
PIXEL = (1, 3, 4)  # channels of an image

ELEMENTWISE = (
    "Add",
    "Cast",
    "Clip",
    "DequantizeLinear",
    "Div",
    "DynamicQuantizeLinear",
    "Identity",
    "Mul",
    "QuantizeLinear",
    "Sub",
)
RECURRENT = ("GRU", "LSTM", "RNN")
STATES = (5, 6)  # their inputs that hold the first state
PASSING = {*ELEMENTWISE, "AveragePool", "BatchNormalization", "MaxPool", "Pad", "Resize"}  # what keeps axes and channels
MIXING = {"Concat", "Slice", "SpaceToDepth", "Split"}  # what keeps axes


def key_of(tensor: gs.Variable, axis: int) -> Key:
    """Return what a dimension of an input is known by."""
    dimension = tensor.shape[axis]
    return dimension if isinstance(dimension, str) and dimension else (tensor.name, axis)


def combined(key: Key, sizes: Mapping[Key, int]) -> int | None:
    """Return the size of a dimension whose symbol is a sum of products of others ("past + 2 * steps"), None for any other."""
    if not isinstance(key, str) or not set("+*") & set(key):
        return None
    terms = [[factor.strip() for factor in term.split("*")] for term in key.split("+")]
    numbers = [[int(factor) if factor.isdecimal() else sizes.get(factor) for factor in term] for term in terms]
    known = [[n for n in term if n is not None] for term in numbers]
    return sum(map(math.prod, known)) if known == numbers else None


def roles_of(graph: gs.Graph, requested: Mapping[str, Sequence[int]]) -> dict[Key, Role]:
    """Return the role of every free dimension, the size of those that have the name of one in a given shape."""
    batch = batch_keys(graph)
    roles: dict[Key, Role] = dict.fromkeys(batch, BATCH)
    sizes: dict[Key, set[int]] = {}
    for tensor in graph.inputs:
        read = dict(_read(tensor)) if tensor.shape is not None else {}
        for axis in _free(tensor):
            key, role = key_of(tensor, axis), read.get(axis, _undecided(tensor, axis))
            if key not in batch:
                roles[key] = role if roles.get(key, SEQUENCE) == SEQUENCE else roles[key]
            if tensor.name in requested:
                sizes.setdefault(key, set()).add(requested[tensor.name][axis])
    return roles | {key: size for key, (size, *others) in sizes.items() if not others}


def batch_keys(graph: gs.Graph) -> set[Key]:
    """Return the free dimensions along which samples lie: those whose symbols or layers say so, else the first of each input."""
    free = {key_of(t, axis) for t in graph.inputs for axis in _free(t)}
    first = {key_of(t, axis) for t in graph.inputs for axis in (_batch_read(t) or [0]) if axis in _free(t)}
    named = {key for key in free if isinstance(key, str) and "batch" in key.lower() and not set("+*") & set(key)}
    named = named or {key for key in first if isinstance(key, str) and key.lower() in ("n", "b", "bs")}
    return {key for key in first if not isinstance(key, str)} | (named or first)


def batch_axis(graph: gs.Graph, tensor: gs.Variable) -> int:
    """Return the axis of an input along which samples lie, the first where its dimensions do not say."""
    batch = batch_keys(graph)
    return next((axis for axis in _free(tensor) if key_of(tensor, axis) in batch), 0)


def _free(tensor: gs.Variable) -> list[int]:
    return [axis for axis, size in enumerate(tensor.shape or ()) if not isinstance(size, int | np.integer)]


def _batch_read(tensor: gs.Variable) -> list[int]:
    return [axis for axis, role in _read(tensor) if role == BATCH] if _free(tensor) else []


def _undecided(tensor: gs.Variable, axis: int) -> Role:
    """Return the role of a dimension that no layer reads as it is: of images that are cut into patches, perhaps."""
    free = [a for a in _free(tensor) if a]
    is_image = len(tensor.shape) == 4 and len(free) == 2 and tensor.shape[1 if free == [2, 3] else 3] in PIXEL
    return IMAGE if is_image and axis else SEQUENCE


def _read(tensor: gs.Variable) -> Iterator[tuple[int, Role]]:
    """Yield the roles that axes of an input have in the first layers that read it, with no more than movement in between."""
    axes: tuple[int | None, ...] = tuple(range(len(tensor.shape)))
    waiting, seen = [(tensor, axes, True)], {tensor.name}
    while waiting:
        tensor, axes, whole = waiting.pop()
        for node in tensor.outputs:
            yield from ((axis, role) for axis, role in _roles_in(node, tensor, axes, whole) if axis is not None)
            moved = _moved(node, tensor, axes)
            if moved is not None and node.outputs[0].name not in seen:
                seen.add(node.outputs[0].name)
                waiting.append((node.outputs[0], moved, whole and node.op not in MIXING))


def _roles_in(node: gs.Node, tensor: gs.Tensor, axes: Sequence[int | None], whole: bool) -> Iterator[tuple[int | None, Role]]:
    """Yield the roles of axes in a layer that reads tensor; whole: whether all of its channels are those of the input."""
    plain = as_plain(node)
    if plain.op in RECURRENT and len(axes) == 3 and any(plain.inputs[i] is tensor for i in (0, *STATES) if i < len(plain.inputs)):
        yield axes[0 if plain.attrs.get("layout") else 1], BATCH
    if plain.op not in ("Conv", "Gemm", "MatMul") or plain.inputs[0] is not tensor:
        return
    shape = _stored_shape(plain.inputs[1])
    if plain.op == "Conv":
        yield from ((axis, SPATIAL.get(len(axes) - 2, SEQUENCE)) for axis in axes[2:])
        if shape and whole and len(axes) > 1:
            yield axes[1], shape[1] * int(plain.attrs.get("group", 1))
    elif shape and len(shape) == 2 and whole and axes and not plain.attrs.get("transA"):
        yield axes[-1], shape[1 if plain.attrs.get("transB") else 0]


def _stored_shape(tensor: gs.Tensor) -> Sequence[int] | None:
    while not isinstance(tensor, gs.Constant) and tensor.inputs and tensor.inputs[0].op in ("Cast", "DequantizeLinear", "Identity"):
        tensor = tensor.inputs[0].inputs[0]
    return tuple(tensor.shape) if isinstance(tensor, gs.Constant) else None


def _moved(node: gs.Node, tensor: gs.Tensor, axes: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    """Return the axes of the first output of a node in terms of those of a tensor, None where it does more than move them."""
    if node.op in PASSING | MIXING:
        return axes
    if node.op == "Transpose" and len(node.attrs.get("perm", axes[::-1])) == len(axes):
        return tuple(axes[axis] for axis in node.attrs.get("perm", range(len(axes))[::-1]))
    if node.op == "Gather" and node.inputs[0] is tensor:
        index, along = small_constant(node.inputs[1]), node.attrs.get("axis", 0) % len(axes)
        return None if index is None or index.ndim else axes[:along] + axes[along + 1 :]
    if node.op == "Unsqueeze":
        return _unsqueezed(axes, node.attrs.get("axes", small_constant(node.inputs[-1])))
    return None


def _unsqueezed(axes: Iterable[int | None], new: Iterable[int] | None) -> tuple[int | None, ...] | None:
    if new is None:
        return None
    result, added = list(axes), [int(axis) for axis in new]
    rank = len(result) + len(added)
    for axis in sorted(axis % rank for axis in added):
        result.insert(axis, None)
    return tuple(result)
