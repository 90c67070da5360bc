"""Values given for inputs of one number decide on shapes, costs, branches and data, and on nothing that is cut."""

import numpy as np
import pytest
from onnx import ModelProto

import onnx_reconvene as rc
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.passes import Load, Score, Sequential
from tests.nets.net import net, sizes
from tests.oracle import run

BRANCHES = (
    "a = Conv(x, w1) r = Relu(a) rate = Constant<value_int = 16000>() fast = Equal(sr, rate) "
    "h = If(fast) <then_branch = t () => (float[2,6,8,8] p) { p = Conv(r, w2) }, "
    "else_branch = e () => (float[2,6,8,8] q) { c = Conv(r, w3) d = Relu(c) q = Conv(d, w4) }> y = Conv(h, w5)"
)
WEIGHTS = {"w1": (8, 3, 1, 1), "w2": (6, 8, 1, 1), "w3": (7, 8, 1, 1), "w4": (6, 7, 1, 1), "w5": (5, 6, 1, 1)}
POSITIONS = 2 * 8 * 8


@pytest.fixture
def model() -> ModelProto:
    return net(BRANCHES, "", "float[2,3,8,8] x, int64 sr", "float[2,5,8,8] y", **WEIGHTS).model


def scores(model: ModelProto, criterion: str, values: dict[str, float]) -> dict[str, np.ndarray]:
    """Return the scores of the units of each group."""
    graph, _ = open_model(model)
    calibration = Calibration(np.random.default_rng(0).random((4, 3, 8, 8), np.float32), loss="squared-norm")
    Sequential(Load(input_values=values), Score(criterion, calibration=calibration)).run(graph)
    return {group.name: graph.notes.scores[group.units] for group in graph.notes.analysis.groups}


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_gradients_pass_the_branch_that_is_taken(criterion: str) -> None:
    branched, plain = (
        net(body, "", inputs, "float[N,5,8,8] y", **WEIGHTS).model
        for body, inputs in [
            (BRANCHES.replace("[2,", "[N,"), "float[N,3,8,8] x, int64 sr"),
            ("a = Conv(x, w1) r = Relu(a) p = Conv(r, w2) y = Conv(p, w5)", "float[N,3,8,8] x"),
        ]
    )
    expected, found = scores(plain, criterion, {}), scores(branched, criterion, {"sr": 16000})
    for group, score in expected.items():  # of which the branch holds a part
        assert (score > 0).any()
        np.testing.assert_allclose(found[group] / found[group].max(), score / score.max(), rtol=1e-5)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_costs_are_those_of_the_branch_that_is_taken(model: ModelProto, rate: int) -> None:
    result = rc.prune(model, target="macs=0.5", criterion="l2", allocate="uniform", round_to=1, input_value={"sr": rate})
    branch = 8 * 6 if rate == 16000 else 8 * 7 + 7 * 6
    assert result.report.before.macs == POSITIONS * (3 * 8 + branch + 6 * 5)
    assert result.report.verify.status == "exact"
    x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    for sr in (16000, 8000):
        (y,) = run(result.model, {"x": x, "sr": np.asarray(sr)})
        assert y.shape == (2, 5, 8, 8)


def test_both_branches_lose_the_channels_that_they_read(model: ModelProto) -> None:
    result = rc.prune(model, target="channels=0.5", criterion="l2", allocate="uniform", round_to=1, input_value={"sr": 16000})
    shapes = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    assert (shapes["w2"][1], shapes["w3"][1]) == (4, 4)
    assert shapes["w2"][0] == shapes["w4"][0] == shapes["w5"][1] == 3


def test_samples_need_not_bring_a_value_that_is_given(model: ModelProto) -> None:
    data = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    kept = {"target": "channels=0.5", "criterion": "activation-mean", "repair": "bn", "round_to": 1}
    result = rc.prune(model, data=data, input_value={"sr": 8000}, **kept)
    assert result.report.data["samples"] == 4
    with pytest.raises(rc.UsageError, match="the network has inputs x, sr"):
        rc.prune(model, data=data, **kept)


SCALED = (
    f"a = Conv(x, w1) r = Relu(a) {sizes('zero', 0)} s = Shape(r) {sizes('two', 2)} head = Slice(s, zero, two) "
    'k = Unsqueeze(n, zero) m = Concat<axis = 0>(head, k, k) h = Resize<mode = "nearest">(r, , , m) y = Conv(h, w5)'
)


def test_sizes_follow_a_given_value() -> None:
    model = net(SCALED, "", "float[2,3,8,8] x, int64 n", "float[2,5,H,W] y", w1=(6, 3, 1, 1), w5=(5, 6, 1, 1)).model
    result = rc.prune(model, target="channels=0.5", criterion="l2", round_to=1, input_value={"n": 16})
    assert result.report.before.macs == 2 * (64 * 3 * 6 + 256 * 6 * 5)
    assert result.report.verify.status == "exact"
    x = np.ones((2, 3, 8, 8), np.float32)
    for size in (16, 4):
        (y,) = run(result.model, {"x": x, "n": np.asarray(size)})
        assert y.shape == (2, 5, size, size)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"rate": 1}, "--input-value rate: the network has no such input; it has x, sr"),
        ({"x": 1}, "--input-value x: the input takes 2x3x8x8 numbers"),
        ({"sr": 0.5}, "--input-value sr=0.5: the input is of type int64"),
        ({"sr": "fast"}, "expected a number by name"),
    ],
)
def test_values_that_do_not_fit_are_refused(model: ModelProto, value: dict[str, float], text: str) -> None:
    with pytest.raises(rc.UsageError, match=text):
        rc.prune(model, input_value=value)


def test_the_command_takes_values(command, file, model: ModelProto) -> None:
    counted = command("inspect", file(model), "--input-value", "sr=16000")
    assert f"{POSITIONS * (3 * 8 + 8 * 6 + 6 * 5):,} MACs" in counted.out
