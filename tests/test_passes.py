"""Passes and Python calls: any kind of model in, the same kind out, one by one or in a row, with the result of the command."""

import io
import os
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxruntime
import pytest

import onnx_reconvene as rc
from onnx_reconvene.graph import from_model, to_model
from onnx_reconvene.passes import Allocate, Cut, Emit, Load, Pass, PassResult, Rectify, Score, Sequential, Verify
from onnx_reconvene.verify import Verdict

KINDS = ["str", "Path", "bytes", "file", "ModelProto", "gs.Graph", "onnx_ir.Model", "ONNXProgram"]
MODIFIES = {Load: False, Score: True, Allocate: True, Cut: True, Verify: False, Rectify: True}
OPTIONS = ["--criterion", "l1", "--allocate", "global", "--target", "params=0.4", "--round-to", "2", "--no-verify"]
STEPS = [Load(), Score("l1"), Allocate("params=0.4", "global", 2), Cut()]


class ONNXProgram:
    """Stands for what torch.onnx.export returns."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.extra = model, "kept"


class Pipe:
    """A binary file that can only be read from its start, again once it has been read; and be written to."""

    def __init__(self, content: bytes = b"") -> None:
        self.content, self._at = content, 0

    def read(self, size: int) -> bytes:
        part = self.content[self._at : self._at + min(size, 4096)]
        self._at = self._at + len(part) if part else 0
        return part

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.content += b"".join(parts)

    write = flush = lambda self: None


def type_of_result(model: Any) -> type:
    """Return the type that a model of some kind comes back as."""
    return onnx.ModelProto if isinstance(model, str | Path | bytes | Pipe) else type(model)


def as_kind(kind: str, path: Path) -> Any:
    """Return the model at path as some kind of object."""
    return {
        "str": lambda: str(path),
        "Path": lambda: path,
        "bytes": path.read_bytes,
        "file": lambda: Pipe(path.read_bytes()),
        "ModelProto": lambda: onnx.load(path),
        "gs.Graph": lambda: gs.import_onnx(onnx.load(path)),
        "onnx_ir.Model": lambda: ir.from_proto(onnx.load(path)),
        "ONNXProgram": lambda: ONNXProgram(ir.from_proto(onnx.load(path))),
    }[kind]()


def as_proto(model: Any) -> onnx.ModelProto:
    """Return any kind of model as a ModelProto, by means that are not ours."""
    if isinstance(model, str | os.PathLike):
        return onnx.load(model)
    if isinstance(model, bytes | Pipe):
        return onnx.load_from_string(model if isinstance(model, bytes) else model.content)
    if isinstance(model, gs.Graph):
        return gs.export_onnx(model, do_type_check=False)
    if isinstance(model, ONNXProgram):
        model = model.model
    return ir.to_proto(model) if isinstance(model, ir.Model) else model


@dataclass(frozen=True)
class Given:
    """A model of some kind, its content, and what the command makes of that."""

    kind: str
    model: Any
    content: bytes
    pruned: bytes

    def untouched(self) -> bool:
        return as_proto(self.model).SerializeToString(deterministic=True) == self.content


@pytest.fixture(params=KINDS)
def given(request, file, run, tmp_path) -> Given:
    """Return resnet20 as every kind of model."""
    model = as_kind(request.param, file("resnet20"))
    content = as_proto(model).SerializeToString(deterministic=True)
    (tmp_path / "content.onnx").write_bytes(content)
    assert run(tmp_path / "content.onnx", tmp_path / "pruned.onnx", *OPTIONS).status == 0
    return Given(request.param, model, content, (tmp_path / "pruned.onnx").read_bytes())


def weights(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of any kind of model."""
    return {tensor.name: tuple(tensor.dims) for tensor in as_proto(model).graph.initializer}


def runs(model: Any) -> bool:
    """Return True if any kind of model passes the checker and runs."""
    proto = as_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.ones((2, 3, 32, 32), np.float32)})
    return logits.shape == (2, 10) and bool(np.isfinite(logits).all())


# --- passes ----------------------------------------------------------------------------------------------------------


