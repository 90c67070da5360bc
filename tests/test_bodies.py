"""Networks with bodies (of If, Loop, Scan) and local functions, from end to end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import onnx_reconvene as rc
from onnx_reconvene.api import compare
from tests.nets import ALL
from tests.nets.control import FUNCTIONS, NETS, either
from tests.nets.net import convs
from tests.oracle import graphs

NAMES = [name for name in ALL if name.partition(":")[0] in NETS or name in FUNCTIONS]
FREE = [name for name in NAMES if ALL[name].groups]


@pytest.mark.parametrize("name", FREE)
def test_pruning_is_verified_and_counted(name: str) -> None:
    model = ALL[name].model
    result = rc.prune(model, target="channels=0.5", round_to=1)
    assert result.report.verify.status == ("shape-only" if ALL[name].inexact else "exact")
    parts = list(graphs(result.model.graph))
    weights = [tensor for part in parts for tensor in part.initializer]
    weights += [a.t for part in parts for node in part.node if node.op_type == "Constant" for a in node.attribute]
    floats = [tensor for tensor in weights if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims]
    assert result.report.after.params == sum(int(np.prod(t.dims)) for t in floats)
    assert result.report.after.params < result.report.before.params


@pytest.mark.parametrize("name", ["If: weights in both branches", "Loop: two layers inside", "function called in a branch"])
def test_pruned_networks_are_recognized(name: str) -> None:
    result = rc.prune(ALL[name].model, target="channels=0.5", round_to=1)
    found = compare(ALL[name].model, result.model)
    assert found.verdict is not None
    assert (found.after.params, found.after.macs) == (result.report.after.params, result.report.after.macs)


def test_weights_of_a_body_stay_its_own_beside_constants_outside() -> None:
    model = convs(either("t = Conv(a, w3)", "e = Neg(a)"), w3=(8, 8, 1, 1)).model
    branch = next(a.g for node in model.graph.node for a in node.attribute if a.name == "then_branch")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    branch.initializer.append(weights["w3"])
    model.graph.initializer.remove(weights["w3"])
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w1"], value=weights["w1"]))
    model.graph.initializer.remove(weights["w1"])
    pruned = rc.prune(model, target="channels=0.5", round_to=1).model
    stored = [[tensor.name for tensor in part.initializer] for part in graphs(pruned.graph)]
    assert ["w3"] in stored
    assert not any("w1" in names or "w3" in names for names in stored if names != ["w3"])


def test_weights_computed_in_a_body_are_folded() -> None:
    weights = {"w3": (8, 8, 1, 1), "g": (8, 1, 1, 1)}
    model = convs(either("c = Mul(w3, g) t = Conv(a, c)", "e = Neg(a)"), **weights).model
    result = rc.prune(model, target="channels=0.5", round_to=1)
    assert result.report.verify.status == "exact"
    assert {t.name: list(t.dims)[:2] for t in result.model.graph.initializer}["c_folded"] == [4, 4]


MERGED = """<ir_version: 8, opset_import: ["" : 18]> decoder (float[N,6] x, bool first) => (float[N,5] y) {
    y = If (first) <
        then_branch = prefill () => (float[N,5] h) { a = Relu (x) b = MatMul (a, w1) c = Relu (b) h = MatMul (c, w2) },
        else_branch = step () => (float[N,5] h) { a = Neg (x) b = MatMul (a, w1) c = Tanh (b) h = MatMul (c, w2) }
    >
}"""


def merged_decoder() -> ModelProto:
    """Return a network all of which lies in two branches that call their tensors alike, weights among them."""
    model = parser.parse_model(MERGED)
    rng = np.random.default_rng(0)
    for body in list(graphs(model.graph))[1:]:
        body.initializer.extend(
            numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name)
            for name, shape in (("w1", (6, 400)), ("w2", (400, 5)))
        )
    return model


def test_branches_that_use_the_same_names_are_pruned_apart() -> None:
    model = merged_decoder()
    result = rc.prune(model, target="channels=0.5", round_to=1)
    assert [(group.width, group.kept) for group in result.report.groups] == [(400, 200), (400, 200)]
    assert result.report.verify.status == "exact"
    onnx.checker.check_model(result.model, full_check=True)
    assert result.model.graph.node[0].input == ["first"]
    for before, after in zip(list(graphs(model.graph))[1:], list(graphs(result.model.graph))[1:], strict=True):
        assert before.node == after.node
        assert [(t.name, list(t.dims)) for t in after.initializer] == [("w1", [6, 200]), ("w2", [200, 5])]


def test_nothing_changes_in_bodies_where_nothing_is_removed() -> None:
    model = merged_decoder()
    assert rc.prune(model, target="channels=1.0").model == model


def test_a_file_may_hold_it_all(tmp_path, run) -> None:  # type: ignore[no-untyped-def]
    onnx.save(merged_decoder(), tmp_path / "in.onnx")
    ran = run(tmp_path / "in.onnx", tmp_path / "out.onnx", "--target", "params=0.5")
    assert ran.status == 0, ran.err
    pruned = onnx.load(tmp_path / "out.onnx")
    assert all(max(t.dims) < 400 for graph in graphs(pruned.graph) for t in graph.initializer)


CALLS = """<ir_version: 10, opset_import: ["" : 18, "my.own" : 1]> net (float[N,3,6,6] x) => (float[N,5,6,6] y) {
    [first] a = my.own.Gate (x)
    b = Conv (a, w1)
    [second] c = my.own.Gate (b)
    [third] d = my.own.Depthwise (c, w3)
    y = Conv (d, w2)
}
<domain: "my.own", opset_import: ["" : 18, "my.own" : 1], doc_string: "Kept.">
Gate (v) => (z) { s = my.own.Squash (v) z = Mul (v, s) }
<domain: "my.own", opset_import: ["" : 18]>
Squash <by: float = 0.5> (v) => (z) { k = Constant <value_float: float = @by> () t = Mul (v, k) z = Sigmoid (t) }
<domain: "my.own", opset_import: ["" : 18]>
Depthwise (v, w) => (z) { z = Conv <group = 8> (v, w) }
<domain: "my.own", opset_import: ["" : 18]>
Unused (v) => (z) { z = Relu (v) }
"""


def test_functions_are_called_as_before_where_nothing_in_them_has_changed(parsed) -> None:  # type: ignore[no-untyped-def]
    model = parsed(CALLS, w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), w3=(8, 1, 1, 1))
    assert rc.prune(model, target="channels=1.0").model == model
    result = rc.prune(model, target="channels=0.5", round_to=1)
    assert result.report.verify.status == "exact"
    pruned = result.model
    assert [node.op_type for node in pruned.graph.node] == ["Gate", "Conv", "Gate", "Conv", "Conv"]
    assert [node for node in pruned.graph.node if node.op_type == "Gate"] == [model.graph.node[0], model.graph.node[2]]
    assert list(pruned.functions) == [model.functions[k] for k in (0, 1, 3)]
    onnx.checker.check_model(pruned, full_check=True)


def test_functions_of_another_opset_are_left_alone(parsed) -> None:  # type: ignore[no-untyped-def]
    model = parsed(
        CALLS.replace('["" : 18]>\nDepthwise', '["" : 11]>\nDepthwise'), w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), w3=(8, 1, 1, 1)
    )
    assert rc.prune(model, target="channels=1.0").model == model
    frozen = rc.analyze(model).frozen
    assert any("Depthwise" in f.reason for f in frozen)


def test_a_branch_may_return_what_it_stores(parsed):
    """Verification runs the network with its weights outside of bodies, but no body returns what stands outside of it."""
    text = """<ir_version: 8, opset_import: ["" : 18]> net (float[2,3,6,6] x, bool q) => (float[2,5,6,6] y, float[1] z) {
        s = If (q) <
            then_branch = t () => (float[1] u) <float[1] u = {2}> {}, else_branch = e () => (float[1] v) <float[1] v = {3}> {}
        > a = Conv (x, w1) y = Conv (a, w2) z = Neg (s) }"""
    model = parsed(text, w1=(8, 3, 1, 1), w2=(5, 8, 1, 1))
    result = rc.prune(model, target="channels=0.5", round_to=1)
    assert result.report.verify.status == "exact"
    assert [len(g.initializer) for a in result.model.graph.node[0].attribute for g in [a.g]] == [1, 1]
