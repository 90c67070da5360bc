"""Options: stated once, the same and checked alike for the command line, Python and Olive."""

import inspect
from dataclasses import fields
from importlib.util import find_spec
from typing import get_type_hints

import numpy as np
import pytest

import onnx_reconvene as rc
from onnx_reconvene import cli
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.options import NAMES, Keywords, flag
from onnx_reconvene.passes import Score
from onnx_reconvene.plan import Plan


def test_keywords_are_the_fields_of_options():
    types, keywords = (get_type_hints(cls, localns={"Plan": Plan}) for cls in (rc.Options, Keywords))
    assert set(keywords) == set(types)
    assert {name for name in types if types[name] != keywords[name]} == {"round_to"}


@pytest.mark.parametrize("call", [rc.prune, rc.sweep])
def test_signatures_name_every_option_with_its_default(call):
    shown = inspect.signature(call).parameters
    assert set(NAMES) <= set(shown)
    added = [shown[of.name] for of in fields(rc.Options) if of.name != "allocate"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default == getattr(rc.Options(), p.name) for p in added)
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())


def test_the_command_line_has_every_option():
    opts = {name: option.opts for option in cli.prune.params for name in [option.name]}
    assert all(flag(name) in opts[name] for name in NAMES)
    assert set(NAMES) - {option.name for option in cli.sweep.params} == {"target", "criterion", "from_plan", "granularity"}


@pytest.mark.skipif(find_spec("olive") is None, reason="needs Olive")
def test_olive_has_every_option():
    from olive.hardware import DEFAULT_CPU_ACCELERATOR

    from onnx_reconvene.olive import Reconvene

    assert set(NAMES) <= set(Reconvene.default_config(DEFAULT_CPU_ACCELERATOR))


@pytest.mark.parametrize("call", [rc.prune, lambda model, **options: rc.sweep(model, "absent", plot=False, **options)])
@pytest.mark.parametrize(("name", "nearest"), [("critirion", "criterion"), ("targets_", "target"), ("round-to", "round_to")])
def test_a_misspelt_option_names_the_nearest(network, call, name, nearest):
    with pytest.raises(rc.UsageError, match=f"'{name}'; did you mean '{nearest}'"):
        call(network("resnet20"), **{name: 1})


WRONG = [
    {"target": ["macs=0.5", 0.5]},
    {"target": None},
    {"criterion": 3},
    {"keep": {"conv1": "0.5"}},
    {"keep": {3: 0.5}},
    {"keep": {"conv1": True}},
    {"input_shape": {"input": (1, 3.0, 8, 8)}},
    {"input_shape": {"input": "1,3,8,8"}},
    {"image": {"resize": 256}},
    {"ignore": ["a", 1]},
    {"verify": "no"},
    {"round_to": True},
    {"from_plan": {"a": 1}},
    {"keep_file": 1},
    {"latency_table": b"x"},
    {"samples": 0},
    {"batch_size": -1},
    {"granularity": "kernel"},
    {"attention": None},
    {"seed": 2**70 * 1.0},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_wrong_types_and_values_are_refused_by_name(network, options):
    with pytest.raises(rc.UsageError, match=f"^{flag(next(iter(options)))} .*expected") as caught:
        rc.prune(network("resnet20"), **options)
    assert len(str(caught.value)) <= 300


def test_a_long_wrong_value_is_cut_short(network):
    with pytest.raises(rc.UsageError, match="expected") as caught:
        rc.prune(network("resnet20"), target=[0.5] * 1000)
    assert len(str(caught.value)) <= 300


IDLE = [
    {"samples": 64},
    {"data": "samples.npz", "criterion": "l1"},
    {"criterion": "taylor", "samples": 64},
    {"batch_size": 8, "repair": "bn"},
    {"image": {"resize": "8"}},
    {"loss": "squared-norm", "repair": "bn", "data": "samples.npz"},
    {"gradients": "torch"},
    {"threads": 2},
    {"provider": "CUDAExecutionProvider"},
    {"latency_table": "table.json"},
    {"threads": 2, "target": "latency=0.5", "latency_table": "table.json"},
]


@pytest.mark.parametrize("options", IDLE, ids=str)
def test_options_that_nothing_looks_at_are_refused(network, file, run, options):
    idle = [name for name in ("samples", "batch_size", "image", "loss", "gradients", "threads", "provider") if name in options]
    name = flag((idle or ["data" if "data" in options else "latency_table"])[0])
    with pytest.raises(rc.UsageError, match=f"^{name}: noth"):
        rc.prune(network("resnet20"), **options)
    words = [word for key, value in options.items() for word in (flag(key), "resize=8" if key == "image" else value)]
    ran = run(file("resnet20"), "--dry-run", *words)
    assert (ran.status, ran.out) == (2, "")
    assert f"{name}: noth" in ran.err


def test_an_option_of_a_sweep_is_idle_only_if_every_cut_ignores_it(file, tmp_path):
    sweep = {"targets": ["channels=0.5"], "plot": False}
    with pytest.raises(rc.UsageError, match="--data: nothing here"):
        rc.sweep(file("resnet20"), tmp_path / "out", criteria=["l1"], data="absent.npz", latency=False, **sweep)
    with pytest.raises(rc.UsageError, match=r"absent\.npz: No such file or directory$"):
        rc.sweep(file("resnet20"), tmp_path / "out", criteria=["l1", "taylor"], data="absent.npz", latency=False, **sweep)
    with pytest.raises(rc.UsageError, match="--threads: nothing here"):
        rc.sweep(file("resnet20"), tmp_path / "out", criteria=["l1"], threads=2, latency=False, **sweep)


def test_an_option_that_a_latency_job_ignores_is_refused(run, file, tmp_path):
    ran = run(file("resnet20"), "--latency-job", tmp_path / "job.zip", "--criterion", "l1")
    assert (ran.status, (tmp_path / "job.zip").exists()) == (2, False)
    assert "--criterion" in ran.err


def test_options_given_in_the_place_of_the_output_are_refused(network):
    with pytest.raises(rc.UsageError, match="output"):
        rc.prune(network("resnet20"), rc.Options())


def test_representations_fit_on_a_screen(network):
    model = network("resnet20")
    data = [{"input": np.zeros((1, 3, 32, 32), np.float32)}] * 100
    options = {"criterion": "taylor", "data": data, "verify": False, "samples": 4}
    result, analysis = rc.prune(model, **options), rc.analyze(model)
    first = analysis.groups[0]
    score = Score(calibration=Calibration(data))
    for value in (result, result.report, result.plan, analysis, first, first.sites[0], rc.Options(**options), score):
        assert len(repr(value)) <= 400
    assert f"{len(analysis.groups)} groups of {analysis.width} removable units" in repr(analysis)
    assert f"macs {result.report.before.macs:,} -> {result.report.after.macs:,}" in repr(result)
    assert repr(first) == f"Group('conv1', width=16, sites={len(first.sites)})"
    assert repr(rc.Options(seed=3)) == "Options(seed=3)"
