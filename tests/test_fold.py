"""Weights that are computed from constants are pruned like those that are stored, and evaluated when they are looked at."""

import numpy as np
import pytest
from onnx import ModelProto
from onnx.numpy_helper import to_array

import onnx_reconvene as rc
from onnx_reconvene import fold
from onnx_reconvene.bridges import open_model
from onnx_reconvene.passes import Load
from onnx_reconvene.shapes import EvaluationError
from tests.nets.net import net, sizes
from tests.oracle import run

STANDARDIZED = (
    f"{sizes('axes', 1, 2, 3)} mean = ReduceMean(u, axes) centred = Sub(u, mean) squares = Mul(centred, centred) "
    "variance = ReduceMean(squares, axes) bounded = Max(variance, least) deviation = Sqrt(bounded) inverse = Reciprocal(deviation) "
    "scale = Mul(inverse, gain) w = Mul(centred, scale) a = Conv(x, w) b = Relu(a) y = Conv(b, v)"
)
BLENDED = (
    "share = Softmax(logits) z = Constant<value_int = 0>() first = Gather(share, z) scaled = Mul(u, first) "
    "rounded = Round(scaled) smooth = Gelu(rounded) w = Add(smooth, u) a = Conv(x, w) b = Relu(a) y = Conv(b, v)"
)
WEIGHTS = {"u": (8, 3, 3, 3), "least": (), "gain": (8, 1, 1, 1), "logits": (4,), "v": (5, 8, 1, 1)}


def model(body: str, inputs: str = "float[2,3,6,6] x") -> ModelProto:
    weights = {name: shape for name, shape in WEIGHTS.items() if f"{name}," in body or f"{name})" in body}
    return net(body, "", inputs, opset=20, **weights).model


@pytest.mark.parametrize("body", [STANDARDIZED, BLENDED], ids=["standardized", "blended"])
def test_computed_weights_are_pruned_as_if_they_were_stored(body: str) -> None:
    before = model(body)
    (w,) = run(model(body.split(" a = ")[0].replace("w = ", "y = "), ""), {})
    result = rc.prune(before, target="channels=0.5", criterion="l2", allocate="uniform", round_to=1, rectify="none")
    assert result.report.verify.status == "exact"
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Relu", "Conv"]
    reader = to_array(next(t for t in before.graph.initializer if t.name == "v"))
    score = (w**2).sum((1, 2, 3)) + (reader**2).sum((0, 2, 3))
    kept = next(to_array(t) for t in result.model.graph.initializer if t.dims[1:] == [3, 3, 3])
    np.testing.assert_allclose(kept, w[np.sort(np.argsort(score)[4:])], rtol=1e-5, atol=1e-6)


def test_the_analysis_evaluates_no_weight() -> None:
    graph, _ = open_model(model(STANDARDIZED))
    Load().run(graph)
    (conv,) = [node for node in graph.nodes if node.op == "Conv" and node.inputs[0] is graph.inputs[0]]
    assert isinstance(conv.inputs[1]._values, fold.Computed)
    assert conv.inputs[1].shape == [8, 3, 3, 3]


def test_random_weights_stay() -> None:
    body = "r = RandomNormal<shape = [8,3,1,1], seed = 1.0>() w = Abs(r) a = Conv(x, w) y = Conv(a, v)"
    assert not rc.analyze(model(body)).groups


def test_weights_that_cannot_be_evaluated_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: object) -> None:
        raise EvaluationError("Mul 'n' cannot be evaluated")

    monkeypatch.setattr(fold, "evaluate", evaluate)
    with pytest.raises(rc.ModelError, match="the weight 'w' is computed from constants, but Mul 'n' cannot be evaluated"):
        rc.prune(model(STANDARDIZED), criterion="l2")
