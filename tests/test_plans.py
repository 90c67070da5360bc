"""Plans and files of fractions: replayed to the bit, editable by hand, and refused with one line where they do not fit."""

import json

import numpy as np
import onnx
import pytest

import onnx_reconvene as rc
from onnx_reconvene.plan import Plan, read_fractions, read_plan, write_plan


@pytest.fixture
def planned(file, run, tmp_path):
    """Return a network, what became of it, and the plan of that."""
    source, output, plan = file(), tmp_path / "out.onnx", tmp_path / "plan.json"
    assert run(source, output, "--criterion", "l1", "--allocate", "global", "--seed", "3", "--plan", plan).status == 0
    return source, output, plan


def test_plan_gives_the_same_bytes(planned, run, tmp_path):
    source, output, plan = planned
    again = tmp_path / "again.onnx"
    assert run(source, again, "--from-plan", plan).status == 0
    assert again.read_bytes() == output.read_bytes()


def test_report_of_a_replay_says_what_the_plan_says(planned, run, tmp_path):
    source, _, plan = planned
    report = tmp_path / "report.json"
    assert run(source, tmp_path / "again.onnx", "--from-plan", plan, "--report", report).status == 0
    found = json.loads(report.read_text())
    assert (found["criterion"], found["allocate"], found["seed"]) == ("l1", "global", 3)


def test_edited_plan_is_followed(planned, run, tmp_path):
    source, _, plan = planned
    edited = json.loads(plan.read_text())
    group = edited["groups"][0]
    group["gone"] = "1-2, 5"
    edited["rectify"] = "none"
    plan.write_text(json.dumps(edited))
    output = tmp_path / "edited.onnx"
    assert run(source, output, "--from-plan", plan).status == 0
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer} for path in (source, output)
    )
    stays = np.delete(np.arange(group["units"]), [1, 2, 5])
    np.testing.assert_array_equal(after["conv1.weight"], before["conv1.weight"][stays])


def test_plan_as_fractions_keeps_the_same_widths(planned, run, tmp_path):
    source, output, plan = planned
    other = tmp_path / "other.onnx"
    assert run(source, other, "--keep-file", plan, "--criterion", "fpgm").status == 0
    shapes = [{t.name: list(t.dims) for t in onnx.load(path).graph.initializer} for path in (output, other)]
    assert shapes[0] == shapes[1]


def test_fractions_of_a_plan_are_those_of_single_groups(parsed, run, tmp_path):
    """What the node `stem` makes falls into two groups, of which one has its name."""
    net = """<ir_version: 9, opset_import: ["" : 18]> net (float[1,4] x) => (float[1,3] y) <int64[2] parts = {4, 4}> {
        [stem] a = MatMul (x, w1)
        b, c = Split <axis = 1> (a, parts)
        e = MatMul (c, w2)
        f = Add (b, e)
        y = MatMul (f, w3)
    }"""
    onnx.save(parsed(net, w1=(4, 8), w2=(4, 4), w3=(4, 3)), tmp_path / "in.onnx")
    plan = tmp_path / "plan.json"
    fractions = {"stem": 0.5, "stem#2": 0.75}
    for names in (["stem", "stem#2"], ["stem#2", "stem"]):
        groups = [
            {"name": name, "units": 4, "gone": "" if fractions[name] == 1 else f"0-{3 - 4 * fractions[name]:.0f}"} for name in names
        ]
        plan.write_text(json.dumps({"version": 1, "groups": groups}))
        for given, kept in (({}, {"stem": 2, "stem#2": 3}), ({"stem": 1.0}, {"stem": 4, "stem#2": 4})):
            result = rc.prune(tmp_path / "in.onnx", keep_file=str(plan), keep=given, round_to=1)
            assert {group.name: group.kept for group in result.report.groups} == kept
    onnx.save(parsed(net.replace("stem", "root"), w1=(4, 8), w2=(4, 4), w3=(4, 3)), tmp_path / "other.onnx")
    ran = run(tmp_path / "other.onnx", tmp_path / "out.onnx", "--keep-file", plan)
    assert ran.status == 2
    assert "'stem" in ran.err