def test_one_by_one(given, tmp_path):
    model = given.model
    for step in [*STEPS, Verify(original=given.model), Rectify(original=given.model)]:
        result = step(model)
        assert isinstance(result, PassResult)
        assert type(result.model) is type_of_result(given.model)
        assert result.modified == MODIFIES[type(step)]
        same = not result.modified and not (model is given.model and type_of_result(model) is not type(model))
        assert (result.model is model) == (same or (given.kind == "gs.Graph" and model is not given.model))
        model = result.model
    assert given.untouched()
    assert runs(model)
    emitted = Emit(tmp_path / "emitted.onnx")(model)
    assert not emitted.modified
    assert (tmp_path / "emitted.onnx").read_bytes() == given.pruned


def test_in_a_row(given, tmp_path):
    result = Sequential(*STEPS, Verify(), Rectify(), Emit(tmp_path / "emitted.onnx"))(given.model)
    assert type(result.model) is type_of_result(given.model)
    assert result.modified
    assert given.untouched()
    assert runs(result.model)
    assert (tmp_path / "emitted.onnx").read_bytes() == given.pruned


def test_rows_within_rows(given, tmp_path):
    inner = Sequential(*STEPS[2:], Rectify(original=given.model))
    first, second = Sequential(*STEPS[:2]), Sequential(inner, Emit(tmp_path / "emitted.onnx"))
    assert second(first(given.model).model).modified
    assert (tmp_path / "emitted.onnx").read_bytes() == given.pruned


def test_scores_change_no_weight(given):
    before = {t.name: t.raw_data for t in onnx.load_from_string(given.content).graph.initializer}
    result = Allocate("macs=0.5")(Score("l2")(given.model).model)
    assert {t.name: t.raw_data for t in as_proto(result.model).graph.initializer} == before


def test_a_noted_model_can_be_used_twice(given):
    if given.kind == "gs.Graph":
        pytest.skip("passes work in place on a graph that a pass has returned")
    scored = Score()(given.model).model
    widths = []
    for target in ("channels=0.25", "channels=0.75"):
        marked = Allocate(target, round_to=1)(scored).model
        widths += [sum(weights(Cut()(marked).model)["layer3.0.conv1.weight"][:2]) for _ in range(2)]
    assert widths[0] == widths[1] < widths[2] == widths[3]


def test_where_all_stays_no_weight_changes_and_further_passes_run(given):
    model = Allocate("channels=1.0")(Score()(given.model).model).model
    for step in (Cut(), Verify(), Rectify()):
        result = step(model)
        model = result.model
        assert result.modified == isinstance(step, Cut)
        assert step != Verify() or result.verdict == Verdict("exact", 0.0, "nothing was removed")
    before, after = onnx.load_from_string(given.content).graph, as_proto(model).graph
    assert list(after.node) == list(before.node)
    assert list(after.initializer) == list(before.initializer)


def test_verify_notices_a_weight_that_changed_after_the_cut(network):
    model = network("resnet20")
    pruned = Sequential(*STEPS)(model).model
    verify = Verify(original=model)
    verify(pruned)
    tensor = next(t for t in pruned.graph.initializer if t.name == "layer2.1.conv2.weight")
    values = 1.2 * onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(rc.VerificationError, match=r"'layer2.1.conv2', a tensor inside, is off by"):
        verify(pruned)


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([Allocate()], "Allocate needs scores: run Score first"),
        ([Score(), Cut()], "Cut needs keep: run Allocate first"),
        ([Score(), Allocate(), Verify()], "run Cut first"),
        ([Score(), Allocate(), Rectify()], "run Cut first"),
        ([*STEPS, Rectify("often")], "--rectify often: not one of none, rescale, reinit, auto"),
        ([*STEPS, Cut()], "has been cut already"),
        ([*STEPS, Score()], "has been cut already"),
        ([*STEPS, Allocate()], "has been cut already"),
        ([Score("magic")], "--criterion magic: not one of"),
        ([Score(), Allocate(allocate="magic")], "--allocate magic: not one of"),
        ([Score(), Allocate("speed=2")], "--target speed=2: unknown kind"),
        ([Score(), Allocate(round_to=-1)], "--round-to"),
        ([Score(), Allocate(min_width=0)], "--min-width"),
        ([Score(), Allocate(ignore=("nothing*",))], "nothing"),
        ([Emit("absent/out.onnx")], "absent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(type(step).__name__ for step in value),
)
@pytest.mark.parametrize("kind", ["ModelProto", "gs.Graph", "onnx_ir.Model"])
def test_preconditions(file, kind, steps, complaint):
    *before, last = steps
    model = as_kind(kind, file("resnet20"))
    for step in before:
        model = step(model).model
    with pytest.raises(rc.UsageError, match=complaint) as caught:
        last(model)
    assert "\n" not in str(caught.value)


