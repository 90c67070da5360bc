"""Allocators: what each says of widths holds, and the densities of the unstructured methods are those of their definitions."""

from functools import reduce

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.allocate import allocators, density, response
from onnx_reconvene.allocate.budget import Budget, Limits, budgets
from onnx_reconvene.allocate.density import DensitySolver
from onnx_reconvene.allocate.meet import MOST_UNUSED
from onnx_reconvene.allocate.reconvene import _kept, shares_of_units
from onnx_reconvene.allocate.unstructured import Histogram, Unstructured, best
from onnx_reconvene.cost import CostModel
from onnx_reconvene.report import rounding_line, summary
from onnx_reconvene.saliency import Context, ElementScores, criteria, element_scores, layer_weights
from onnx_reconvene.target import parse_target

ELEMENTS = ("l1", "synflow")


def prune(model, **options):
    """Prune without verification, which is not the point here, to any width."""
    return rc.prune(model, **{"verify": False, "round_to": 1, **options})


def widths(result):
    """Return the width of each group after a run, and before."""
    return np.array([group.kept for group in result.report.groups]), np.array([group.width for group in result.report.groups])


def densities(unstructured, x):
    """Return the density of each weight at one threshold."""
    return dict(zip(unstructured.histograms, np.exp(unstructured.log_density(x)).tolist(), strict=True))