@pytest.mark.parametrize(
    ("name", "text"), [("f.toml", '"layer1.*.conv1" = 0.25\nconv1 = 1'), ("f.json", '{"layer1.*.conv1": 0.25, "conv1": 1}')]
)
def test_fractions_by_pattern(network, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    groups = rc.prune(network("resnet20"), keep_file=str(tmp_path / name), verify=False).report.groups
    assert {group.name: group.kept for group in groups if group.pruned} == {f"layer1.{block}.conv1": 4 for block in range(3)}


def test_keep_goes_before_the_file(network, tmp_path):
    (tmp_path / "f.json").write_text('{"layer1.0.conv1": 0.25}')
    given = {"keep_file": str(tmp_path / "f.json"), "keep": {"layer1.0.conv1": 0.5}}
    groups = rc.prune(network("resnet20"), **given, verify=False).report.groups
    assert {group.name: group.kept for group in groups if group.pruned} == {"layer1.0.conv1": 8}


@pytest.mark.parametrize("units", ["", "0", "0-3,7,9-10"])
def test_plan_is_read_as_written(network, tmp_path, units):
    keep = {"a": np.ones(12, bool), "b": np.array([False, True])}
    for part in filter(None, units.split(",")):
        first, _, last = part.partition("-")
        keep["a"][int(first) : int(last or first) + 1] = False
    write_plan(Plan({"seed": 1}, keep), str(tmp_path / "p.json"))
    assert json.loads((tmp_path / "p.json").read_text())["groups"][0]["gone"] == units
    found = read_plan(str(tmp_path / "p.json"))
    assert found.settings == {"seed": 1}
    assert all(np.array_equal(found.keep[name], keep[name]) for name in keep)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda groups: groups[0].update(name="nobody"), "nobody"),
        (lambda groups: groups.pop(), "does not name it"),
        (lambda groups: groups[0].update(units=17), "17"),
        (lambda groups: groups[0].update(units=float("inf")), "units"),
        (lambda groups: groups[0].update(gone="0-15"), "at least|a unit"),
        (lambda groups: groups[0].update(gone="12-40"), "12-40"),
        (lambda groups: groups[0].update(gone="x"), "gone"),
        (lambda groups: groups[0].pop("gone"), "gone"),
    ],
)
def test_plan_that_does_not_fit_is_refused(planned, change, named):
    source, _, plan = planned
    edited = json.loads(plan.read_text())
    change(edited["groups"])
    plan.write_text(json.dumps(edited))
    with pytest.raises(rc.UsageError, match=named):
        rc.prune(str(source), from_plan=str(plan))


@pytest.mark.parametrize(
    ("key", "value"), [("seed", -1), ("seed", "a"), ("seed", 1.5), ("seed", None), ("rectify", 3), ("attention", ["heads"])]
)
def test_settings_that_make_no_sense_are_named(planned, run, tmp_path, key, value):
    source, _, plan = planned
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {key: value}))
    ran = run(source, tmp_path / "again.onnx", "--from-plan", plan)
    assert ran.status == 2
    assert f"--from-plan {plan}: {key}: expected" in ran.err
    assert ran.err.count("\n") == 1


UNITLESS = '{"version": 1, "groups": [{"name": "g"}]}'


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"version": 9, "groups": []}', UNITLESS, "\xff"])
def test_file_that_is_no_plan_is_named(tmp_path, network, text):
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(rc.UsageError, match=r"--from-plan .*plan\.json"):
        rc.prune(network("resnet20"), from_plan=str(path))


@pytest.mark.parametrize("text", ['{"conv1": "half"}', '{"conv1": true}', '{"conv1": 0}', '{"conv1": 1.5}', '{"nobody": 0.5}'])
def test_fractions_that_make_no_sense_are_named(tmp_path, network, text):
    path = tmp_path / "fractions.json"
    path.write_text(text)
    with pytest.raises(rc.UsageError, match=r"conv1|nobody"):
        rc.prune(network("resnet20"), keep_file=str(path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(rc.UsageError, match=r"--keep-file .*absent"):
        read_fractions(str(tmp_path / "absent.toml"))


def test_plan_is_not_written_over_the_output(file, run, tmp_path):
    source, output = file(), tmp_path / "out.onnx"
    assert run(source, output, "--plan", output).status == 2
    assert not output.exists()


def test_what_is_asked_for_goes_before_what_the_plan_says(planned, run, tmp_path):
    source, _, plan = planned
    report = tmp_path / "report.json"
    ran = run(source, tmp_path / "kept.onnx", "--from-plan", plan, "--rectify", "none", "--report", report)
    assert (ran.status, "kept as they are (asked for)" in ran.out) == (0, True)
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (source, tmp_path / "kept.onnx")
    )
    stays = read_plan(str(plan)).keep["conv1"]
    np.testing.assert_array_equal(after["conv1.weight"], before["conv1.weight"][stays])


@pytest.mark.parametrize(
    "options", [("--target", "macs=0.3"), ("--ignore", "*"), ("--criterion", "l2"), ("--steps", "2"), ("--min-width", "4")]
)
def test_a_plan_says_which_channels_go(planned, run, tmp_path, options):
    source, _, plan = planned
    ran = run(source, tmp_path / "again.onnx", "--from-plan", plan, *options)
    assert (ran.status, ran.err) == (2, f"onnx-reconvene: --from-plan: goes without {options[0]}\n")
