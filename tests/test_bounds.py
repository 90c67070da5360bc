"""What a small file can ask for is bounded: sizes, functions, numbers, steps and nesting."""

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, helper, numpy_helper, parser

import onnx_reconvene as rc
from onnx_reconvene.passes import Allocate
from onnx_reconvene.plain import MOST_NODES
from onnx_reconvene.state import KEY

NET = """<ir_version: 9, opset_import: ["": 18]>
net (float[{batch},3,8,8] x) => (float[5,{batch}] y) {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu (a)
    c = Conv (b, w2)
    d = Add (b, c)
    e = Concat <axis = 1> (d, b)
    f = GlobalAveragePool (e)
    g = Flatten (f)
    h = Gemm (g, w3)
    i = Transpose <perm = [1, 0]> (h)
    y = Softmax <axis = 0> (i)
}}"""


def network(batch):
    """Return a network with layers, a residual sum, a concatenation and movement, for batches of this size."""
    model = parser.parse_model(NET.format(batch=batch))
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (8, 8, 1, 1)), ("w3", (16, 5))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


def test_batches_beyond_memory_are_analysed_as_small_ones():
    plans = [rc.prune(network(batch), verify=False, round_to=1).plan for batch in (1, 2**40)]
    for name, keep in plans[0].keep.items():
        np.testing.assert_array_equal(plans[1].keep[name], keep)


def test_sizes_beyond_any_tensor_are_refused():
    with pytest.raises(rc.ModelError, match="more than any tensor holds"):
        rc.prune(network(2**61), verify=False)


def test_repetitions_beyond_memory_freeze_what_they_repeat():
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[1,4] x) => (float[1,8796093022208] y) <int64[2] n = {1, 1099511627776}> {
        a = MatMul (x, w)
        y = Tile (a, n)
    }"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 8), np.float32), "w"))
    (frozen,) = rc.analyze(model).frozen
    assert "axis of 8,796,093,022,208 positions" in frozen.reason


def calling(name, callee, times=2):
    """Return a local function that calls another a few times in a row."""
    nodes = [helper.make_node(callee, [f"t{k}"], [f"t{k + 1}"], domain="" if callee == "Relu" else "f") for k in range(times)]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["t0"], [f"t{times}"], nodes, imports)


def with_functions(*functions: FunctionProto):
    """Return a model that calls the last of some local functions."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(functions[-1].name, ["x"], ["y"], domain="f")], "g", values[:1], values[1:])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, ir_version=9, opset_imports=imports, functions=functions)


def test_functions_that_double_are_not_inlined_without_end():
    model = with_functions(calling("f0", "Relu"), *(calling(f"f{k + 1}", f"f{k}") for k in range(60)))
    with pytest.raises(rc.ModelError, match=f"{MOST_NODES:,} nodes"):
        rc.analyze(model)


def test_functions_that_call_each_other_in_a_circle_are_refused():
    with pytest.raises(rc.ModelError):
        rc.analyze(with_functions(calling("a", "b"), calling("b", "a")))


def test_numbers_that_never_end_are_refused(tmp_path):
    path = tmp_path / "in.onnx"
    path.write_bytes(b"\xff" * 2**20)
    with pytest.raises(rc.ModelError, match="more than 10 bytes"):
        rc.analyze(path)


def test_steps_have_a_limit():
    with pytest.raises(rc.UsageError, match="--steps 100000"):
        rc.prune(network(1), steps=100_000)


@pytest.mark.parametrize("option", ["from_plan", "keep_file", "latency_table"])
def test_deep_json_is_one_line(tmp_path, option):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000, encoding="utf-8")
    more = {"latency_table": {"target": "latency=0.5"}}.get(option, {})
    with pytest.raises(rc.UsageError, match=r"deep\.json"):
        rc.prune(network(1), verify=False, **{option: str(path)}, **more)


def test_deep_json_in_metadata_is_one_line():
    model = network(1)
    model.metadata_props.add(key=KEY, value="[" * 100_000)
    with pytest.raises(rc.UsageError, match="metadata"):
        Allocate("macs=0.5")(model)


def test_truth_values_computed_from_channels_are_replaced():
    text = """<ir_version: 8, opset_import: ["": 18]> net (float[2,?,6,6] x) => (float[2,5,6,6] y) {
        a = Conv (x, w1)
        s = Shape (a)
        i = Constant <value_int = 1> ()
        k = Gather (s, i)
        n = Constant <value_int = 8> ()
        q = Equal (k, n)
        h = If (q) <then_branch = one () => (float[2,8,6,6] t) { t = Relu (a) },
            else_branch = other () => (float[2,8,6,6] e) { e = Neg (a) }>
        y = Conv (h, w2)
    }"""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (8, 3, 1, 1)), ("w2", (5, 8, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    assert rc.prune(model, round_to=1).report.verify.status == "exact"
