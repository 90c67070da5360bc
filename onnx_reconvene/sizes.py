"""Sizes for the free dimensions of a network's inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.control import running_nodes
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.inference import WINDOWED, has_free_sizes, infer, is_free
from onnx_reconvene.names import name_of
from onnx_reconvene.roles import BATCH, IMAGE, SEQUENCE, VOLUME, Key, Role, combined, key_of, roles_of
from onnx_reconvene.shapes import Integers, Shape

MOST = 2**59  # elements of a tensor whose bytes can be counted in 64 bits
ORDINARY = {IMAGE: 224, SEQUENCE: 128, VOLUME: 64}
CANDIDATES = [1, 2, 4, 8, 16, 28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 288, 299, 320, 384, 416, 448, 512, 640, 800, 1024]
SMALL = [16, 32, 64, 96, 128]  # for a check of what a network computes
FIRST = [2, 3, 4, 6, 8, 12, 16]  # for the batch, where some network needs a multiple
TRIES = 60
GIVEN, SAMPLES, ASSUMED = "given", "samples", "assumed"  # where sizes of free dimensions come from
WHY = {GIVEN: "as given", SAMPLES: "as the samples", ASSUMED: "assumed, --input-shape sets another"}
SHOWN = 3  # inputs
BROADCASTING = ("Add", "Div", "Mul", "Pow", "Sub", "Where")  # whose shapes are often known later than shape inference looks


def input_sizes(graph: gs.Graph, requested: Mapping[str, Sequence[int]], small: bool = False) -> dict[str, Shape]:
    """Return a shape for each graph input: the given ones; else dimensions of the same name are as large as in these, the batch
    is 1, channels are as many as the layer that reads them takes, and other free dimensions are those of ordinary images,
    sequences and volumes, or the nearest legal ones.

    Args:
        small: take the smallest of some sizes at which the network is legal, instead of ordinary ones.

    Raises UsageError for a shape that does not fit its input, ModelError where no size tried is legal.
    """
    inputs = {t.name: t for t in graph.inputs}
    requested = {**{name: value.shape for name, value in graph.input_values.items()}, **requested}
    _check(inputs, requested)
    if not has_free_sizes(graph) or all(name in requested for name in inputs):
        return {t.name: tuple(requested.get(t.name, t.shape)) for t in graph.inputs}
    roles = roles_of(graph, requested)
    failures, with_empty = [], None
    for first, size in _candidates(set(roles.values()), small):
        sizes = _sizes(graph, requested, roles, {BATCH: first, **size})
        try:
            shapes, integers = infer(graph, sizes)
        except ModelError as error:
            failures.append(str(error))
            continue
        failure = _illegal(graph, shapes, integers) or _empty(graph, shapes, integers)
        if not failure:
            return sizes
        failures.append(failure)
        if failure.endswith("is empty"):
            with_empty = with_empty or (sizes, failure)
    largest = _sizes(graph, requested, roles, dict.fromkeys(ORDINARY, 224) | {BATCH: 4})
    if with_empty is not None and _empty(graph, *infer(graph, largest)) == with_empty[1]:
        return with_empty[0]  # it is empty at any size
    name = next(iter([name for name, origin in origins_of(graph, requested, {}).items() if origin == ASSUMED] or requested))
    raise ModelError(f"no size tried for the free dimensions is legal ({failures[0]}); give one with --input-shape {name}=1,...")


def small_sizes(graph: gs.Graph, sizes: Mapping[str, Sequence[int]], origins: Mapping[str, str]) -> Mapping[str, Sequence[int]]:
    """Return input sizes at which a run takes little time: as sizes, but the smallest legal ones for what was assumed."""
    if ASSUMED not in origins.values():
        return sizes
    try:
        return input_sizes(graph, {name: size for name, size in sizes.items() if origins.get(name) != ASSUMED}, small=True)
    except ModelError:
        return sizes


def origins_of(graph: gs.Graph, requested: Mapping[str, Sequence[int]], samples: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Return where the sizes of the inputs with free dimensions come from."""
    free = [t.name for t in graph.inputs if is_free(t) and t.name not in graph.input_values]
    return {name: GIVEN if name in requested else SAMPLES if name in samples else ASSUMED for name in free}


