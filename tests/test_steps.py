"""Targets in steps, and single weights: what is gone counts as gone, and the targets hold all the same."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.bridges import open_model
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.passes import Allocate, Cut, Load, Score, Sequential
from onnx_reconvene.passes.allocate import _elements
from onnx_reconvene.saliency import Context, criteria, layer_weights
from onnx_reconvene.saliency.masking import without


def shapes(model):
    """Return the shape of each initializer."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "fpgm", "bn-scale"])
def test_scores_without_units_are_those_of_the_network_cut(network, criterion):
    model = network("resnet20")
    result = rc.prune(model, target="macs=0.5", criterion="random", verify=False, round_to=1, rectify="none")
    before, after = rc.analyze(model), rc.analyze(result.model)
    assert [g.name for g in before.groups] == [g.name for g in after.groups]
    keep = np.concatenate([result.plan.keep[group.name] for group in before.groups])
    with without(before, keep):
        masked = criteria[criterion].score(before, Context())[keep]
    alone = criteria[criterion].score(after, Context())
    np.testing.assert_allclose(masked, alone, rtol=1e-3)


def test_weights_come_back(network):
    analysis = rc.analyze(network("resnet20"))
    before = {name: tensor.values.copy() for name, tensor in analysis.flow.weights.items()}
    with without(analysis, np.zeros(analysis.width, bool)):
        assert not any(analysis.flow.weights[site.tensor].values.any() for site in analysis.groups[1].sites)
    for name, tensor in analysis.flow.weights.items():
        np.testing.assert_array_equal(tensor.values, before[name])


@pytest.mark.parametrize("allocate", ["uniform", "global", "reconvene"])
def test_targets_hold_after_steps_and_nothing_comes_back(network, allocate):
    graph_passes = [Load()]
    keeps = []
    for k in (1, 2, 3):
        graph_passes += [Score("synflow"), Allocate("macs=0.4", allocate, round_to=1, progress=k / 3)]
    model = network("resnet20")
    for step in graph_passes:
        model = step(model).model
        keeps += [step] if isinstance(step, Allocate) else []
    result = rc.prune(network("resnet20"), target="macs=0.4", criterion="synflow", allocate=allocate, steps=3, round_to=1)
    assert result.report.after.macs <= 0.4 * result.report.before.macs
    assert result.report.verify.status == "exact"
    assert shapes(Sequential(Cut())(model).model) == shapes(result.model)


@pytest.mark.parametrize("allocate", ["global", "latency", "reconvene"])
def test_what_units_that_are_gone_score_is_no_matter(network, allocate):
    def kept(score_of_gone):
        graph, _ = open_model(network("resnet20"))
        for step in [Load(), Score("l2"), Allocate("macs=0.8", "global", round_to=1)]:
            step.run(graph)
        notes = notes_of(graph)
        notes.scores = np.where(notes.keep, notes.scores, score_of_gone)
        Allocate("macs=0.4", allocate, round_to=1).run(graph)
        return notes.keep

    np.testing.assert_array_equal(kept(0.0), kept(1e6))


def test_steps_change_what_is_kept(network):
    once, often = (rc.prune(network("resnet20"), criterion="synflow", steps=n, verify=False) for n in (1, 4))
    assert any((once.plan.keep[name] != often.plan.keep[name]).any() for name in once.plan.keep)


@pytest.mark.parametrize(("kind", "share"), [("params", 0.25), ("params", 1 / 16.21), ("macs", 0.3)])
@pytest.mark.parametrize("criterion", ["l1", "synflow"])
def test_single_weights_hit_the_target(network, kind, share, criterion):
    model = network("resnet20")
    result = rc.prune(model, target=f"{kind}={share}", criterion=criterion, granularity="weight")
    before, after = getattr(result.report.before, kind), getattr(result.report.after, kind)
    assert 0.98 * share * before <= after <= share * before
    assert shapes(result.model) == shapes(model)
    zeros = sum(int((numpy_helper.to_array(t) == 0).sum()) for t in result.model.graph.initializer)
    zeros -= sum(int((numpy_helper.to_array(t) == 0).sum()) for t in model.graph.initializer)
    assert result.report.before.params - zeros == pytest.approx(result.report.after.params, abs=len(shapes(model)))


def test_weights_that_stay_are_untouched_and_score_most(network):
    model = network("resnet20")
    after = rc.prune(model, target="params=0.5", criterion="l1", granularity="weight").model
    old, new = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, after))
    for name in [name for name, values in old.items() if values.ndim == 4]:
        stays = new[name] != 0
        np.testing.assert_array_equal(new[name][stays], old[name][stays])
        assert np.abs(old[name][~stays]).max(initial=0) <= np.abs(old[name][stays]).min()
    feeds = {"input": np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)}
    session = ort.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, feeds)[0]).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"target": "channels=0.5"}, "channels"),
        ({"criterion": "fpgm"}, "fpgm"),
        ({"steps": 2}, "goes without --steps"),
        ({"allocate": "flat"}, "goes without --allocate"),
        ({"ignore": ["*"], "only": ["conv1"]}, "goes without --ignore, --only"),
        ({"keep": {"conv1": 0.5}}, "goes without --keep"),
        ({"rectify": "reinit"}, "goes without --rectify"),
        ({"round_to": 8, "min_width": 4}, "goes without --round-to, --min-width"),
        ({"granularity": "filter"}, "filter"),
    ],
)
def test_single_weights_cannot_do_everything(network, options, named):
    with pytest.raises(rc.UsageError, match=named):
        rc.prune(network("resnet20"), **{"granularity": "weight", **options})


def test_more_zeros_than_weights_is_out_of_reach(network):
    with pytest.raises(rc.TargetError, match="params"):
        rc.prune(network("resnet20"), target="params=0.001", granularity="weight")


def test_no_steps_is_wrong_usage(network):
    with pytest.raises(rc.UsageError, match="--steps 0"):
        rc.prune(network("resnet20"), steps=0)


def test_passes_one_by_one_as_models(network):
    model = network("resnet20")
    for step in (Load(), Score("l1"), Allocate("macs=0.7"), Score("l1"), Allocate("macs=0.5"), Cut()):
        model = step(model).model
    assert isinstance(model, onnx.ModelProto)
    whole = rc.analyze(network("resnet20"))
    assert rc.analyze(model).width < whole.width


@pytest.mark.parametrize("criterion", ["l1", "synflow"])
def test_densities_are_those_of_what_is_left(network, criterion):
    graph, _ = open_model(network("resnet20"))
    for step in (Load(), Score(criterion), Allocate("macs=0.5", progress=0.5)):
        step.run(graph)
    keep = notes_of(graph).keep
    found = _elements(graph).by_weight
    for name, (_, axes) in layer_weights(analysis_of(graph)).items():
        for units in axes.values():
            gone = np.broadcast_to((units >= 0) & ~np.append(keep, True)[units], found[name].shape)
            assert not found[name][gone].any()
            assert found[name][~gone].any()
