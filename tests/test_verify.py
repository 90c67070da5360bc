"""What verification sees: faults that no output shows, rounding that is no fault, and networks of which nothing can be said."""

from __future__ import annotations

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import onnx_reconvene as rc
from onnx_reconvene.analysis import analyze
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.process import PROGRAMS
from onnx_reconvene.reference import reference, store
from tests.conftest import ZOO
from tests.nets.net import net, sizes
from tests.oracle import run

OPTIONS = {"target": "channels=0.5", "criterion": "l2", "allocate": "uniform", "round_to": 1, "rectify": "none"}
HEAD = '<ir_version: 9, opset_import: ["" : 18]> '


def network(text, bias=None, **shapes):
    """Return a network of random weights; bias gives initializers their value."""
    model, rng = onnx.parser.parse_model(HEAD + text), np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()} | (bias or {})
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights.items())
    return model


def pruned(model):
    """Return the verdict on a cut of model."""
    return rc.prune(model, **OPTIONS).report.verify


def break_cuts(monkeypatch, tensor, change):
    """Change a tensor of every pruned network by a function."""

    def faulty(analysis, keep):
        cut(analysis, keep)
        tensors = [item for part in [analysis.graph, *_bodies(analysis.graph)] for item in part.tensors().items()]
        constant = next(t for name, t in tensors if name.startswith(tensor) and len(t.shape) > 1)
        constant.values = np.ascontiguousarray(change(np.array(constant.values)))

    monkeypatch.setattr("onnx_reconvene.passes.cut.cut", faulty)


def _bodies(graph):
    return [value for node in graph.nodes for value in node.attrs.values() if hasattr(value, "nodes")]


def rolled(weight):
    """Return a matrix that reads the wrong channels."""
    return np.roll(weight, 1, 0)


SATURATED = network(
    "g (float[n,8] x) => (float[n,4] y) { h = MatMul (x, w1) r = Relu (h) a = MatMul (r, w2) b = Add (a, low) y = Sigmoid (b) }",
    {"low": [-200] * 4},
    w1=(8, 32),
    w2=(32, 4),
)
SPIKING = network(
    """g (float[n,8] x) => (float[n,4] y) {
    c1 = MatMul (x, w1) s1 = Greater (c1, one) f1 = Cast<to = 1> (s1) d1 = Sub (c1, f1)
    c2 = Add (d1, c1) s2 = Greater (c2, one) f2 = Cast<to = 1> (s2)
    f = Add (f1, f2) o = MatMul (f, w2) t = Greater (o, one) y = Cast<to = 1> (t) }""",
    {"one": 1},
    w1=(8, 32),
    w2=(32, 4),
)


def quantized(tmp_path):
    """Return a network of two quantized layers."""
    model = network(
        "g (float[n,8] x) => (float[n,4] y) { h = MatMul (x, w1) r = Relu (h) y = MatMul (r, w2) }", w1=(8, 32), w2=(32, 4)
    )
    quantize_dynamic(model, tmp_path / "q.onnx", weight_type=QuantType.QInt8)
    return onnx.load(tmp_path / "q.onnx")


@pytest.mark.parametrize("kind", ["saturated", "spiking", "quantized"])
def test_faults_show_inside_where_outputs_show_little(monkeypatch, tmp_path, kind):
    model = {"saturated": SATURATED, "spiking": SPIKING}.get(kind) or quantized(tmp_path)
    assert pruned(model).status == ("shape-only" if kind == "quantized" else "exact")
    break_cuts(monkeypatch, "w2", rolled)
    with pytest.raises(rc.VerificationError, match="is off by"):
        pruned(model)


@pytest.mark.parametrize(("name", "status"), [("lstm_dyn", "shape-only"), ("saturated", "exact")])
def test_cases(name, status):
    """Among them constants whose sizes are free: initial states of as many samples as there are."""
    path = ZOO.parent / "cases" / f"{name}.onnx"
    if not path.exists():
        pytest.skip("no such case here")
    assert pruned(onnx.load(path)).status == status


