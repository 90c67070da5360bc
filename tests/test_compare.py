"""Comparing a network with its pruned form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
import onnx_reconvene as rc
from onnx_reconvene import match
from onnx_reconvene.analysis import analyze
from onnx_reconvene.api import compare
from onnx_reconvene.cli import main
from onnx_reconvene.graph import from_model
from onnx_reconvene.notes import Notes


def drawn(name: str) -> onnx.ModelProto:
    """A standard network whose weights are all different, vectors too."""
    model, rng = models.build(name), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values + rng.uniform(0.01, 0.1, values.shape).astype(np.float32), tensor.name))
    return model


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "detector"])
@pytest.mark.parametrize("build", [models.build, drawn])
def test_what_was_cut_is_read_off_the_weights(name, build, monkeypatch):
    """Also where all scales and biases of a fresh network are alike."""
    before, noted = build(name), []
    monkeypatch.setattr("onnx_reconvene.api.forget", lambda graph: noted.append(graph.notes))
    after = rc.prune(before, target="channels=0.6", criterion="random", round_to=1, rectify="none", verify=False).model
    notes: Notes = noted[0]
    assert notes.keep is not None
    assert 0 < notes.keep.sum() < notes.keep.size
    found = match.match(analyze(from_model(before)), from_model(after))
    assert found is not None
    np.testing.assert_array_equal(found, notes.keep)


def test_sizes_and_equivalence_of_a_cut():
    before = models.build("resnet20")
    result = rc.prune(before, target="macs=0.5", rectify="none")
    found = compare(before, result.model)
    assert (found.before.macs, found.after.macs) == (result.report.before.macs, result.report.after.macs)
    assert found.after.params == sum(
        numpy_helper.to_array(t).size for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    )
    assert found.before.latency_ms > 0
    assert found.after.latency_ms > 0
    assert found.verdict.status == "exact"


def test_other_weights_are_no_cut():
    before = models.build("resnet20")
    other = rc.prune(models.build("resnet20", seed=1), target="macs=0.5", verify=False).model
    assert compare(before, other).verdict is None


def test_the_same_weights_in_another_computation_fail():
    """A pruned network whose ReLU became a Sigmoid has sliced weights, but does not compute the same."""
    before = models.build("resnet20")
    after = rc.prune(before, target="macs=0.5", rectify="none", verify=False).model
    next(node for node in after.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    with pytest.raises(rc.VerificationError, match="is off by"):
        compare(before, after)


def test_on_the_command_line(tmp_path, capsys):
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    onnx.save(models.build("resnet20"), a)
    assert main([a, b, "-q", "--rectify", "none"]) == 0
    assert main(["compare", a, b]) == 0
    printed = capsys.readouterr().out
    assert "latency, ms" in printed
    assert "verification: exact" in printed
    assert main(["compare", a, str(tmp_path / "none.onnx")]) == 3