def size_line(sizes: Mapping[str, Sequence[int]], origins: Mapping[str, str]) -> list[str]:
    """Return one line on the sizes that costs are counted at, none where all are fixed."""
    parts = []
    for origin, why in WHY.items():
        names = [name for name in sizes if origins.get(name) == origin]
        texts = [f"{name}={','.join(map(str, sizes[name]))}" for name in names[:SHOWN]]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        parts += [f"{' '.join(texts)}{more} ({why})"] if names else []
    return [f"costs are those at {'; '.join(parts)}"] if parts else []


def _check(inputs: Mapping[str, gs.Variable], requested: Mapping[str, Sequence[int]]) -> None:
    for name, shape in requested.items():
        declared = inputs[name].shape if name in inputs else None
        if name not in inputs:
            raise UsageError(f"--input-shape {name}: the network has no such input; it has {', '.join(inputs)}")
        if declared is not None and not _fits(shape, declared):
            raise UsageError(f"--input-shape {name}: {_times(shape)} does not fit the declared {_times(declared)}")
        if math.prod(shape) > MOST:
            raise UsageError(f"--input-shape {name}: {_times(shape)} is more than any tensor holds")
    unknown = [name for name, t in inputs.items() if t.shape is None and name not in requested]
    if unknown:
        raise ModelError(f"input '{unknown[0]}' declares no shape; give one with --input-shape {unknown[0]}=1,...")


def _candidates(roles: set[Role], small: bool) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield batches and sizes by role in the order in which they are to be tried."""
    kinds = [kind for kind in ORDINARY if kind in roles]
    alike: Iterable[dict[str, int]] = [dict.fromkeys(kinds, n) for n in SMALL]
    sizes = list(itertools.islice(alike if small and kinds else _nearest(kinds), TRIES))
    yield from ((1, size) for size in sizes)
    if BATCH in roles:
        yield from itertools.product(FIRST, [sizes[0], dict.fromkeys(kinds, 32), dict.fromkeys(kinds, 1)][: 3 if kinds else 1])


def _nearest(kinds: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield sizes of these kinds, those of least distance from ordinary ones first."""
    choices = itertools.product(CANDIDATES, repeat=len(kinds))
    ordinary = [ORDINARY[kind] for kind in kinds]
    distance = {choice: sum(abs(math.log(a / b)) for a, b in zip(choice, ordinary, strict=True)) for choice in choices}
    yield from (dict(zip(kinds, choice, strict=True)) for choice in sorted(distance, key=lambda choice: distance[choice]))


def _sizes(
    graph: gs.Graph, requested: Mapping[str, Sequence[int]], roles: Mapping[Key, Role], sizes: Mapping[str, int]
) -> dict[str, Shape]:
    numbers = {key: role if isinstance(role, int) else sizes[role] for key, role in roles.items()}

    def size(tensor: gs.Variable, axis: int) -> int:
        key = key_of(tensor, axis)
        return int(combined(key, numbers) or numbers.get(key, tensor.shape[axis]))

    return {
        t.name: tuple(requested[t.name]) if t.name in requested else tuple(size(t, axis) for axis in range(len(t.shape)))
        for t in graph.inputs
    }


def _empty(graph: gs.Graph, shapes: Mapping[str, Shape], integers: Integers) -> str:
    """Return which tensor holds nothing at these shapes, "" if none: a sign that a size is too small."""
    for node in running_nodes(graph, integers):
        for tensor in node.outputs if node.inputs else ():
            if 0 in shapes.get(tensor.name, ()) and not integers.is_arithmetic(tensor.name):
                return f"'{tensor.name}' is empty"
    return ""


def _illegal(graph: gs.Graph, shapes: Mapping[str, Shape], integers: Integers) -> str:
    """Return what does not fit at these shapes though shape inference lets it pass, "" if all does."""
    for node in running_nodes(graph, integers):
        known = [shapes.get(t.name) for t in node.inputs if t.name]
        if reason := _misfit(node, known) or _misread(node, shapes, integers):
            return reason
    return ""


