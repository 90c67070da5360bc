"""Comparing a network with its pruned form."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

import models
import onnx_reconvene as rc
from onnx_reconvene import match
from onnx_reconvene.analysis import analyze
from onnx_reconvene.api import compare
from onnx_reconvene.cli import main
from onnx_reconvene.cut import cut
from onnx_reconvene.graph import every_tensor, from_model
from onnx_reconvene.plan import Plan


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
def test_what_was_cut_is_read_off_the_weights(name, build):
    """Also where all scales and biases of a fresh network are alike."""
    before = build(name)
    result = rc.prune(before, target="channels=0.6", criterion="random", round_to=1, rectify="none", verify=False)
    analysis = analyze(from_model(before))
    keep = np.concatenate([np.ravel(result.plan.keep[group.name]) for group in analysis.groups])
    assert 0 < keep.sum() < keep.size
    np.testing.assert_array_equal(match.match(analysis, from_model(result.model)), keep)


LAYERS = """<ir_version: 9, opset_import: ["" : 18]> g (float[n,5] x) => (float[n,3] y)
    { a = Gemm (x, w1, b1) b = Relu (a) c = Gemm (b, w2, b2) d = Relu (c) e = Gemm (d, w3, b3) f = Relu (e)
    y = Gemm (f, w4, b4) }"""


def layers(values: Callable[[tuple[int, ...]], np.ndarray]) -> onnx.ModelProto:
    """Four layers whose weights a function of shapes makes."""
    model, widths = onnx.parser.parse_model(LAYERS), (5, 10, 9, 8, 3)
    for k, shape in enumerate(pairwise(widths), 1):
        for name, array in ((f"w{k}", values(shape)), (f"b{k}", values(shape[1:]))):
            model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def is_explained(before: onnx.ModelProto, **options: Any) -> bool:
    """Return True if all weights of a cut of this network are those of it with the units removed that are found to be."""
    after = rc.prune(before, rectify="none", round_to=1, verify=False, **options).model
    analysis = analyze(from_model(before))
    keep = match.match(analysis, from_model(after))
    if keep is None:
        return False
    cut(analysis, keep)
    found = {t.name: t.values for t in every_tensor(analysis.graph).values() if isinstance(t, gs.Constant)}
    return all(np.array_equal(found[t.name], numpy_helper.to_array(t)) for t in after.graph.initializer)


def test_which_of_equal_rows_is_left_other_weights_tell():
    """Units 2 and 5 of the first layer compute the same, as do 1 and 4 of the second, which is all zeros."""
    rng = np.random.default_rng(0)
    before = layers(rng.standard_normal)
    values = {t.name: numpy_helper.to_array(t).copy() for t in before.graph.initializer}
    for name, one, other, factor in (("w1", 2, 5, 1), ("b1", 2, 5, 1), ("w2", 1, 4, 0), ("b2", 1, 4, 0)):
        values[name][..., one] *= factor
        values[name][..., other] = values[name][..., one]
    for tensor in before.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    kept = {"a": (10, [0, 1, 5, 6, 7]), "c": (9, [0, 4, 5, 8]), "e": (8, range(8))}
    plan = Plan({}, {group: np.isin(np.arange(width), stay) for group, (width, stay) in kept.items()})
    after = rc.prune(before, from_plan=plan, rectify="none").model
    found = match.match(analyze(from_model(before)), from_model(after))
    np.testing.assert_array_equal(found, np.concatenate(list(plan.keep.values())))
    assert compare(before, after).verdict.status == "exact"


@pytest.mark.parametrize("seed", [*range(8), 97, 107, 116, 284])
def test_cuts_of_networks_of_equal_rows(seed):
    """Of zeros and ones alone, so that what is left shows by trying only."""
    rng = np.random.default_rng(seed)
    assert is_explained(layers(lambda shape: rng.integers(0, 2, shape)), target="channels=0.5", criterion="random", seed=seed)


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


PRODUCT = '<ir_version: 9, opset_import: ["" : 18]> g ({x}) => ({y}) {{ h = Gemm ({of}, w1) r = Relu (h) y = Gemm (r, w2) }}'
PLAIN = ("float[n,5] x", "x", "float[n,3] y")


@pytest.mark.parametrize(
    ("x", "of", "y", "complaint"),
    [
        ("float[n,5] z", "z", "float[n,3] y", "different inputs ('x' float32 ?x5; 'z' float32 ?x5)"),
        ("float[2,5] x", "x", "float[n,3] y", "different inputs ('x' float32 ?x5; 'x' float32 2x5)"),
        ("float[n,5] x, float s", "x", "float[n,3] y", "different inputs ('x' float32 ?x5; 'x' float32 ?x5, 's' float32 scalar)"),
        ("float[n,5] x", "x", "float[n,3] y, float[n,9] r", "different outputs ('y'; 'y', 'r')"),
    ],
)
def test_other_inputs_or_outputs(file, parsed, capsys, x, of, y, complaint):
    networks = (parsed(PRODUCT.format(x=i, of=read, y=o), w1=(5, 9), w2=(9, 3)) for i, read, o in (PLAIN, (x, of, y)))
    a, b = (str(file(model, name)) for model, name in zip(networks, ("a.onnx", "b.onnx"), strict=True))
    assert main(["compare", a, b]) == 0
    printed = capsys.readouterr().out
    assert "latency, ms" in printed
    assert printed.splitlines()[-1] == f"A and B have {complaint}, so nothing can be said of equivalence"


def test_sizes_of_networks_that_onnxruntime_does_not_run(file, parsed, capsys):
    header = '<ir_version: 9, opset_import: ["" : 18]> '
    text = "g (double[n,3,4,4] x) => (double[n,5,4,4] y) { a = Conv (x, w1) y = Conv (a, w2) }"
    model = parsed(header + text, w1=(8, 3, 1, 1), w2=(5, 8, 1, 1))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    path = str(file(model))
    assert main(["compare", path, path]) == 0
    printed = capsys.readouterr().out
    assert "MACs" in printed
    assert "latency: not measured (onnxruntime does not run what is to be measured" in printed
    assert "verification: skipped (onnxruntime does not load the original" in printed
