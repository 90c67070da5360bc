"""Attention made of matrix products: heads go whole, or every head loses dimensions of its own, as many as any other."""

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantFormat

import onnx_reconvene as rc
from onnx_reconvene.analysis import analyze
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.reference import reference
from onnx_reconvene.verify import verify
from tests.nets.net import net
from tests.oracle import random_mask
from tests.test_forms import static

PROJECTED = " ".join(f"{t}1 = MatMul(x, w{t}) {t}2 = Reshape({t}1, n) {t} = Transpose<perm = [0,2,1,3]>({t}2)" for t in "qkv")
ATTENTION = (
    f"n = Constant<value_ints = [0,0,2,8]>() {PROJECTED} kt = Transpose<perm = [0,1,3,2]>(k) "
    "{scale} e = MatMul({q}, kt) p = Softmax(e) h1 = MatMul(p, v) h2 = Transpose<perm = [0,2,1,3]>(h1) "
    "m = Constant<value_ints = [0,0,-1]>() h = Reshape(h2, m) y = MatMul(h, wo)"
)
WEIGHTS = {"inputs": "float[N,5,6] x", "wq": (6, 16), "wk": (6, 16), "wv": (6, 16), "wo": (16, 4)}
PLAIN = net(ATTENTION.format(scale="", q="q"), "", **WEIGHTS).model
SCALED = net(ATTENTION.format(scale="c = Constant<value_float = 0.35>() r = Mul(q, c)", q="r"), "", **WEIGHTS).model


def groups(model: onnx.ModelProto, attention: str) -> set[tuple[int, int, frozenset[tuple[str, int]]]]:
    found = analyze(from_model(model), attention=attention).groups
    return {(group.blocks, group.width, frozenset((s.tensor, s.axis) for s in group.sites)) for group in found}


@pytest.mark.parametrize("model", [PLAIN, SCALED], ids=["plain", "scaled"])
def test_heads_go_whole(model):
    whole = {("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)}
    assert groups(model, "heads") == {(1, 2, frozenset(whole))}


@pytest.mark.parametrize("model", [PLAIN, SCALED], ids=["plain", "scaled"])
def test_every_head_loses_dimensions_of_its_own(model):
    queries, values = {("wq", 1), ("wk", 1)}, {("wv", 1), ("wo", 0)}
    assert groups(model, "dims") == {(2, 8, frozenset(queries)), (2, 8, frozenset(values))}


@pytest.mark.parametrize("model", [PLAIN, SCALED], ids=["plain", "scaled"])
@pytest.mark.parametrize("attention", ["heads", "dims"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_computes_as_if_the_rest_were_masked(model, attention, seed):
    graph = from_model(model)
    analysis = analyze(graph, attention=attention)
    keep = random_mask(analysis, np.random.default_rng(seed))
    against = reference(analysis, keep)
    cut(analysis, keep)
    assert not keep.all()
    assert verify(graph, against).max_rel_err < 1e-5
    onnx.checker.check_model(to_model(graph), full_check=True)


def test_the_best_dimensions_of_each_head_are_kept():
    graph = from_model(PLAIN)
    values = graph.tensors()["wv"].values
    values[:] = 0.1
    values[:, [0, 1, 2, 12, 13, 14]] = 1.0
    result = rc.prune(to_model(graph), target="channels=0.38", attention="dims", criterion="l2", round_to=1, verify=False)
    left = next(t for t in result.model.graph.initializer if t.name == "wv")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(left), np.ones((6, 6), np.float32))


def test_quantized_heads_lose_the_same_dimensions(tmp_path):
    """Zeros stand for other numbers there, so that no head can lose dimensions of its own."""
    graph = from_model(static(QuantFormat.QOperator)(PLAIN, tmp_path / "model.onnx"))
    analysis = analyze(graph, attention="dims")
    assert {(group.blocks, group.width) for group in analysis.groups} == {(1, 8)}
    keep = random_mask(analysis, np.random.default_rng(0))
    against = reference(analysis, keep)
    cut(analysis, keep)
    assert verify(graph, against).status == "shape-only"


def test_queries_keys_and_values_packed_head_by_head_lose_heads(parsed):
    """As in GPT-NeoX: each head's three lie side by side."""
    text = """<ir_version: 9, opset_import: ["" : 18]> net (float[1,5,16] x) => (float[1,5,c] y) {
        all = MatMul (x, w1) shape = Constant <value_ints = [1, 5, 4, 12]> () apart = Reshape (all, shape)
        heads = Transpose <perm = [0, 2, 1, 3]> (apart) q, k, v = Split <axis = 3, num_outputs = 3> (heads)
        turned = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, turned) a = Softmax (s) o = MatMul (a, v)
        back = Transpose <perm = [0, 2, 1, 3]> (o) flat = Constant <value_ints = [1, 5, -1]> () joined = Reshape (back, flat)
        y = MatMul (joined, w2) }"""
    cut = rc.prune(parsed(text, w1=(16, 48), w2=(16, 8)), target="channels=0.5", round_to=1)
    assert cut.report.verify.status == "exact"
    assert [(group.width, group.kept) for group in cut.report.groups] == [(4, 2)]
    assert cut.report.after.params == cut.report.before.params / 2
