"""Peak memory: predicted from widths what a simulation counts on the network that was cut, and what onnxruntime's arena holds."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnx_reconvene as rc
from onnx_reconvene.analysis import analyze
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.inference import element_types
from onnx_reconvene.memory import IN_PLACE, VIEWS, Activations
from tests.generator import networks
from tests.oracle import random_mask


def simulated(model):
    """Return the peak of a run of model, buffers freed as soon as nobody is left who reads what they hold."""
    analysis = analyze(from_model(model))
    types, shapes = element_types(analysis.graph, analysis.sizes), analysis.shapes
    kinds = {name: (tuple(shape), types.get(name)) for name, shape in shapes.items()}
    data = {name for name in kinds if not analysis.integers.is_arithmetic(name)} - analysis.flow.static
    data -= {t.name for t in model.graph.initializer} | {
        name for n in model.graph.node if n.op_type == "Constant" for name in n.output
    }
    readers = [name for node in model.graph.node for name in node.input] + [value.name for value in model.graph.output]
    left = {name: readers.count(name) for name in data}
    holds = {value.name: [value.name] for value in model.graph.input if value.name in data}  # buffer: tensors
    peak = sum(bytes_of(kinds[buffer]) for buffer in holds)
    for node in model.graph.node:
        for place, name in enumerate(n for n in node.output if n in data):
            home = None if place else shared(node, name, holds, left, kinds, [value.name for value in model.graph.input])
            holds.setdefault(home or name, []).append(name)
        peak = max(peak, sum(bytes_of(kinds[buffer]) for buffer in holds))
        for name in node.input:
            left[name] = left.get(name, 0) - 1
        holds = {buffer: own for buffer, own in holds.items() if any(left[name] > 0 for name in own)}
    return peak


def shared(node, name, holds, left, kinds, given):
    """Return the buffer of an input that the result of node can have."""
    homes = {own: buffer for buffer, owned in holds.items() for own in owned}
    if node.op_type in VIEWS:
        return homes.get(node.input[0])
    for read in node.input if node.op_type in IN_PLACE else ():
        buffer = homes.get(read)
        rest = sum(left[own] for own in holds[buffer]) - list(node.input).count(read) if buffer else 1
        if not rest and buffer not in given and kinds[read] == kinds[name]:
            return buffer
    return None


def bytes_of(kind):
    shape, dtype = kind
    return math.prod(shape) * (dtype.itemsize if dtype is not None else 4)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 99))
def test_peak_of_activations_is_that_of_a_simulated_run(model, seed):
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return  # the simulation does not enter bodies
    graph = from_model(model)
    analysis = analyze(graph)
    keep = random_mask(analysis, np.random.default_rng(seed))
    activations, dense = Activations(analysis), np.asarray([group.width for group in analysis.groups], np.int64)
    assert activations(dense) == simulated(model)
    predicted = activations(analysis.widths(keep))
    cut(analysis, keep)
    pruned = to_model(graph)
    if [n.op_type for n in pruned.graph.node] == [n.op_type for n in model.graph.node]:  # else the cut itself takes memory
        assert predicted == simulated(pruned)


def test_what_is_alive_at_once_counts(parsed):
    """The sum needs r, s and t at its place or the one before; Relu and Add take no memory of their own."""
    model = parsed(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,1,3,3] x) => (float[1,8,3,3] y)
        { h = Conv(x, a)  r = Relu(h)  s = Conv(r, b)  t = Conv(s, c)  y = Add(r, t) }""",
        a=(8, 1, 1, 1),
        b=(4, 8, 1, 1),
        c=(8, 4, 1, 1),
    )
    cost = CostModel(rc.analyze(model))
    weights = 4 * (8 + 32 + 32)
    assert cost("memory", cost.dense) == weights + 4 * 9 * (8 + 4 + 8)
    assert Activations(cost.analysis).over_time(cost.dense).tolist() == [4 * 9 * n for n in (9, 8, 12, 20, 16, 0)]


@pytest.mark.parametrize("share", ["0.5", "400kB"])
def test_memory_target_in_the_report(network, share):
    result = rc.prune(network("resnet20"), target=f"memory={share}", round_to=1, verify=False)
    before, after = result.report.before.memory, result.report.after.memory
    bound = before / 2 if share == "0.5" else 400_000
    assert 0.99 * bound <= after <= bound
    assert rc.prune(network("resnet20"), target="macs=0.5", round_to=1, verify=False).report.after.memory is None