def answer(model, image):
    """Return the first output of a network."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": image})[0].ravel()


def test_flat_keeps_one_width_where_there_is_as_much(network):
    kept, before = widths(prune(network("vgg16-bn"), target="params=0.1", allocate="flat"))
    narrowed = kept < before
    assert narrowed.any()
    assert np.ptp(kept[narrowed]) <= 1  # what is left of the budget widens some by one
    assert (before[~narrowed] <= kept[narrowed].max()).all()


def test_widths_give_back_the_fractions_that_densities_come_from(network):
    analysis = rc.analyze(network("resnet20"))
    solver, width = DensitySolver.of(analysis), np.log([group.width for group in analysis.groups])
    sparse = 0.9  # on average over layers, so of the widths of the fractions only a tenth may bend
    uneven = solver.shares @ (-sparse * width)
    level = (np.log(1 - sparse) - uneven.mean()) / (solver.shares @ np.ones(len(width))).mean()
    fractions = np.exp(level - sparse * width)
    assert fractions.max() <= 1
    np.testing.assert_allclose(solver.fractions(solver.shares @ np.log(fractions)), fractions, rtol=1e-6)


def test_many_unknowns_are_solved_as_few_are(network, monkeypatch):
    analysis = rc.analyze(network("resnet20"))
    inverted = DensitySolver.of(analysis)
    monkeypatch.setattr(density, "MOST_INVERTED", 0)
    iterated = DensitySolver.of(analysis)
    for seed in range(4):
        log_density = -np.random.default_rng(seed).exponential(size=len(inverted.weights))
        np.testing.assert_allclose(iterated.fractions(log_density), inverted.fractions(log_density), rtol=1e-8)


def test_densities_of_all_weights_are_those_of_each():
    rng = np.random.default_rng(0)
    layers = {str(k): rng.lognormal(0, 2, size).astype(np.float32).round(1) for k, size in enumerate((1, 5, 300, 40))}
    unstructured = Unstructured.of(ElementScores(layers, conserved=False), {"2": 30.0})
    for threshold in [0.0, 0.1, 0.5, 1.0, 10.0, 1e9]:
        expected = [histogram.density(threshold) for histogram in unstructured.histograms.values()]
        assert unstructured._densities(threshold).tolist() == expected


def test_where_nothing_is_sparse_widths_stay(network):
    solver = DensitySolver.of(rc.analyze(network("resnet20")))
    np.testing.assert_array_equal(solver.fractions(np.zeros(len(solver.weights))), 1)


def test_densities_of_cut_layers_are_products_of_fractions(network):
    analysis = rc.analyze(network("vgg16-bn"))
    solver, cost = DensitySolver.of(analysis), CostModel(analysis)
    half = cost.dense // 2
    after = prune(network("vgg16-bn"), target="channels=0.5", criterion="random", allocate="uniform").model
    sizes = {t.name: int(np.prod(t.dims)) for t in after.graph.initializer}
    before = {t.name: int(np.prod(t.dims)) for t in network("vgg16-bn").graph.initializer}
    found = solver.shares @ np.log(half / cost.dense)
    np.testing.assert_allclose(np.exp(found), [sizes[name] / before[name] for name in solver.weights], rtol=1e-9)


@pytest.mark.parametrize(("allocate", "kind"), [("erk", "params"), ("precrop", "params"), ("precrop", "macs")])
def test_densities_are_in_the_published_proportions(network, allocate, kind):
    model = network("vgg16-bn")
    analysis, result = rc.analyze(model), prune(model, target=f"{kind}=0.02", allocate=allocate)
    kept, before = widths(result)
    solver = DensitySolver.of(analysis)
    shapes = [analysis.shapes[name] for name in solver.weights]
    if allocate == "erk":
        wanted = np.array([sum(shape) / np.prod(shape) for shape in shapes])
    else:
        macs = CostModel(analysis).macs_by_weight()
        wanted = 1 / np.array(
            [np.prod(shape) if kind == "params" else macs[n] for n, shape in zip(solver.weights, shapes, strict=True)]
        )
    reached = np.exp(solver.shares @ np.log(kept / before))
    below = reached < 0.5  # none of these is held back by its full width
    assert below.sum() > len(below) // 2
    assert np.corrcoef(np.log(wanted[below]), np.log(reached[below]))[0, 1] > 0.85  # widths can but come near


@pytest.mark.parametrize("density", [0.0, 0.013, 0.4, 1.0])
def test_best_are_those_of_a_stable_sort(density):
    scores = np.round(np.random.default_rng(0).random((7, 11)) * 9).astype(np.float32)  # with ties
    count = max(1, int(density * scores.size))
    expected = np.zeros(scores.size, bool)
    expected[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    np.testing.assert_array_equal(best(scores, density).ravel(), expected)


def test_histogram_counts_what_scores_at_least_a_threshold():
    scores = np.random.default_rng(0).lognormal(0, 3, 5000).astype(np.float32)
    histogram = Histogram.of(scores)
    for threshold in (1e-3, 0.5, 7.0, 200.0):
        assert histogram.density(threshold) == pytest.approx((scores >= threshold).mean(), abs=0.004)
    assert histogram.size == scores.size
    assert histogram.mass[-1] == pytest.approx(scores.sum(dtype=float))


def test_conserved_scores_rank_as_removal_one_by_one_does():
    """What stays of a layer carries what the layer carried before: take the least away, score anew, and so on."""
    rng = np.random.default_rng(0)
    layers = {"narrow": rng.lognormal(0, 1, 60), "wide": rng.lognormal(0, 1, 600)}
    layers = {name: (scores / scores.sum()).astype(np.float32) for name, scores in layers.items()}
    left = {name: np.sort(scores).tolist() for name, scores in layers.items()}
    while sum(map(len, left.values())) > 200:
        rescored = {name: scores[0] / sum(scores) for name, scores in left.items()}
        left[min(rescored, key=rescored.__getitem__)].pop(0)
    unstructured = Unstructured.of(ElementScores(layers, conserved=True), {})
    x = min(np.linspace(0, 1, 2001), key=lambda x: abs(densities(unstructured, x) @ Sizes(layers) - 200))
    for name, scores in layers.items():
        assert densities(unstructured, x)[name] == pytest.approx(len(left[name]) / scores.size, abs=0.02)


class Sizes(dict):
    """Numbers of elements, to be multiplied with densities."""

    def __init__(self, layers):
        super().__init__({name: scores.size for name, scores in layers.items()})

    def __rmatmul__(self, found):
        return sum(found[name] * size for name, size in self.items())


def test_no_other_densities_keep_more_score_at_the_same_cost():
    rng = np.random.default_rng(0)
    layers = {name: rng.lognormal(0, 1, 50).astype(np.float32) for name in ("cheap", "dear")}
    unstructured = Unstructured.of(ElementScores(layers, conserved=False), {"cheap": 50.0, "dear": 200.0})
    best_first = [np.append(0, np.cumsum(np.sort(layers[name])[::-1])) for name in layers]
    score = best_first[0][:, None] + best_first[1]
    cost = np.arange(51)[:, None] + 4 * np.arange(51)
    for x in np.linspace(0, 1, 20):
        cheap, dear = (round(50 * density) for density in densities(unstructured, x).values())
        assert score[cheap, dear] >= score[1:, 1:][cost[1:, 1:] <= cost[cheap, dear]].max() * (1 - 1e-6)


def test_conserved_densities_are_those_of_iterated_synflow(network):
    """One score per element and the law of conservation say what a hundred rounds of scoring anew find."""
    model = onnx.ModelProto()
    model.CopyFrom(network("resnet20"))
    names = list(layer_weights(rc.analyze(model)))
    arrays = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer if t.name in names}
    start = element_scores(rc.analyze(model), "synflow", Context())
    total, goal, rounds = sum(a.size for a in arrays.values()), 0.1, 15
    for k in range(1, rounds + 1):
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
        scores = element_scores(rc.analyze(model), "synflow", Context()).by_weight
        everything = np.sort(np.concatenate([scores[name].ravel() for name in arrays]))
        threshold = everything[int((1 - goal ** (k / rounds)) * total)]
        arrays = {name: np.where(scores[name] >= threshold, values, 0) for name, values in arrays.items()}
    unstructured = Unstructured.of(start, {})
    sizes = {name: values.size for name, values in arrays.items()}
    found = min(
        (densities(unstructured, x) for x in np.linspace(0, 1, 400)),
        key=lambda found: abs(sum(found[name] * size for name, size in sizes.items()) - goal * total),
    )
    expected = np.array([(values != 0).mean() for values in arrays.values()])
    reached = np.array([found[name] for name in arrays])
    assert np.corrcoef(np.log(expected), np.log(reached))[0, 1] > 0.98
    assert np.abs(reached - expected).max() < 0.1


@pytest.mark.parametrize("method", ELEMENTS)
def test_share_lost_is_that_of_the_product_of_layers(network, method):
    analysis = rc.analyze(network("resnet20"))
    scores, elements = criteria[method].score(analysis, Context()), element_scores(analysis, method, Context())
    lost_at = shares_of_units(analysis, scores, elements.by_weight).lost
    dense = np.array([group.width for group in analysis.groups])
    np.testing.assert_allclose(lost_at(dense), 0, atol=1e-6)
    for group in analysis.groups[:4]:
        gone = group.first + np.argsort(-scores[group.units], kind="stable")[group.width // 2 :]
        shares = []
        for name, (_, axes) in layer_weights(analysis).items():
            for units in axes.values():
                lost = np.broadcast_to(np.isin(units, gone), elements.by_weight[name].shape)
                shares.append(1 - elements.by_weight[name][lost].sum(dtype=float) / elements.by_weight[name].sum(dtype=float))
        cut = dense.copy()
        cut[analysis.groups.index(group)] = group.width // 2
        expected = 1 - reduce(lambda a, b: a * b, shares)
        assert lost_at(cut)[analysis.groups.index(group)] == pytest.approx(expected, rel=1e-4)


def test_response_is_what_the_cut_network_answers(network):
    model = network("resnet20")
    analysis = rc.analyze(model)
    scores, dense = criteria["l2"].score(analysis, Context()), np.array([group.width for group in analysis.groups])
    felt = response.responses(analysis, scores, dense // 2, macs=4e7)
    runs = int(min(response.MACS / 4e7 / (len(dense) + 1), response.DRAWS))
    for g in (0, 1, 5):
        keep = {group.name: 0.5 if group is analysis.groups[g] else 1.0 for group in analysis.groups}
        cut = prune(model, target="channels=1", keep=keep, criterion="l2", allocate="uniform", rectify="none").model
        rng, correlations = np.random.default_rng(0), []
        for _ in range(runs):
            (image,) = response._drawn(model, analysis.sizes, rng).values()
            correlations.append(np.corrcoef(answer(model, image), answer(cut, image))[0, 1])
        assert felt[g] == pytest.approx(1 - np.mean(correlations), abs=1e-3)


def test_response_is_none_where_running_takes_too_long(network):
    analysis = rc.analyze(network("resnet20"))
    scores, dense = criteria["l2"].score(analysis, Context()), np.array([group.width for group in analysis.groups])
    assert response.responses(analysis, scores, dense // 2, macs=1e12) is None


def felt_by(model):
    analysis = rc.analyze(model)
    scores, dense = criteria["l2"].score(analysis, Context()), np.array([group.width for group in analysis.groups])
    return response.responses(analysis, scores, dense // 2, macs=4e7)


def test_response_is_felt_of_weights_that_nodes_make(network):
    model, made = network("resnet20"), onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in model.graph.initializer:
        made.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del made.graph.initializer[:]
    np.testing.assert_allclose(felt_by(made), felt_by(model))
    assert (felt_by(model) > 0).all()


def test_response_is_none_where_only_integers_are_returned(network):
    model = onnx.ModelProto()
    model.CopyFrom(network("resnet20"))
    model.graph.node.append(onnx.helper.make_node("ArgMax", [model.graph.output[0].name], ["class"]))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("class", onnx.TensorProto.INT64, ["n", 1]))
    assert felt_by(model) is None


def test_images_are_drawn_in_blobs(network):
    model = network("resnet20")
    (image,) = response._drawn(model, {"input": (2, 3, 32, 32)}, np.random.default_rng(0)).values()
    assert image.shape == (2, 3, 32, 32)
    assert image.dtype == np.float32
    assert (np.diff(image, axis=3) != 0).mean() < 0.15
    assert np.unique(image).size == 2 * 3 * response.BLOBS**2


@pytest.mark.parametrize(("wanted", "expected"), [(3.0, 8), (11.9, 8), (12.2, 16), (23.5, 24), (27.0, 24), (28.0, 32), (99.0, 32)])
def test_widths_are_rounded_to_the_nearest_in_proportion(wanted, expected):
    within = Budget(None, (np.array([8, 16, 24, 32]),), (), (), lambda: None)
    assert within.nearest(np.array([wanted])).tolist() == [expected]


def test_rounded_widths_keep_the_profile_of_those_that_are_not(network):
    kept = {}
    for step in (1, 8):
        result = prune(network("resnet20"), target="params=1/4", criterion="synflow", allocate="reconvene", round_to=step)
        kept[step], dense = widths(result)
    apart = np.abs(np.log(kept[8] / kept[1]))
    nearest = np.abs(np.log(np.arange(8, 72, 8)[:, None] / kept[1])).min(0)
    assert (apart > nearest + 1e-9).sum() <= len(dense) // 3  # where the room that is left went
    assert apart.max() < np.log(2)


def test_reconvene_chooses_what_to_cut_before_widths_are_rounded(network):
    analysis = rc.analyze(network("resnet20"))
    scores = criteria["synflow"].score(analysis, Context())
    elements = element_scores(analysis, "synflow", Context())
    shares = shares_of_units(analysis, scores, elements.by_weight)
    cost, target = CostModel(analysis), parse_target("macs=1/2")

    def kept(step):
        within = next(budgets(cost, [target], Limits(step), lambda: elements))
        return _kept(shares, within, lambda x: x * cost.dense)

    assert kept(8) == kept(1)


def test_reconvene_reports_how_sensitive_groups_are(network):
    report = prune(network("resnet20"), target="macs=0.6", criterion="synflow", allocate="reconvene").report
    felt = {group.name: group.sensitivity for group in report.groups}
    assert all(0 <= value <= 1 for value in felt.values())
    assert len(set(felt.values())) > 1
    assert report.after.macs <= 0.6 * report.before.macs


def test_reconvene_takes_densities_from_synflow_where_the_criterion_has_none(network):
    alone = prune(network("resnet20"), criterion="fpgm", allocate="reconvene")
    assert alone.report.after.macs <= 0.5 * alone.report.before.macs
    assert {group.sensitivity is not None for group in alone.report.groups} == {True}


@pytest.mark.parametrize(("text", "share"), [("1/16", 1 / 16), ("1/16.21", 100 / 1621), (".5/2", 0.25), ("12.5%", 0.125)])
def test_shares_of_what_there_is(text, share):
    target = parse_target(f"params={text}")
    assert (target.value, target.relative) == (pytest.approx(share, rel=1e-12), True)


TWO_LAYERS = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,3,8,8] x) => (float[1,8,8,8] y) { h = Conv(x, a)  r = Relu(h)  s = Conv(r, b)  t = Relu(s)  y = Conv(t, c) }"""


