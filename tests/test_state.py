"""What passes hand on: run one by one, in a row, or by onnx_ir, they do what the command does, whatever they are told."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_reconvene as rc
from onnx_reconvene.api import passes_of
from onnx_reconvene.graph import from_model, plain_source
from onnx_reconvene.options import flag
from onnx_reconvene.passes import Allocate, Cut, Emit, Load, Rectify, Score, Sequential, Verify
from onnx_reconvene.plan import write_plan
from onnx_reconvene.stage import stage_of
from onnx_reconvene.state import KEY, State
from tests.test_attention import PLAIN as ATTENTION

CONVOLUTIONS = """<ir_version: 9, opset_import: ["" : 18]> net (float[N,3,H,12] x) => (float[N,6] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, zeros) b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w2, zeros) d = Relu (c)
    p = GlobalAveragePool (d) f = Flatten (p) g = Gemm <transB = 1> (f, w3) h = Relu (g) y = Gemm <transB = 1> (h, w4) }"""
SHAPES = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (24, 16), "w4": (6, 24)}


@pytest.fixture(scope="module")
def model(parsed):
    """Return a network with free sizes, as an initializer leaves it, whose layers share their zero biases."""
    model = parsed(CONVOLUTIONS)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(16, np.float32), "zeros"))
    return ir.to_proto(ir.from_proto(model))


OPTIONS = [
    {},
    {"target": ["params=0.5", "macs=0.6"]},
    {"input_shape": {"x": (1, 3, 48, 12)}, "target": "macs=0.4", "criterion": "l2"},
    {"criterion": "random", "seed": 3},
    {"criterion": "l2", "aggregate": "normalized", "allocate": "global"},
    {"criterion": "l2", "allocate": "erk", "min_width": 3},
    {"criterion": "l1", "allocate": "reconvene", "steps": 3},
    {"ignore": ["w1"], "keep": {"w3": 0.5}},
    {"only": "w3", "target": "params=0.9"},
    {"keep_file": "keep.toml"},
    {"from_plan": "plan.json"},
    {"granularity": "weight", "criterion": "l1"},
    {"rectify": "none"},
    {"rectify": "rescale", "round_to": 2},
    {"rectify": "none", "repair": "lstsq", "data": "samples.npz", "samples": 32},
    {"criterion": "taylor", "data": "samples.npz", "samples": 12, "batch_size": 4, "loss": "squared-norm"},
    {"criterion": "snip", "allocate": "reconvene", "data": "samples.npz", "samples": 12, "seed": 5},
    {"criterion": "l2", "verify": True},
]


@pytest.fixture
def files(model, tmp_path, monkeypatch):
    """Write what options name to the current folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "in.onnx")
    np.savez("samples.npz", x=np.random.default_rng(1).standard_normal((32, 3, 12, 12), dtype=np.float32))
    (tmp_path / "keep.toml").write_text('"w1" = 0.5\n"w3" = 0.25\n')
    write_plan(rc.prune(model, criterion="random", seed=9, verify=False).plan, "plan.json")


def words(options):
    """Return options as those of the command line."""
    for name, value in options.items():
        if name == "verify":
            yield from () if value else (flag(name),)
        elif isinstance(value, dict):
            yield from (w for k, v in value.items() for w in (flag(name), f"{k}={','.join(map(str, v)) if name != 'keep' else v}"))
        else:
            yield from (w for v in (value if isinstance(value, list) else [value]) for w in (flag(name), v))


def told_the_original(step, model):
    return replace(step, original=model) if hasattr(step, "original") else step


def check(run, model, options):
    """Compare the four ways to prune a model, byte for byte."""
    assert run("in.onnx", "command.onnx", *words(options)).status == 0
    chosen = rc.Options(**options).of_plan().for_stage(stage_of(plain_source(from_model(model))))
    steps = [*passes_of(chosen), Emit("steps.onnx")]
    one_by_one = model
    for step in steps:
        one_by_one = told_the_original(step, model)(one_by_one).model
    Sequential(*steps[:-1], Emit("row.onnx"))(model)
    ir.passes.Sequential(*(step.to_ir() for step in [*steps[:-1], Emit("ir.onnx")]))(ir.from_proto(model))
    wanted, *others = (open(f"{name}.onnx", "rb").read() for name in ("command", "steps", "row", "ir"))  # noqa: SIM115
    assert [other == wanted for other in others] == [True] * 3
    return onnx.load_from_string(wanted)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_passes_do_one_by_one_what_the_command_does(run, model, options):
    cut = check(run, model, {"verify": False, **options})
    assert cut != model