def test_no_power_is_no_proof():
    """No input brings the removed channels above zero."""
    text = "g (float[n,8] x) => (float[n,4] y) { h = MatMul (x, w1) a = Add (h, low) r = Relu (a) y = MatMul (r, w2) }"
    verdict = pruned(network(text, {"low": [-1e9] * 32}, w1=(8, 32), w2=(32, 4)))
    assert (verdict.status, verdict.reason) == ("unproven", "no fault in 'h' would have shown on any inputs that were tried")


def test_channels_that_only_large_inputs_reach_are_tried_there():
    text = "g (float[n,8] x) => (float[n,4] y) { h = MatMul (x, w1) a = Add (h, low) r = Relu (a) y = MatMul (r, w2) }"
    assert pruned(network(text, {"low": [-30] * 32}, w1=(8, 32), w2=(32, 4))).status == "exact"


SMALL = (
    "g (float[n,64] x) => (float[n,1024] y) { h = MatMul (x, w1) r = Relu (h) a = MatMul (r, w2) b = Add (a, low) y = Sigmoid (b) }"
)


def test_rounding_that_an_output_enlarges_is_no_fault():
    """onnxruntime computes a sigmoid as a half and something, so that a small one is rounded in few places."""
    verdict = pruned(network(SMALL, {"low": [-14] * 1024}, w1=(64, 512), w2=(512, 1024)))
    assert verdict.status == "exact"
    assert verdict.max_rel_err < 1e-4
    assert "as it is by rounding alone" in verdict.reason


BRANCHES = """g (KIND mode, float[n,8] x) => (float[n,4] y) {
    h = MatMul (x, w1) r = Relu (h) COND
    y = If (c) < then_branch = a () => (float[n,4] p) { p = MatMul (r, w2) },
                 else_branch = b () => (float[n,4] q) { s = Neg (r) q = MatMul (s, w3) } > }"""


@pytest.mark.parametrize(("kind", "condition"), [("bool", "c = Not (mode)"), ("int64", "c = Equal (mode, rate)")])
@pytest.mark.parametrize("weight", ["w2", "w3"])
def test_both_branches_are_tried(monkeypatch, kind, condition, weight):
    model = network(BRANCHES.replace("KIND", kind).replace("COND", condition), w1=(8, 32), w2=(32, 4), w3=(32, 4))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(16000), "rate"))
    assert pruned(model).status == "exact"
    break_cuts(monkeypatch, weight, rolled)
    with pytest.raises(rc.VerificationError, match="is off by"):
        pruned(model)


def test_given_values_are_those_compared():
    """Few others leave anything to take a mean of."""
    text = """g (int64[1] count, float[n,8] x) => (float[n,4] y) {
        s = Slice (x, zero, count, one) m = ReduceMean<keepdims = 1> (s, one) c = Mul (x, m)
        h = MatMul (c, w1) y = MatMul (h, w2) }"""
    model = network(text, w1=(8, 32), w2=(32, 4))
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray([n]), name) for n, name in enumerate(("zero", "one")))
    assert rc.prune(model, **OPTIONS, input_value={"count": 8}).report.verify.status == "exact"


def break_reference(monkeypatch):
    """Let what a cut is compared with be no network that onnxruntime loads."""

    def faulty(analysis, keep):
        against = reference(analysis, keep)
        against.source.model.graph.node[0].CopyFrom(helper.make_node("Unknown", ["x"], ["h"]))
        return against

    monkeypatch.setattr("onnx_reconvene.passes.cut.reference", faulty)


TWO_LAYERS = network("g (float[n,8] x) => (float[n,4] y) { h = MatMul (x, w1) y = MatMul (h, w2) }", w1=(8, 32), w2=(32, 4))


