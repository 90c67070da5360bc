"""The oracle that knows no operator: dead slices set to zero in the original must give what the smaller network gives.

It asks the analysis for nothing but groups and where their units live. Every slice that belongs to a removed unit is set to zero,
on the side that makes a channel as well as on the side that reads it. A second reference keeps the vectors (biases, scales, running
statistics) as they were, so that removed channels carry values through the network, and only what reads them stops these. Where an
operator lets channels act on each other, the two references differ, and one of them differs from the smaller network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_reconvene.analysis import analyze
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.groups import Analysis

NEWEST_OPSET = 26  # that onnxruntime runs
TOLERANCE = 1e-4  # of the largest value of an output
Array = NDArray[np.generic]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Dead:
    """Which parts of one weight, along one axis, belong to removed units."""

    tensor: str
    axis: int
    gone: Mask  # broadcastable to the weight


@dataclass(frozen=True)
class Cut:
    """The smaller model, how many units are gone, and whether an output differs from that of the untouched original."""

    model: onnx.ModelProto
    removed: int
    noticed: bool


def check(model: onnx.ModelProto, seed: int = 0, keep: Mask | None = None, spare_vectors: bool = True) -> Cut:
    """Cut model by keep [units], or at random; raise AssertionError where the result is not the original without these channels."""
    rng = np.random.default_rng(seed)
    graph = from_model(model)
    analysis = analyze(graph)
    keep = random_mask(analysis, rng) if keep is None else keep
    dead = list(dead_slices(analysis, keep))
    flat = model if all(d.tensor in names(model) for d in dead) else inliner.inline_local_functions(model)
    exact = not any(group.inexact and not keep[group.units].all() for group in analysis.groups)
    cut(analysis, keep)
    pruned = to_model(graph)
    check_valid(pruned, flat, dead)
    noticed = False
    for feeds in draw_feeds(model, analysis.sizes, rng):
        untouched, found = run(model, feeds), run(pruned, feeds)
        assert all(a.any() for a in untouched), "an output of the original is all zeros: the network tests nothing"
        for vectors in (False, True) if spare_vectors else (False,):
            expected = run(zeroed(flat, dead, vectors), feeds)
            compare(expected, found, exact)
        noticed |= any(not np.array_equal(a, b) for a, b in zip(untouched, expected, strict=True))
    return Cut(pruned, int((~keep).sum()), noticed)


def random_mask(analysis: Analysis, rng: np.random.Generator) -> Mask:
    """Return which units stay: of each group at least one; at least one unit goes where some group has two."""
    keep = np.ones(analysis.width, bool)
    wide = [group for group in analysis.groups if group.width > 1]
    losing = [group for group in wide if rng.random() < 0.75] or wide[:1]
    for group in losing:
        gone = rng.integers(1, group.width)
        for block in group.by_block(keep):
            block[rng.permutation(group.width)[:gone]] = False
    return keep


def dead_slices(analysis: Analysis, keep: Mask) -> Iterator[Dead]:
    """Yield where the removed units live."""
    for group in analysis.groups:
        gone = np.append(~keep[group.units], False)  # the last entry answers for -1
        for site in group.sites:
            if gone.any():
                yield Dead(site.tensor, site.axis, gone[site.units])


def zeroed(model: onnx.ModelProto, dead: Sequence[Dead], spare_vectors: bool) -> onnx.ModelProto:
    """Return model with its dead slices set to zero, those of vectors too unless they are spared."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for name in dict.fromkeys(d.tensor for d in dead):
        values = weight(model, name).copy()
        if values.ndim > 1 or not spare_vectors:
            for d in (d for d in dead if d.tensor == name):
                values[np.broadcast_to(d.gone, values.shape)] = 0
        put(result, name, values)
    return result


def weight(model: onnx.ModelProto, name: str) -> Array:
    """Return the value of an initializer, or what a node makes of nothing but constants, in bodies of control flow too."""
    for tensor in [tensor for graph in graphs(model.graph) for tensor in graph.initializer]:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    for sparse in [sparse for graph in graphs(model.graph) for sparse in graph.sparse_initializer]:
        if sparse.values.name == name:
            return expanded(sparse)
    part, needed = onnx.ModelProto(), {name}
    part.CopyFrom(model)
    for graph in graphs(model.graph):
        if graph is not model.graph and any(name in node.output for node in graph.node):
            part.graph.CopyFrom(graph)
            part.graph.initializer.extend(model.graph.initializer)
            part.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for node in reversed(list(part.graph.node)):
        if needed.intersection(node.output):
            needed.update(node.input)
        else:
            part.graph.node.remove(node)
    del part.graph.input[:], part.graph.output[:]
    part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return run(part, {})[0]