@pytest.mark.parametrize("allocate", sorted({*allocators} - {"latency"}))
@pytest.mark.parametrize("target", ["macs=0.5", "params=0.75"])
def test_automatic_rounding_costs_little(parsed, blocks_of_16, allocate, target):
    model = parsed(TWO_LAYERS, a=(32, 3, 3, 3), b=(48, 32, 1, 1), c=(8, 48, 1, 1))
    report = prune(model, target=target, criterion="l1", allocate=allocate, round_to=0).report
    kind, share = target.split("=")
    unused = float(share) - getattr(report.after, kind) / getattr(report.before, kind)
    assert 0 <= unused <= MOST_UNUSED
    assert (report.rounding.target, report.rounding.unused) == (target, pytest.approx(unused))


def test_rounding_stays_as_coarse_as_a_target_allows(parsed, blocks_of_16):
    model = parsed(TWO_LAYERS, a=(32, 3, 3, 3), b=(48, 32, 1, 1), c=(8, 48, 1, 1))
    fits = prune(model, target="channels=0.8", criterion="l1", round_to=0).report
    assert {group.kept % 16 for group in fits.groups} == {0}
    assert rounding_line(fits.rounding) in summary(fits)
    assert "at most 16 channels, which ends 0.0 points below --target channels=0.8" in rounding_line(fits.rounding)
    whole = prune(model, target="channels=0.8", criterion="l1").report
    assert "rounding:" not in summary(whole)


def test_rounding_that_is_asked_for_stays_and_says_what_it_costs(parsed):
    model = parsed(TWO_LAYERS, a=(32, 3, 3, 3), b=(48, 32, 1, 1), c=(8, 48, 1, 1))
    report = prune(model, target="channels=0.59", criterion="l1", round_to=16).report
    assert {group.kept % 16 for group in report.groups} == {0}
    assert report.rounding.unused == pytest.approx(0.59 - sum(g.kept for g in report.groups) / 80)
    assert report.json()["rounding"]["step"] == 16