@pytest.mark.parametrize("attention", ["heads", "dims"])
def test_attention_survives_between_passes(run, tmp_path, monkeypatch, attention):
    monkeypatch.chdir(tmp_path)
    model = ir.to_proto(ir.from_proto(ATTENTION))
    onnx.save(model, "in.onnx")
    options = {"verify": False, "attention": attention, "criterion": "l2", "target": "channels=0.5", "round_to": 1}
    shapes = {tensor.name: list(tensor.dims) for tensor in check(run, model, options).graph.initializer}
    assert shapes["wq"] == shapes["wk"] == [6, 8]


def test_verify_alone_gives_its_verdict(model):
    cut = Sequential(Load({"x": (1, 3, 8, 12)}), Score("l2"), Allocate("macs=0.5"), Cut())(model)
    assert cut.verdict is None
    assert Verify(original=model)(cut.model).verdict.status == "exact"
    rows = [step.to_ir() for step in (Score("l2"), Allocate("macs=0.5"), Cut(), Verify())]
    assert ir.passes.Sequential(*rows)(ir.from_proto(model)).model.meta[KEY].verdict.status == "exact"


def test_what_cannot_follow_another_pass_is_refused_one_by_one_as_well(model):
    cut = Sequential(Score("l2"), Allocate("macs=0.5"), Cut())(model).model
    rectify = Rectify("rescale", original=model)
    rescaled = rectify(cut).model
    with pytest.raises(rc.UsageError, match="run it once"):
        rectify(rescaled)
    with pytest.raises(rc.UsageError, match="run it before Rectify"):
        Verify(original=model)(rescaled)


def test_other_sizes_forget_what_was_scored_at_the_old_ones(model):
    scored = Sequential(Load({"x": (1, 3, 8, 12)}), Score("l2"))(model).model
    assert Load({"x": (1, 3, 8, 12)})(scored).state.scores is not None
    with pytest.raises(rc.UsageError, match="run Score first"):
        Allocate()(Load({"x": (1, 3, 16, 12)})(scored).model)


def test_writing_in_between_changes_nothing(model, tmp_path):
    steps = Load(), Score("l2"), Allocate("macs=0.5"), Cut()
    plain = Sequential(*steps)(model).model
    noted = Sequential(*(s for step in steps for s in (step, Emit(tmp_path / "between.onnx"))))(model).model
    assert noted.graph == plain.graph


@pytest.mark.parametrize("of", [lambda model: model, from_model, ir.from_proto], ids=["ModelProto", "gs.Graph", "onnx_ir"])
def test_prune_is_not_steered_by_what_passes_have_noted(model, of):
    options = {"target": "macs=0.8", "criterion": "l1", "verify": False}
    wanted = rc.prune(model, **options).report
    noted = Sequential(Load({"x": (1, 3, 40, 12)}, "dims"), Score("random"), Allocate("macs=0.3"))(of(model)).model
    assert rc.prune(noted, **options).report.groups == wanted.groups
    cut = Cut()(noted).model
    again = rc.prune(cut, **options)
    assert again.report.input_shapes == wanted.input_shapes
    assert again.report.before.params < wanted.before.params


def test_data_in_memory_stay_with_a_graph_but_not_with_a_model(model):
    from onnx_reconvene.calibration import Calibration

    score = Score("snip", calibration=Calibration({"x": np.ones((4, 3, 8, 12), np.float32)}))
    Sequential(score, Allocate("macs=0.5", "reconvene"))(model)
    with pytest.raises(rc.UsageError, match="name the data by text"):
        Allocate("macs=0.5", "reconvene")(score(model).model)


def test_states_are_read_as_they_were_written(model):
    result = Sequential(Load({"x": (1, 3, 8, 12)}), Score("l2", 3, "max"), Allocate(("macs=0.5", "params=9k")))(model)
    (entry,) = [entry for entry in result.model.metadata_props if entry.key == KEY]
    read = State.read(entry.value)
    assert read.text() == entry.value
    assert np.array_equal(read.scores, result.state.scores)
    assert (read.seed, read.aggregate, read.sizes) == (3, "max", {"x": (1, 3, 8, 12)})
    assert len(repr(result)) < 2000


def test_damaged_states_are_refused_in_one_line(model):
    noted = Sequential(Load({"x": (1, 3, 8, 12)}), Score("l2"), Allocate())(model).model
    entry = next(entry for entry in noted.metadata_props if entry.key == KEY)
    whole = json.loads(entry.value)
    for name in ("scores", "keep", "targets", "calibration", "groups", "sizes", "values", "seed", "verdict", "else"):
        for value in ("high", 3.5, [[1]], {"a": "b"}):
            entry.value = json.dumps(whole | {name: value})
            with pytest.raises(rc.UsageError, match="damaged") as caught:
                State.read(entry.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(rc.UsageError, match="damaged"):
        Cut()(noted)