def expanded(sparse: onnx.SparseTensorProto) -> Array:
    """Return the value of a sparse initializer whose indices are those of the flattened tensor, or a row for each element."""
    values, index = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    dense[np.unravel_index(index, dense.shape) if index.ndim == 1 else tuple(index.T)] = values
    return dense


def put(model: onnx.ModelProto, name: str, values: Array) -> None:
    """Make name an initializer with these values, whatever it was, in the graph or body where it was."""
    for graph in graphs(model.graph):
        made = [node for node in graph.node if name in node.output]
        stored = [tensor for tensor in graph.initializer if tensor.name == name]
        sparse = [sparse for sparse in graph.sparse_initializer if sparse.values.name == name]
        for node in made:
            graph.node.remove(node)
        for tensor in stored:
            graph.initializer.remove(tensor)
        for tensor in sparse:
            graph.sparse_initializer.remove(tensor)
        if made or stored or sparse:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))


def names(model: onnx.ModelProto) -> set[str]:
    """Return the names of all weights of model but those in functions."""
    parts = list(graphs(model.graph))
    sparse = {s.values.name for part in parts for s in part.sparse_initializer}
    return (
        sparse
        | {t.name for part in parts for t in part.initializer}
        | {n for part in parts for node in part.node for n in node.output}
    )


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield graph and the bodies of control flow in it."""
    yield graph
    for attribute in [attribute for node in graph.node for attribute in node.attribute]:
        if attribute.HasField("g"):
            yield from graphs(attribute.g)


def check_valid(pruned: onnx.ModelProto, model: onnx.ModelProto, dead: Sequence[Dead]) -> None:
    """Raise unless pruned is valid ONNX, and its weights are smaller by just the dead slices."""
    if passes(onnx.checker.check_model, model):  # onnxruntime has operators that onnx does not know
        onnx.checker.check_model(pruned)
    if passes(infer, model):  # and onnx has operators whose shapes it cannot infer
        infer(pruned)
    for name in dict.fromkeys(d.tensor for d in dead):
        shape = list(weight(model, name).shape)
        for d in (d for d in dead if d.tensor == name):
            shape[d.axis] -= d.gone.sum() * d.gone.shape[d.axis] // d.gone.size
        assert weight(pruned, name).shape == tuple(shape), f"'{name}' is not cut to {shape}"


def infer(model: onnx.ModelProto) -> None:
    """Raise unless types and shapes fit everywhere."""
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def passes(check: Callable[[onnx.ModelProto], None], model: onnx.ModelProto) -> bool:
    """Return True if check finds no fault with model."""
    try:
        check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def draw_feeds(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], rng: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Yield random inputs of the given sizes, and where dimensions are free, of twice these."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    free = {value.name: [not d.HasField("dim_value") for d in value.type.tensor_type.shape.dim] for value in inputs}
    for times in (1, 2) if any(any(axes) for axes in free.values()) else (1,):
        yield {
            value.name: draw(
                value.type.tensor_type.elem_type,
                [n * (times if f else 1) for n, f in zip(sizes[value.name], free[value.name], strict=True)],
                rng,
            )
            for value in inputs
        }


def draw(kind: int, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Return random values of an ONNX type; integers are 1 or 2, so that they index and count."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else rng.integers(1, 3, shape).astype(dtype)


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of model, which onnxruntime runs as it stands, or onnx itself where an opset is too new for that."""
    if max(domain.version for domain in model.opset_import if domain.domain == "") > NEWEST_OPSET:
        return ReferenceEvaluator(model).run(None, dict(feeds))  # type: ignore[return-value]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def compare(expected: Sequence[Array], found: Sequence[Array], exact: bool) -> None:
    """Raise AssertionError unless outputs have the same shapes and, where the cut is exact, the same values."""
    assert [e.shape for e in expected] == [f.shape for f in found]
    for e, f in zip(expected, found, strict=True):
        assert np.isfinite(e).all(), "an output of the original is not finite: the network tests nothing"
        if exact:
            off = np.abs(e.astype(np.float64) - f.astype(np.float64)).max() / max(np.abs(e).max(), np.finfo(np.float32).tiny)
            assert off <= TOLERANCE, f"off by {off:.2g} of the largest value"