def test_verify_comes_before_rectify(network):
    with pytest.raises(rc.UsageError, match="run it before Rectify"):
        Sequential(*STEPS, Rectify(), Verify())(network("resnet20"))


def test_verify_needs_the_original_of_a_model_that_was_written(network):
    pruned = Sequential(*STEPS)(network("resnet20")).model
    with pytest.raises(rc.UsageError, match=r"Verify\(original="):
        Verify()(pruned)


def test_notes_for_another_network(network):
    scored = Score()(network("resnet20")).model
    other = network("resnet56")
    other.metadata_props.extend(scored.metadata_props)
    with pytest.raises(rc.UsageError, match="not for this network"):
        Allocate()(other)


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"scores": 1}', '{"scores": {"conv1": "high"}}', '{"done": "perhaps"}'])
def test_damaged_notes(network, text):
    scored = Score()(network("resnet20")).model
    scored.metadata_props[0].value = text
    with pytest.raises(rc.UsageError):
        Allocate()(scored)


def test_a_pass_of_ones_own(given):
    class Halve(Pass):
        """Halves a bias."""

        def call(self, graph):
            bias = graph.tensors()["fc.bias"]
            bias.values = bias.values / 2
            return True

    before = next(t for t in onnx.load_from_string(given.content).graph.initializer if t.name == "fc.bias")
    result = Halve()(given.model)
    after = next(t for t in as_proto(result.model).graph.initializer if t.name == "fc.bias")
    assert np.array_equal(onnx.numpy_helper.to_array(after), onnx.numpy_helper.to_array(before) / 2)
    assert type(result.model) is type_of_result(given.model)
    assert given.untouched()


# --- onnx_ir ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [ir.passes.Sequential, lambda *steps: ir.passes.PassManager(list(steps))])
def test_passes_of_onnx_ir(file, row):
    path = file("resnet20")
    model = as_kind("onnx_ir.Model", path)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    steps = [step.to_ir() for step in (*STEPS, Verify(), Rectify())]
    assert all(isinstance(step, ir.passes.PassBase) for step in steps)
    assert [step.name for step in steps] == ["Load", "Score", "Allocate", "Cut", "Verify", "Rectify"]
    result = row(*steps)(model)
    assert isinstance(result, ir.passes.PassResult)
    assert result.modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert runs(result.model)
    assert weights(result.model) == weights(Sequential(*STEPS)(path).model)


def test_one_pass_of_onnx_ir_tells_whether_it_modified(file):
    model = as_kind("onnx_ir.Model", file("resnet20"))
    for step in (*STEPS, Verify(), Rectify()):
        result = step.to_ir()(model)
        assert result.modified == MODIFIES[type(step)]
        model = result.model


def test_an_error_inside_onnx_ir_says_what_to_do(file):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - onnx_ir wraps it in a class of its own
        ir.passes.Sequential(Allocate().to_ir())(as_kind("onnx_ir.Model", file("resnet20")))
    causes = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], rc.UsageError)
    assert "run Score first" in str(causes[-1])


def test_onnx_ir_with_external_data_elsewhere(network, tmp_path):
    """onnx_ir leaves external data in its file, relative to the folder of the model and not to the current one."""
    onnx.save(network("resnet20"), tmp_path / "in.onnx", save_as_external_data=True, location="in.data")
    model = ir.load(tmp_path / "in.onnx")
    result = rc.prune(model, target="macs=0.5")
    assert runs(result.model)


# --- calls -----------------------------------------------------------------------------------------------------------


