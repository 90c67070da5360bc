"""Sizes for the free dimensions of a network's inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.graph import every_node
from onnx_reconvene.inference import WINDOWED, has_free_sizes, infer
from onnx_reconvene.names import name_of
from onnx_reconvene.shapes import Integers, Shape


def input_sizes(graph: gs.Graph, given: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Return a shape for each graph input: the given ones; else dimensions of the same name are as large as in these, a free first
    dimension is 1, free channels are as many as the convolution reads, and other free dimensions are all the same, the smallest
    size at which the network is legal.

    Raises UsageError for a shape that does not fit its input, ModelError where no size tried is legal.
    """
    inputs = {t.name: t for t in graph.inputs}
    for name, shape in given.items():
        declared = inputs[name].shape if name in inputs else None
        if name not in inputs:
            raise UsageError(f"--input-shape {name}: the network has no such input; it has {', '.join(inputs)}")
        if declared is not None and not _fits(shape, declared):
            raise UsageError(f"--input-shape {name}: {_times(shape)} does not fit the declared {_times(declared)}")
        if math.prod(shape) > MOST:
            raise UsageError(f"--input-shape {name}: {_times(shape)} is more than any tensor holds")
    unknown = [name for name, t in inputs.items() if t.shape is None and name not in given]
    if unknown:
        raise ModelError(f"input '{unknown[0]}' declares no shape; give one with --input-shape {unknown[0]}=1,...")
    if not has_free_sizes(graph) or all(name in given for name in inputs):
        return _sizes(graph, given, 1, 1)
    failure, with_empty = "", None
    for first, size in [*((1, size) for size in CANDIDATES), *itertools.product(FIRST, (1, 32, 224))]:
        sizes = _sizes(graph, given, first, size)
        try:
            shapes, integers = infer(graph, sizes)
        except ModelError as error:
            failure = str(error)
            continue
        failure = _illegal(graph, shapes, integers) or _empty(graph, shapes, integers)
        if not failure:
            return sizes
        if failure.endswith("is empty"):
            with_empty = with_empty or (sizes, failure)
    if with_empty is not None and _empty(graph, *infer(graph, _sizes(graph, given, 4, 224))) == with_empty[1]:
        return with_empty[0]  # it is empty at any size
    free = [name for name, t in inputs.items() if name not in given and not all(isinstance(d, int) for d in t.shape)]
    name = (free or list(given))[0]
    raise ModelError(f"no size tried for the free dimensions is legal ({failure}); give one with --input-shape {name}=1,...")


MOST = 2**59  # elements of a tensor whose bytes can be counted in 64 bits
CANDIDATES = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 224, 256, 299, 320, 384, 416, 512, 640, 800, 1024]
PASSING = {"AveragePool", "BatchNormalization", "Cast", "DequantizeLinear", "Identity", "MaxPool", "QuantizeLinear"}  # channels
FIRST = [2, 3, 4, 6, 8, 12, 16]  # for the first dimension, where some network needs a multiple


def _sizes(graph: gs.Graph, given: Mapping[str, Sequence[int]], first: int, size: int) -> dict[str, Shape]:
    named = _named(graph, given)
    return {t.name: tuple(given[t.name]) if t.name in given else _filled(t, named, first, size) for t in graph.inputs}


def _named(graph: gs.Graph, given: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the sizes of dimensions by name, as the shapes that are given say, but of names that stand for different sizes."""
    found: dict[str, set[int]] = {}
    for tensor in graph.inputs:
        for dimension, n in zip(tensor.shape or (), given.get(tensor.name, ()), strict=False):
            if isinstance(dimension, str) and dimension:
                found.setdefault(dimension, set()).add(n)
    return {dimension: sizes.pop() for dimension, sizes in found.items() if len(sizes) == 1}


def _filled(tensor: gs.Variable, named: Mapping[str, int], first: int, size: int) -> Shape:
    known = {0: first, 1: _channels(tensor) or size}
    return tuple(d if isinstance(d, int) else named.get(d, known.get(axis, size)) for axis, d in enumerate(tensor.shape))


def _channels(tensor: gs.Variable) -> int | None:
    """Return how many channels a convolution that reads a tensor reads, None where there is none."""
    for node in tensor.outputs:
        if node.op == "Conv" and node.inputs[0] is tensor and isinstance(node.inputs[1], gs.Constant):
            return int(node.inputs[1].shape[1] * node.attrs.get("group", 1))
        through = _channels(node.outputs[0]) if node.op in PASSING else None
        if through is not None:
            return through
    return None


def _empty(graph: gs.Graph, shapes: Mapping[str, Shape], integers: Integers) -> str:
    """Return which tensor holds nothing at these shapes, "" if none: a sign that a size is too small."""
    for node in every_node(graph):
        for tensor in node.outputs if node.inputs else ():
            if 0 in shapes.get(tensor.name, ()) and not integers.is_arithmetic(tensor.name):
                return f"'{tensor.name}' is empty"
    return ""


def _illegal(graph: gs.Graph, shapes: Mapping[str, Shape], integers: Integers) -> str:
    """Return what does not fit at these shapes though shape inference lets it pass, "" if all does."""
    for node in every_node(graph):
        known = [shapes.get(t.name) for t in node.inputs if t.name]
        if node.op in WINDOWED and _is_too_small(node, known):
            return f"the window of {node.op} '{name_of(node)}' is larger than its input"
        if node.op == "Conv" and known[0] and known[1] and known[0][1] != known[1][1] * node.attrs.get("group", 1):
            expected = known[1][1] * node.attrs.get("group", 1)
            return f"Conv '{name_of(node)}' reads {known[0][1]} channels with a weight for {expected}"
        if node.op == "Concat" and all(shape is not None and len(shape) == len(known[0] or ()) for shape in known):
            axis = node.attrs["axis"] % len(known[0] or (0,))
            if len({shape[:axis] + shape[axis + 1 :] for shape in known if shape}) > 1:
                return f"the inputs of Concat '{name_of(node)}' do not fit"
        wanted = integers.get(node.inputs[1]) if node.op == "Reshape" and len(node.inputs) > 1 else None
        if wanted is not None and known[0] is not None and node.outputs[0].name not in shapes:
            return f"Reshape '{name_of(node)}' cannot make {wanted.tolist()} of {list(known[0])}"
    return ""


def _is_too_small(node: gs.Node, known: Sequence[Shape | None]) -> bool:
    """Tell whether an input, with its padding, is known to be smaller than the window that slides over it."""
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
