"""Pruning as a step of an Olive workflow: what its command writes is what `prune` returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import models
import onnx_reconvene as rc
from onnx_reconvene.errors import UsageError

pytest.importorskip("olive.package_config")

from olive.hardware import DEFAULT_CPU_ACCELERATOR

from onnx_reconvene.olive import Reconvene, package_config

OPTIONS = {"target": ["macs=0.5", "params=0.4"], "criterion": "l2", "keep": {"conv1": 0.75}, "round_to": 1, "rectify": "none"}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    onnx.save(models.build("resnet20", 0), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def workflow(network: Path, **passes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run these passes over a network by Olive's command; what comes out is at out/model.onnx beside it."""
    steps = {name: {"type": name, **options} for name, options in passes.items()}
    what = {"input_model": {"type": "ONNXModel", "model_path": str(network)}, "passes": steps}
    where = {"output_dir": "out", "cache_dir": "cache"}
    (network.parent / "workflow.json").write_text(json.dumps(what | where))
    (network.parent / "packages.json").write_text(json.dumps(package_config()))
    olive = [sys.executable, "-m", "olive", "run", "--disable_telemetry"]
    files = ["--config", "workflow.json", "--package-config", "packages.json"]
    quiet = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1"}
    return subprocess.run([*olive, *files], cwd=network.parent, env=quiet, capture_output=True, text=True, timeout=300)


def test_a_workflow_prunes_as_prune_does(network):
    done = workflow(network, Reconvene=OPTIONS)
    assert done.returncode == 0, done.stderr
    assert onnx.load(network.parent / "out/model.onnx") == rc.prune(onnx.load(network), **OPTIONS).model


def test_passes_of_olive_go_on_with_the_pruned_network(network):
    done = workflow(network, Reconvene=OPTIONS, OnnxDynamicQuantization={})
    assert done.returncode == 0, done.stderr
    quantized, pruned = onnx.load(network.parent / "out/model.onnx"), rc.prune(onnx.load(network), **OPTIONS).model
    assert "ConvInteger" in {node.op_type for node in quantized.graph.node}
    assert kernels(quantized) == kernels(pruned) != kernels(onnx.load(network))


def kernels(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 4)


def test_a_target_out_of_reach_ends_the_workflow(network):
    done = workflow(network, Reconvene={"target": "macs=0.0001"})
    assert "TargetError: macs at most" in done.stdout + done.stderr
    assert not (network.parent / "out/model.onnx").exists()


def test_what_olive_searches_over_may_be_any_option():
    choice = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": ["macs=0.5", "macs=0.25"]}
    _, fixed, searched = Reconvene.get_config_params(DEFAULT_CPU_ACCELERATOR, {"target": choice, "seed": 3})
    assert list(searched) == ["target"]
    assert searched["target"].get_support() == choice["support"]
    assert fixed["seed"] == 3
    assert fixed["criterion"] == "auto"


def test_options_are_those_of_prune(network):
    names = Reconvene.default_config(DEFAULT_CPU_ACCELERATOR)
    with pytest.raises(UsageError):
        rc.prune(str(network), nonsense=1)
    given = {name: parameter.default_value for name, parameter in names.items()} | {"target": "macs=0.5"}
    assert rc.prune(onnx.load(network), **given).model == rc.prune(onnx.load(network)).model