def test_prune(given, tmp_path):
    result = rc.prune(given.model, criterion="l1", allocate="global", target="params=0.4", round_to=2)
    assert type(result.model) is type_of_result(given.model)
    assert given.untouched()
    assert runs(result.model)
    assert getattr(result.model, "extra", "kept") == "kept"
    assert result.report.verify.status == "exact"
    result.save(tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").read_bytes() == given.pruned
    assert result.report.output == str(tmp_path / "saved.onnx")
    assert weights(result.model) == weights(tmp_path / "saved.onnx")
    assert not any("reconvene" in entry.key for entry in as_proto(result.model).metadata_props)


def test_pruned_models_can_be_pruned_further(given):
    half = rc.prune(given.model, target="channels=0.75", round_to=1).model
    quarter = rc.prune(half, target="channels=0.5", round_to=1)
    assert quarter.report.before.params < onnx_params(given.content)
    assert quarter.report.verify.status == "exact"
    assert runs(quarter.model)


def onnx_params(content: bytes) -> int:
    """Return the number of elements of all initializers of a float model."""
    return sum(int(np.prod(t.dims)) for t in onnx.load_from_string(content).graph.initializer)


def test_analyze(given):
    analysis = rc.analyze(given.model)
    assert [(group.name, group.width) for group in analysis.groups][:2] == [("conv1", 16), ("layer1.0.conv1", 16)]
    assert sum(group.width for group in analysis.groups) == 400
    assert [(f.tensor, f.channels, f.reason) for f in analysis.frozen] == [("fc.weight", 10, "'logits' is a graph output")]
    shapes = weights(onnx.load_from_string(given.content))
    for group in analysis.groups:
        for site in group.sites:
            assert site.units.shape[site.axis] == site.units.size == shapes[site.tensor][site.axis]
            assert sorted(set(site.units[site.units >= 0].tolist())) == list(range(group.width))
    assert given.untouched()


def test_options_as_object_and_as_words(network):
    model = network("resnet20")
    options = rc.Options(target=["macs=0.5"], criterion="l1", verify=False)
    assert rc.prune(model, options=options).model == rc.prune(model, target="macs=0.5", criterion="l1", verify=False).model
    assert rc.prune(model, options=options, criterion="random").report.criterion == "random"


def test_calls_can_be_repeated_in_any_order(network):
    model = network("resnet20")
    for _ in range(2):
        assert rc.prune(model, verify=False).report.after.macs
        assert rc.analyze(model).groups
        assert rc.criteria
        assert rc.allocators


@pytest.mark.parametrize("model", [42, None, np.zeros(3), pathlib])
def test_prune_refuses_what_is_no_model(model):
    with pytest.raises(rc.UsageError, match="is no model"):
        rc.prune(model)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [(b"bytes", rc.ModelError, "the model: not an ONNX model"), (io.StringIO("text"), rc.UsageError, "open it in binary mode")],
)
def test_bytes_and_files_that_are_no_model(model, error, text):
    with pytest.raises(error, match=text) as caught:
        rc.prune(model)
    assert "\n" not in str(caught.value)


def test_prune_writes_to_paths_and_files(file, tmp_path):
    path, stream = file("resnet20"), Pipe()
    options = {"criterion": "l1", "verify": False}
    result = rc.prune(path, tmp_path / "out.onnx", **options)
    rc.prune(path.read_bytes(), output=stream, **options)
    assert stream.content == (tmp_path / "out.onnx").read_bytes()
    assert onnx.load_from_string(stream.content) == result.model
    assert (result.report.input, result.report.output) == (str(path), str(tmp_path / "out.onnx"))
    with pytest.raises(rc.UsageError, match=r"^output 3: expected"):
        rc.prune(path, 3)


def test_what_came_from_a_file_outlives_it(file):
    path = file("resnet20")
    result = rc.prune(path, verify=False)
    path.unlink()
    assert runs(result.model)


def test_prune_refuses_unknown_options(network):
    with pytest.raises(rc.UsageError, match="speed"):
        rc.prune(network("resnet20"), speed=2)


@pytest.mark.parametrize("options", [{"seed": -1}, {"keep": {"conv1": 2.0}}, {"round_to": -3}, {"input_shape": {"input": (1, 3)}}])
def test_prune_refuses_values_out_of_range(network, options):
    with pytest.raises(rc.UsageError):
        rc.prune(network("resnet20"), **options)


@pytest.mark.parametrize(
    "options",
    [{"target": 0.5}, {"steps": 2.5}, {"seed": "a"}, {"keep": ["a=0.5"]}, {"input_shape": {"input": 3}}, {"only": 1}],
)
def test_prune_refuses_values_of_another_type(network, options):
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(rc.UsageError, match=f"^--{name} .*expected"):
        rc.prune(network("resnet20"), **options)