def _misfit(node: gs.Node, known: Sequence[Shape | None]) -> str:
    """Return why inputs of these shapes, as far as they are known, do not fit a node, "" if they do."""
    name = f"{node.op} '{name_of(node)}'"
    if node.op in WINDOWED and _is_too_small(node, known):
        return f"the window of {name} is larger than its input"
    if node.op == "Conv" and known[0] and known[1] and known[0][1] != known[1][1] * node.attrs.get("group", 1):
        return f"{name} reads {known[0][1]} channels with a weight for {known[1][1] * node.attrs.get('group', 1)}"
    if node.op == "Concat" and all(shape is not None and len(shape) == len(known[0] or ()) for shape in known):
        axis = node.attrs["axis"] % len(known[0] or (0,))
        if len({shape[:axis] + shape[axis + 1 :] for shape in known if shape}) > 1:
            return f"the inputs of {name} do not fit"
    if node.op in BROADCASTING and not node.attrs and not _broadcast([shape for shape in known if shape is not None]):
        return f"the inputs of {name} do not fit"
    return ""


def _misread(node: gs.Node, shapes: Mapping[str, Shape], integers: Integers) -> str:
    """Return why the integers that a node reads do not fit the shape of its input, "" if they do."""
    shape = shapes.get(node.inputs[0].name) if node.inputs else None
    value = integers.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape is None:
        return ""
    if node.op == "Squeeze" and any(shape[axis] != 1 for axis in _squeezed(node, value, len(shape))):
        return f"Squeeze '{name_of(node)}' cannot drop an axis of {list(shape)}"
    if node.op == "Gather" and value is not None and shape and _is_beyond(value, shape[node.attrs.get("axis", 0)]):
        return f"Gather '{name_of(node)}' reads positions that {list(shape)} does not have"
    if node.op == "Reshape" and value is not None and math.prod(shapes.get(node.outputs[0].name, (-1,))) != math.prod(shape):
        return f"Reshape '{name_of(node)}' cannot make {value.tolist()} of {list(shape)}"
    return ""


def _broadcast(shapes: Sequence[Shape]) -> bool:
    """Return True if tensors of these shapes go together element by element."""
    axes = itertools.zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return all(len({size for size in sizes if size != 1}) < 2 for sizes in axes)


def _is_beyond(index: NDArray[Any], size: int) -> bool:
    return bool((index >= size).any() or (index < -size).any())


def _squeezed(node: gs.Node, value: NDArray[Any] | None, rank: int) -> list[int]:
    """Return the axes that a Squeeze drops, none where they are not named."""
    named = value if len(node.inputs) > 1 else node.attrs.get("axes")
    return [axis for axis in map(int, () if named is None else named) if -rank <= axis < rank]


def _is_too_small(node: gs.Node, known: Sequence[Shape | None]) -> bool:
    """Return True if an input, with its padding, is known to be smaller than the window that slides over it."""
    window = node.attrs.get("kernel_shape") or (known[1] or ())[2:] if len(known) > 1 else node.attrs.get("kernel_shape")
    fixed = node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not node.attrs.get("ceil_mode")
    if known[0] is None or not window or not fixed:
        return False
    size = known[0][2:]
    pads, dilations = node.attrs.get("pads") or [0] * 2 * len(size), node.attrs.get("dilations") or [1] * len(size)
    padded = [n + before + after for n, before, after in zip(size, pads, pads[len(size) :], strict=False)]
    return any(n < d * (w - 1) + 1 for n, w, d in zip(padded, window, dilations, strict=False))


def _fits(shape: Sequence[int], declared: Sequence[int | str | None]) -> bool:
    return len(shape) == len(declared) and all(d == s or not isinstance(d, int) for s, d in zip(shape, declared, strict=True))


def _times(shape: Sequence[int | str | None]) -> str:
    return "x".join(str(size) for size in shape)