def test_a_reference_that_does_not_load_is_no_excuse(monkeypatch):
    break_reference(monkeypatch)
    verdict = pruned(TWO_LAYERS)
    assert verdict.status == "unproven"
    assert verdict.reason.startswith("both networks run, but not what is to be compared with: onnxruntime does not load")
    break_cuts(monkeypatch, "w2", lambda w: w[1:])
    with pytest.raises(rc.VerificationError, match="onnxruntime does load the original"):
        pruned(TWO_LAYERS)


# --- the process that runs models ------------------------------------------------------------------------------------

WAITING = """
import time
from onnx_reconvene.process import started
with started("compare.py") as program:
    print(program.pid, flush=True)
    time.sleep(60)
"""


def is_running(pid):
    """Return True if a process has not ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_programs_end_with_their_parent():
    parent = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    while "onnxruntime" not in pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8"):  # it is within limits by then
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("program", "seconds", "ends"),
    [("print(len(bytearray(2**31)))", 60, "MemoryError"), ("while True: pass", 1, f"{-signal.SIGXCPU}")],
)
def test_programs_have_limits(tmp_path, program, seconds, ends):
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    words = [str(word) for word in (os.getpid(), 2**30, seconds, tmp_path / "program.py")]
    ran = subprocess.run(
        [sys.executable, os.path.join(PROGRAMS, "limited.py"), *words], capture_output=True, text=True, check=False
    )
    assert ends in (str(ran.returncode), *ran.stderr.splitlines())


def test_a_limit_that_strikes_is_said(monkeypatch):
    monkeypatch.setattr("onnx_reconvene.verify.finished", lambda *_: subprocess.CompletedProcess([], -signal.SIGXCPU, "", ""))
    with pytest.raises(rc.VerificationError, match="no result within its processor time; --no-verify leaves it out"):
        pruned(TWO_LAYERS)


def test_declared_shapes_of_constants_may_be_symbols():
    text = """net (float[4,2,6] x) => (float[2,4] y) <float[A,B,C] h> {
        size = Constant <value_ints=[2,2,8]> () z = ConstantOfShape (size) h, g = Split <axis=0, num_outputs=2> (z)
        a = MatMul (x, w1) s, t = LSTM <hidden_size=8> (a, wx, wh, , , h, g) first = Constant <value_ints=[0]> ()
        q = Squeeze (t, first) y = Gemm (q, w2) }"""
    assert pruned(network(text, w1=(6, 8), wx=(1, 32, 8), wh=(1, 32, 8), w2=(8, 4))).status == "exact"


def test_statistics_are_masked_at_any_size_of_the_image(tmp_path):
    """Where channels and positions are one axis, the mask is as long as the image is large."""
    body = (
        f"c = Conv(x, w) {sizes('g', 0, 4, -1)} r = Reshape(c, g) i = InstanceNormalization(r, s, b) "
        "n = Shape(c) t = Reshape(i, n) m = Mul(t, k) y = Conv(m, v)"
    )
    weights = {"w": (16, 3, 1, 1), "v": (5, 16, 1, 1), "s": (4,), "b": (4,), "k": (16, 1, 1)}
    graph = from_model(net(body, "", "float[N,3,H,W] x", "float[N,5,H,W] y", **weights).model)
    analysis = analyze(graph, {"x": (1, 3, 6, 6)})
    keep = np.ones(analysis.width, bool)
    for group in analysis.groups:
        for block, gone in zip(group.by_block(keep), itertools.cycle(range(group.width)), strict=False):
            block[gone] = False
    against = reference(analysis, keep)
    expected = onnx.load(store(against.source, str(tmp_path), "expected", against.zero, against.masked))
    cut(analysis, keep)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 10), np.float32)}
    (wanted,), (result,) = run(expected, feeds), run(to_model(graph), feeds)
    np.testing.assert_allclose(result, wanted, atol=1e-5)