def test_options_are_taken_as_one_would_write_them(network, tmp_path):
    model, file = network("resnet20"), tmp_path / "keep.toml"
    file.write_text('"*" = 0.5')
    first = rc.prune(model, verify=False).report.groups[0]
    held = rc.prune(model, ignore=first.name, round_to="auto", verify=False).report.groups
    whole = [group.name for group in held if group.kept == group.width]
    assert first.name in whole
    assert len(whole) < len(held)
    assert {g.kept / g.width for g in rc.prune(model, keep_file=file, verify=False).report.groups} == {0.5}


def test_prune_starts_anew_on_a_network_with_notes(network):
    model = network("resnet20")
    noted = Sequential(Score("l2"), Allocate("macs=0.3"))(model).model
    assert as_proto(noted).metadata_props
    options = {"target": "macs=0.8", "criterion": "l2", "verify": False}
    assert rc.prune(noted, **options).report.groups == rc.prune(model, **options).report.groups


def test_weights_are_rectified_once(network):
    with pytest.raises(rc.UsageError, match="run it once"):
        Sequential(Score("l2"), Allocate("macs=0.5"), Cut(), Rectify("rescale"), Rectify("rescale"))(network("resnet20"))


def test_dimensions_of_one_name_are_of_one_size(parsed):
    text = """<ir_version: 9, opset_import: ["" : 18]> net (float[N,T,16] x, float[N,T,16] z) => (float[N,T,c] y) {
        a = MatMul (x, w1) b = MatMul (z, w2) c = Mul (a, b) y = MatMul (c, w3) }"""
    model = parsed(text, w1=(16, 24), w2=(16, 24), w3=(24, 5))
    assert rc.prune(model, input_shape={"x": (2, 3, 16)}).report.input_shapes == {"x": [2, 3, 16], "z": [2, 3, 16]}


