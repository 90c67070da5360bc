"""Layers behind tensors whose shapes cannot be inferred: counted as the file states, as in a run, or not at all, and then said."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.cost import CostModel, Counting
from onnx_reconvene.errors import TargetError
from onnx_reconvene.graph import from_model
from onnx_reconvene.trial import analyze_by_trial
from tests import oracle
from tests.conftest import Ran
from tests.nets.net import draw

PLUGIN = """c = Conv<pads = [1,1,1,1]>(x, w0) e = Relu(c) a = Conv<pads = [1,1,1,1]>(e, w1)
            p = my.ops.Norm(a) b = Conv<pads = [1,1,1,1]>(p, w2) h = Relu(b) y = Conv(h, w3)"""
WEIGHTS = {"w0": (10, 3, 3, 3), "w1": (6, 10, 3, 3), "w2": (8, 6, 3, 3), "w3": (5, 8, 1, 1)}
MIX = "a = MatMul(x, w1) c = Relu(a) e = MatMul(c, w2) p = my.ops.Mix(e) b = MatMul(p, w3) h = Relu(b) y = MatMul(h, w4)"
POINTS = """n = NonZero(x) t = Transpose<perm = [1,0]>(n) f = Cast<to = 1>(t) a = MatMul(f, m1) h = Relu(a)
            s = Shape(h) z = Constant<value_ints = [0]>() r = Gather(s, z) k = Constant<value_ints = [2,8]>()
            o = Concat<axis = 0>(r, k) q = Reshape(h, o) v = ReduceSum<keepdims = 0>(q, i)
            b = Gemm(v, m2) g = Relu(b) y = MatMul(g, m3)"""
MATRICES = {"m1": (2, 16), "m2": (8, 12), "m3": (12, 3)}


def model(body: str, weights: dict[str, tuple[int, ...]], inputs: str, outputs: str, values: str = "") -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 18, "my.ops": 1]>'
    result = onnx.parser.parse_model(f"{header} net ({inputs}) => ({outputs}) <{values}> {{ {body} }}")
    result.graph.initializer.extend(numpy_helper.from_array(draw(name, shape), name) for name, shape in weights.items())
    return result


def plugin(values: str = "", inputs: str = "float[N,3,8,8] x") -> onnx.ModelProto:
    return model(PLUGIN, WEIGHTS, inputs, "float y", values)


def mix() -> onnx.ModelProto:
    weights = {"w1": (6, 9), "w2": (9, 8), "w3": (8, 10), "w4": (10, 4)}
    return model(MIX, weights, "float[N,5,6] x", "float[A,B,4] y")


def points() -> onnx.ModelProto:
    result = model(POINTS, MATRICES, "float[4,5] x", "float y")
    result.graph.initializer.append(numpy_helper.from_array(np.asarray([1]), "i"))
    return result


def macs_by_layer(network: onnx.ModelProto) -> dict[str, float]:
    analysis = analyze_by_trial(from_model(network))
    cost = CostModel(analysis)
    return cost.macs_by_node(cost.dense)


def counting(network: onnx.ModelProto) -> Counting:
    return Counting.of(analyze_by_trial(from_model(network)))


def test_layers_behind_a_plugin_count_where_the_file_states_its_shape() -> None:
    macs = macs_by_layer(plugin("float[N,6,8,8] p"))
    assert macs == {"c": 10 * 3 * 9 * 64, "a": 6 * 10 * 9 * 64, "b": 8 * 6 * 9 * 64, "y": 5 * 8 * 64}


def test_a_statement_that_contradicts_what_is_inferred_is_ignored() -> None:
    macs = macs_by_layer(plugin("float[N,6,8,8] p, float[N,9,1,1] a, float[1,2] b"))
    assert macs == {"c": 10 * 3 * 9 * 64, "a": 6 * 10 * 9 * 64, "b": 8 * 6 * 9 * 64, "y": 5 * 8 * 64}


@pytest.mark.parametrize("stated", ["float[N,7,8,8] p", "float[N,6,2] p", "float[N,6,1,1] p"])
def test_a_statement_that_cannot_be_is_no_error(stated: str) -> None:
    narrow = plugin(stated, inputs="float[N,3,8,8] x")
    narrow.graph.node[-3].ClearField("attribute")  # no padding: the window is larger than 1x1
    assert analyze_by_trial(from_model(narrow)).groups[0].name == "c"


def test_sizes_behind_a_plugin_are_assumed_and_said_where_the_weight_of_a_layer_tells_the_rest() -> None:
    network = plugin()
    assert macs_by_layer(network) == macs_by_layer(plugin("float[N,6,8,8] p"))
    assert "the shape of 1 tensor is assumed in part, for nothing tells all sizes: 'p' 1x6x8x8" in counting(network).lines()


def test_a_target_that_depends_on_layers_of_unknown_shape_is_refused() -> None:
    with pytest.raises(TargetError, match=r"2 layers are not counted.*'b'.*--allow-uncounted"):
        rc.prune(mix(), target="macs=0.5", verify=False)


def test_channels_behind_a_layer_of_unknown_shape_go_and_the_report_says_what_does_not_count() -> None:
    result = rc.prune(mix(), target="channels=0.5", criterion="l2", round_to=1, rectify="none", verify=False)
    assert result.report.counting.uncounted.keys() == {"b", "y"}
    assert "2 layers are not counted in MACs" in rc.report.summary(result.report)
    kept = {t.name: t.dims[1] for t in result.model.graph.initializer}
    assert kept["w2"] == 8  # the plugin reads these channels
    assert kept["w3"] < 10


def test_sizes_that_depend_on_data_are_those_of_a_run() -> None:
    rows = 4 * 5  # no random number is zero
    assert macs_by_layer(points()) == {"a": rows * 2 * 16, "b": rows * 8 * 12, "y": rows * 12 * 3}


def test_channels_behind_sizes_that_depend_on_data_go_and_the_sizes_stay_dynamic() -> None:
    result = rc.prune(points(), target="macs=0.5", criterion="l2", allocate="uniform", round_to=1, rectify="none")
    assert result.report.verify.status == "exact"
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    some = np.zeros((4, 5), np.float32)
    some[1, :3] = 1
    (y,) = oracle.run(result.model, {"x": some})
    assert y.shape == (3, 3)


def test_of_a_tensor_that_holds_nothing_in_a_run_one_element_counts_and_that_is_said() -> None:
    body = """c = Constant<value_float = 1e30>() b = Greater(x, c) n = NonZero(b) t = Transpose<perm = [1,0]>(n)
              f = Cast<to = 1>(t) a = MatMul(f, m1) h = Relu(a) y = MatMul(h, m3)"""
    network = model(body, {"m1": (2, 12), "m3": (12, 3)}, "float[4,5] x", "float y")
    assert macs_by_layer(network) == {"a": 2 * 12, "y": 12 * 3}
    report = rc.prune(network, target="macs=0.5", criterion="l2", round_to=1, rectify="none").report
    assert "held nothing" in rc.report.summary(report)


def test_the_command_refuses_and_allows(run: Callable[..., Ran], file: Callable[..., Path], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = [file(mix()), tmp_path / "out.onnx", "--target", "macs=0.5", "--criterion", "l2", "--no-verify", "--report", report]
    assert run(*words).status == 4
    assert run(*words, "--allow-uncounted").status == 0
    assert json.loads(report.read_text())["counting"]["uncounted"].keys() == {"b", "y"}


def test_criteria_with_data_see_channels_behind_sizes_that_depend_on_data() -> None:
    data = {"x": np.random.default_rng(0).standard_normal((8, 5), np.float32)}
    result = rc.prune(points(), target="macs=0.5", criterion="activation-mean", data=data, round_to=1, rectify="none")
    assert result.report.verify.status == "exact"


def test_channels_of_matrix_products_behind_a_plugin_go_if_its_input_tells_the_rank() -> None:
    body = "a = MatMul(x, w1) p = my.ops.Mix(a) b = MatMul(p, w2) h = Relu(b) y = MatMul(h, w3)"
    network = model(body, {"w1": (6, 8), "w2": (8, 10), "w3": (10, 4)}, "float[N,5,6] x", "float[N,5,4] y")
    analysis = analyze_by_trial(from_model(network))
    assert Counting.of(analysis).uncounted.keys() == {"b"}  # the output of the last is stated
    assert [(group.name, group.width) for group in analysis.groups] == [("b", 10)]


def test_weights_of_an_operator_without_a_rule_are_said_not_to_count() -> None:
    body = "a = MatMul(x, w1) h = Relu(a) p = my.ops.Dense(h, w2) y = Add(p, x)"
    network = model(body, {"w1": (6, 8), "w2": (8, 6)}, "float[N,6] x", "float[N,6] y", "float[N,6] p")
    assert counting(network).unruled == {"p": "Dense"}


LOOP = (
    "<body = g (int64 i, bool c, float[N,6] s) => (bool d, float[N,6] t) { d = Identity(c) h = MatMul(s, w1) t = MatMul(h, w2) }>"
)


def test_layers_in_loops_count_once_for_each_step() -> None:
    weights = {"w1": (6, 8), "w2": (8, 6), "w3": (6, 3)}
    constants = "n = Constant<value_int = 5>() k = Constant<value = bool {1}>()"
    network = model(f"{constants} z = Loop(n, k, x) {LOOP} y = MatMul(z, w3)", weights, "float[2,6] x", "float[2,3] y")
    assert macs_by_layer(network) == {"h": 5 * 2 * 6 * 8, "t": 5 * 2 * 6 * 8, "y": 2 * 6 * 3}
    body = "<num_scan_inputs = 1, body = g (float[2,6] s) => (float[2,6] t) { h = MatMul(s, w1) t = MatMul(h, w2) }>"
    network = model(f"z = Scan(x) {body} y = MatMul(z, w3)", weights, "float[7,2,6] x", "float[7,2,3] y")
    assert macs_by_layer(network) == {"h": 7 * 2 * 6 * 8, "t": 7 * 2 * 6 * 8, "y": 7 * 2 * 6 * 3}


def test_of_loops_whose_steps_are_not_known_one_step_counts_and_that_is_said() -> None:
    network = model(f"z = Loop(n, k, x) {LOOP}", {"w1": (6, 8), "w2": (8, 6)}, "float[2,6] x, int64 n, bool k", "float[2,6] z")
    assert macs_by_layer(network) == {"h": 2 * 6 * 8, "t": 2 * 6 * 8}
    assert counting(network).lines() == [
        "one step is counted of loops whose number of steps is not known before they run: Loop 'z'"
    ]


@pytest.mark.parametrize("equation", ["...i,io->...o", "nti,io->nto", "...i,io", "ab...i,io->ab...o"])
def test_all_ways_to_write_a_sum_of_products_count(equation: str) -> None:
    dims = "2,3,4,6" if "ab" in equation else "2,3,6"
    network = model(f'y = Einsum<equation = "{equation}">(x, w)', {"w": (6, 5)}, f"float[{dims}] x", "float y")
    assert macs_by_layer(network) == {"y": 2 * 3 * (4 if "ab" in equation else 1) * 6 * 5}
