"""Any cut of any network is valid, computes what the original does without the removed channels, and costs what was predicted."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import inliner

from onnx_reconvene.analysis import analyze
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.groups import Analysis
from onnx_reconvene.reference import Reference, reference, store
from tests.generator import networks
from tests.oracle import dead_slices, graphs, names, random_mask, run, zeroed
from tests.twins import every_node, same_but_for_names, twins

DECIDING = {"DynamicQuantizeLinear", "Greater", "QuantizeLinear"}  # where float rounding may change a result by a whole step
ATTEMPTS = 3
TWINS_EVERY = 10  # networks
TOLERANCE = 2e-4  # of the largest value of an output, or of 0.1 where that is smaller: what cancels out is but rounding
Array = NDArray[np.generic]
Mask = NDArray[np.bool_]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Checked:
    """What a network turned out to be: its groups, how many units of them went, and whether the cut was exact."""

    groups: int
    units: int
    removed: int
    exact: bool


def check(model: onnx.ModelProto, seed: int = 0) -> Checked:
    """Cut model at random; raise AssertionError, or whatever the library raises, where something does not hold."""
    check_nothing_removed(model)
    graph = from_model(model)
    analysis = analyze(graph)
    keep = mask(analysis, np.random.default_rng(seed), only_exact=bool(seed % 2))
    against, costs = reference(analysis, keep), CostModel(analysis).all(analysis.widths(keep))
    references = [stored(against)]
    if not against.inexact:
        dead = list(dead_slices(analysis, keep))
        divisors = {node.input[1] for node in model.graph.node if node.op_type == "Div"}
        if not divisors.intersection(d.tensor for d in dead):  # the oracle would divide by zeros
            flat = model if all(d.tensor in names(model) for d in dead) else inliner.inline_local_functions(model)
            references += [zeroed(flat, dead, spare_vectors) for spare_vectors in (False, True)]
    cut(analysis, keep)
    pruned = to_model(graph)
    onnx.checker.check_model(
        pruned, full_check=not any(part.sparse_initializer for part in graphs(pruned.graph))
    )  # shape inference refuses these
    check_outputs(references, pruned, analysis.sizes)
    check_costs(pruned, costs)
    if seed % TWINS_EVERY == 0:
        check_twins(model, keep, pruned)
    return Checked(len(analysis.groups), analysis.width, int((~keep).sum()), not against.inexact)


def check_twins(model: onnx.ModelProto, keep: Mask, pruned: onnx.ModelProto) -> None:
    """Raise unless the same cut of the same network in other forms gives the same network."""
    for form, twin in twins(model).items():
        graph = twin()
        cut(analyze(graph), keep)
        assert same_but_for_names(to_model(graph), pruned), f"{form}: another network is left"


def check_nothing_removed(model: onnx.ModelProto) -> None:
    """Raise unless a cut that removes nothing changes nothing."""
    graph = from_model(model)
    analysis = analyze(graph)
    cut(analysis, np.ones(analysis.width, bool))
    assert to_model(graph) == model, "removing nothing changed the model"


def mask(analysis: Analysis, rng: np.random.Generator, only_exact: bool) -> Mask:
    """Return which units stay, at random; all of the groups that statistics are computed over, if so asked."""
    keep = random_mask(analysis, rng)
    for group in analysis.groups:
        if group.inexact and only_exact:
            keep[group.units] = True
    return keep


def stored(against: Reference) -> onnx.ModelProto:
    """Return the counterpart of a cut that verification runs."""
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder:
        return onnx.load(store(against.source, folder, "reference", against.zero, against.masked))


def check_outputs(references: Sequence[onnx.ModelProto], pruned: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> None:
    """Raise unless all references and the pruned model compute the same, at every batch size.

    Where values are rounded or compared, float rounding may decide otherwise for some inputs; a fault shows for all.
    """
    seeds = range(ATTEMPTS if DECIDING.intersection(node.op_type for node in every_node(pruned)) else 1)
    for seed in seeds[:-1]:
        with contextlib.suppress(AssertionError):
            check_outputs_for(references, pruned, sizes, seed)
            return
    check_outputs_for(references, pruned, sizes, seeds[-1])


def check_outputs_for(
    references: Sequence[onnx.ModelProto], pruned: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], seed: int
) -> None:
    """Raise unless all references and the pruned model compute the same for the inputs of this seed."""
    for feeds in feed(pruned, sizes, seed):
        found = run(pruned, feeds)
        for k, model in enumerate(references):
            for value, e, f in zip(pruned.graph.output, run(model, feeds), found, strict=True):
                assert e.shape == f.shape, f"'{value.name}' is {f.shape}, not {e.shape}"
                check_close(e.astype(np.float64), f.astype(np.float64), f"'{value.name}' differs from reference {k}")


def check_close(expected: NDArray[np.float64], found: NDArray[np.float64], what: str) -> None:
    """Raise unless values are equal to float rounding."""
    largest = np.abs(expected).max(initial=0.0)
    off = np.abs(expected - found).max(initial=0.0) / max(largest, 0.1)
    assert np.isfinite(largest), f"{what}: the original is not finite, which tests nothing"
    assert off <= TOLERANCE, f"{what} by {off:.2g} of its largest value {largest:.2g}"


def feed(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], seed: int = 0) -> Iterator[Feeds]:
    """Yield random inputs, with a free batch dimension at 1, 2 and 3."""
    free = any(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input)
    rng = np.random.default_rng(seed)
    for batch in (1, 2, 3) if free else (0,):
        shapes = {name: (batch or shape[0], *shape[1:]) for name, shape in sizes.items()}
        yield {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def check_costs(pruned: onnx.ModelProto, predicted: Mapping[str, float]) -> None:
    """Raise unless the pruned model costs what was predicted: by an analysis of its own, and counted without one."""
    analysis = analyze(from_model(pruned))
    again = CostModel(analysis)
    found = again("macs", again.dense)
    assert predicted["macs"] == found, f"{predicted['macs']} macs predicted, {found} found"
    operators = {node.op_type for node in every_node(pruned)}
    if "ConstantOfShape" not in operators and not pruned.functions:  # which count once they are cut and stored
        params, perhaps = stored_floats(pruned)
        assert params <= predicted["params"] <= params + perhaps, f"{predicted['params']} params predicted, {params} counted"
    if not operators & MULTIPLYING and not pruned.functions and not analysis.flow.uncounted:
        macs = sum(counted(node, analysis.shapes) for node in pruned.graph.node)
        assert predicted["macs"] == macs, f"{predicted['macs']} macs predicted, {macs} counted"


MULTIPLYING = {  # and not counted here
    *("Attention", "ConvInteger", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger", "MultiHeadAttention"),
    *("QLinearConv", "QLinearMatMul", "RNN", "Scan"),
}


def stored_floats(model: onnx.ModelProto) -> tuple[int, int]:
    """Return how many numbers model stores as weights, and how many Constant nodes hold single numbers, which may be settings."""
    parts = list(graphs(model.graph))
    stored = [(t.data_type, t.dims) for part in parts for t in part.initializer]
    stored += [(s.values.data_type, s.dims) for part in parts for s in part.sparse_initializer]
    settings = {name for part in parts for n in part.node if n.op_type in ("Resize", "Upsample") for name in n.input}
    constants = [n for part in parts for n in part.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    held = [(n.attribute[0].t.data_type, n.attribute[0].t.dims) for n in constants if n.output[0] not in settings]
    sizes = [math.prod(dims) for data_type, dims in stored if data_type == onnx.TensorProto.FLOAT]
    held_sizes = [math.prod(dims) for data_type, dims in held if data_type == onnx.TensorProto.FLOAT]
    return sum(sizes) + sum(n for n in held_sizes if n > 1), sum(n for n in held_sizes if n == 1)


def counted(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the multiply-accumulates of a convolution or matrix product."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    a, b, y = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type.startswith("Conv"):
        n, _, *space = a if node.op_type == "ConvTranspose" else y
        return math.prod(b) * n * math.prod(space)
    return math.prod(y) * a[-1]


def has_free_batch(model: onnx.ModelProto) -> bool:
    """Return True if the first dimension of all inputs is free."""
    return all(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input)


def of_some_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network on those rows of its inputs whose first element is, in the first input, at least the average there."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, make = result.graph, onnx.helper.make_node
    nodes = [
        make("Constant", [], ["rows"], value=onnx.numpy_helper.from_array(np.asarray([0, -1]))),
        make("Constant", [], ["zero"], value=onnx.numpy_helper.from_array(np.asarray(0))),
        make("Reshape", [f"{graph.input[0].name}/all", "rows"], ["matrix"]),
        make("Gather", ["matrix", "zero"], ["firsts"], axis=1),
        make("ReduceMean", ["firsts"], ["average"], keepdims=0),
        make("Less", ["firsts", "average"], ["below"]),
        make("Not", ["below"], ["taken"]),
    ]
    nodes += [make("Compress", [f"{value.name}/all", "taken"], [value.name], axis=0) for value in graph.input]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.input:
        value.name += "/all"
    for dimension in [value.type.tensor_type.shape.dim[0] for value in graph.output if value.type.tensor_type.shape.dim]:
        dimension.dim_param = "R"
    return result


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 99))
def test_any_cut_of_any_network_is_what_it_should_be(model: onnx.ModelProto, seed: int) -> None:
    check(model, seed)


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(networks().filter(has_free_batch), st.integers(0, 99))
def test_any_cut_of_any_network_whose_batch_depends_on_data(model: onnx.ModelProto, seed: int) -> None:
    check(of_some_rows(model), seed)
