"""What is left open follows from the network: untrained ones are cut by Reconvene and drawn anew, trained ones keep weights."""

import json

import numpy as np
import onnx
from onnx import numpy_helper

import onnx_reconvene as rc


def trained(model):
    """Return a network with weights a little off where they started."""
    copy, rng = onnx.ModelProto(), np.random.default_rng(0)
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        moved = values + np.abs(0.01 * rng.standard_normal(values.shape)).astype(values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return copy


def weights(model):
    """Return the values of all initializers."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_untrained_network(network):
    result = rc.prune(network("resnet20"))
    report = result.report
    assert (report.stage, report.criterion, report.allocate, report.rectify.mode) == (
        "initialized",
        "synflow",
        "reconvene",
        "reinit",
    )
    assert report.after.macs <= report.before.macs / 2
    before, after = weights(network("resnet20")), weights(result.model)
    changed = [name for name in before if before[name].ndim == 4 and after[name].shape != before[name].shape]
    assert changed
    for name in changed:  # nothing of the old weights is left but what chance draws twice
        assert np.isin(after[name], before[name]).mean() < 0.01


def test_trained_network(network):
    model = trained(network("resnet20"))
    result = rc.prune(model)
    report = result.report
    assert (report.stage, report.criterion, report.allocate, report.rectify.mode) == ("trained", "l1", "uniform", "none")
    before, after = weights(model), weights(result.model)
    assert any(after[name].shape != before[name].shape for name in before)
    assert all(np.isin(after[name], before[name]).all() for name in before)


def test_what_is_given_stays(network):
    report = rc.prune(network("resnet20"), criterion="l2", rectify="none", verify=False).report
    assert (report.criterion, report.allocate, report.rectify.mode) == ("l2", "reconvene", "none")
    report = rc.prune(network("resnet20"), allocate="flat", verify=False).report
    assert (report.criterion, report.allocate, report.rectify.mode) == ("synflow", "flat", "reinit")


def test_report_says_what_was_chosen(run, file, tmp_path):
    assert run(file(), tmp_path / "out.onnx", "--report", tmp_path / "report.json").status == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert (found["criterion"], found["allocate"], found["rectify"]["mode"]) == ("synflow", "reconvene", "reinit")