@pytest.mark.parametrize(("opset", "after"), [(12, ""), (18, "r = MatMul (s, w2)")])
def test_a_squeeze_of_no_named_axes_runs_at_any_batch(parsed, opset, after):
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> net (float[N,3,4,4] x) => (float[a,b] {"r" if after else "s"}) {{
        c = Conv (x, w1) d = Conv (c, w3) p = GlobalAveragePool (d) s = Squeeze (p) {after} }}"""
    weights = {"w1": (8, 3, 1, 1), "w3": (6, 8, 1, 1)} | ({"w2": (6, 4)} if after else {})
    cut = rc.prune(parsed(text, **weights), target="channels=0.5", round_to=1)
    session = onnxruntime.InferenceSession(cut.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((2, 3, 4, 4), np.float32)})[0].shape == (2, 4 if after else 6)


def test_errors_are_of_one_family():
    family = [rc.ModelError, rc.TargetError, rc.UsageError, rc.VerificationError]
    assert all(issubclass(error, rc.ReconveneError) for error in family)
    assert [error.exit_status for error in family] == [3, 4, 2, 5]


# --- criteria and allocators of one's own ----------------------------------------------------------------------------


def test_a_criterion_of_ones_own(network, run):
    @rc.criterion("last", "a test")
    def last(analysis, context):
        """Later units matter more.

        Not that they do.
        """
        return np.arange(analysis.width, dtype=float)

    model = network("resnet20")
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    result = rc.prune(model, target="channels=0.5", criterion="last", round_to=1, rectify="none", verify=False)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert np.array_equal(after["layer1.0.bn1.weight"], before["layer1.0.bn1.weight"][-len(after["layer1.0.bn1.weight"]) :])
    wide, narrow = before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"]
    assert np.array_equal(narrow, wide[-len(narrow) :, -narrow.shape[1] :])
    assert result.report.criterion == "last"
    assert "last            Later units matter more. [a test]" in run("--criterion", "list").out.splitlines()


@pytest.mark.parametrize("text", [None, "", "\n  \n"])
def test_a_criterion_that_says_nothing_of_itself(text):
    def silent(analysis, context):
        return np.arange(analysis.width, dtype=float)

    silent.__doc__ = text
    assert rc.criterion("silent", "a test")(silent).summary == ""
    assert rc.criteria.pop("silent").score is silent


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], np.full(400, np.nan), np.full(400, np.inf), np.ones((400, 2)), None, "high"])
def test_a_criterion_that_returns_nonsense(network, scores):
    @rc.criterion("nonsense", "a test")
    def nonsense(analysis, context):
        """No scores at all."""
        return scores

    with pytest.raises(rc.ReconveneError, match="nonsense"):
        rc.prune(network("resnet20"), criterion="nonsense")


def test_an_allocator_may_return_a_list(network):
    rc.allocator("as a list")(lambda analysis, scores, within: within.smallest.tolist())
    try:
        assert {group.kept for group in rc.prune(network("resnet20"), allocate="as a list", round_to=1).report.groups} == {1}
    finally:
        del rc.allocators["as a list"]


def test_an_allocator_of_ones_own(network):
    @rc.allocator("half")
    def half(analysis, scores, within):
        return np.array([group.width // 2 for group in analysis.groups])

    result = rc.prune(network("resnet20"), target="channels=0.5", allocate="half")
    assert all(group.kept == group.width // 2 for group in result.report.groups)
    assert result.report.allocate == "half"
    assert runs(result.model)


@pytest.mark.parametrize("width", [lambda g: g.width, lambda g: g.width + 1, lambda g: 0, lambda g: -1, lambda g: 0.5])
def test_an_allocator_that_returns_nonsense(network, width):
    """Widths that miss the target, or that no group can have, are refused before anything is cut."""

    @rc.allocator("nonsense")
    def nonsense(analysis, scores, within):
        return np.array([width(group) for group in analysis.groups])

    with pytest.raises(rc.ReconveneError, match="nonsense"):
        rc.prune(network("resnet20"), target="channels=0.5", allocate="nonsense", verify=False)


# --- imports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["onnx_reconvene", "onnx_reconvene.passes", "onnx_reconvene.bridges"])
def test_importing_loads_no_framework(command, module):
    code = f"import sys, {module}; print([m for m in ('torch', 'onnx_ir', 'onnxruntime', 'scipy') if m in sys.modules])"
    ran = command(python=code)
    assert (ran.status, ran.out, ran.err) == (0, "[]\n", "")


def test_everything_public_is_there():
    torch = find_spec("torch") is not None
    assert all(getattr(rc, name) is not None for name in rc.__all__ if torch or "torch" not in name)
    with pytest.raises(AttributeError, match="nothing_such"):
        rc.nothing_such  # noqa: B018


# --- graphs that a user changes --------------------------------------------------------------------------------------


def test_what_a_user_changes_of_a_pruned_graph_holds(file):
    graph = rc.prune(as_kind("gs.Graph", file("resnet20")), target="channels=0.75", verify=False).model
    graph.name, graph.opset = "renamed", graph.opset + 1
    graph.inputs[0].name, graph.outputs[0].name = "image", "scores"
    graph.inputs[0].shape = ["n", 3, 32, 32]
    inner = next(node for node in graph.nodes if node.op == "Relu").outputs[0]
    graph.outputs.append(gs.Variable("extra", np.float32, ["n", None, 32, 32]))
    graph.nodes.append(gs.Node("Relu", "added", inputs=[inner], outputs=[graph.outputs[1]]))
    model = as_proto(rc.prune(graph, target="channels=0.75").model)
    assert (model.graph.name, model.opset_import[0].version) == ("renamed", graph.opset)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["scores", "extra"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    onnx.checker.check_model(model, full_check=True)


def test_results_share_no_weights_with_what_they_came_from(file):
    graph = rc.prune(as_kind("gs.Graph", file("resnet20")), target="channels=1.0", verify=False).model
    result = rc.prune(graph, target="channels=1.0", verify=False).model
    name = "layer3.0.conv1.weight"
    before = graph.tensors()[name].values.copy()
    result.tensors()[name].values[:] = 0
    assert np.array_equal(graph.tensors()[name].values, before)


def test_sizes_declared_as_unknown_stay_as_they_were_declared(parsed):
    model = parsed('<ir_version: 9, opset_import: ["" : 18]> net (float[N,4] x) => (float[M,3] y) { y = MatMul (x, w) }', w=(4, 3))
    for value, declared in ((model.graph.input[0], {"dim_value": -1}), (model.graph.output[0], {"dim_param": "?"})):
        value.type.tensor_type.shape.dim[0].CopyFrom(onnx.TensorShapeProto.Dimension(**declared))
    assert to_model(from_model(model)) == model
