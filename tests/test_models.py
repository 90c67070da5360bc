"""The standard networks are valid, runnable, deterministic, and as large as the literature says."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

import models
from models.__main__ import main

ROOT = Path(__file__).parents[1]

INPUT_SHAPES = {
    "vgg16-bn": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "resnet18": (3, 64, 64),
    "resnet50": (3, 224, 224),
    "mobilenetv2": (3, 224, 224),
    "unet": (3, 128, 128),
    "detector": (3, 128, 128),
}

OUTPUT_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "vgg16-bn": {"logits": (10,)},
    "resnet20": {"logits": (10,)},
    "resnet56": {"logits": (10,)},
    "resnet18": {"logits": (200,)},
    "resnet50": {"logits": (1000,)},
    "mobilenetv2": {"logits": (1000,)},
    "unet": {"mask_logits": (1, 128, 128)},
    "detector": {"stride8": (24, 16, 16), "stride16": (24, 8, 8), "stride32": (24, 4, 4)},
}

# Published counts, except: ResNet-18 is the published CIFAR count (11,173,962) with 190 more classes, and the
# detector, which has no literature, is pinned so that a change of it is noticed.
PARAMETERS = {
    "vgg16-bn": 14_724_042,  # 14,728,266 with the redundant biases of its convolutions
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet18": 11_173_962 + 190 * 513,
    "resnet50": 25_557_032,
    "mobilenetv2": 3_504_872,
    "unet": 7_763_041,
    "detector": 3_045_400,
}

CONVOLUTIONS = {"vgg16-bn": 13, "resnet20": 19, "resnet56": 55, "resnet18": 20, "resnet50": 53, "mobilenetv2": 52}


@pytest.fixture(scope="module", params=models.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> ModelProto:
    return models.build(name)


def tensors(model: ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def declared_shape(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    return tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)


def test_passes_the_checker(model: ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)


def test_declares_its_input_and_outputs(name: str, model: ModelProto) -> None:
    assert [declared_shape(value) for value in model.graph.input] == [("batch", *INPUT_SHAPES[name])]
    expected = {output: ("batch", *shape) for output, shape in OUTPUT_SHAPES[name].items()}
    assert {value.name: declared_shape(value) for value in model.graph.output} == expected


def test_runs_with_sane_outputs(name: str, model: ModelProto) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = np.random.default_rng(0).standard_normal((batch, *INPUT_SHAPES[name]), dtype=np.float32)
        for shape, values in zip(OUTPUT_SHAPES[name].values(), session.run(None, {"input": images}), strict=True):
            assert values.shape == (batch, *shape)
            assert np.isfinite(values).all()
            # Upper bound for ResNet-56: identity norms let the variance grow with each of its 27 blocks.
            assert 1e-2 < values.std() < 1e4


def test_tells_images_apart(name: str, model: ModelProto) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((2, *INPUT_SHAPES[name]), dtype=np.float32)
    for values in session.run(None, {"input": images}):
        assert np.abs(values[0] - values[1]).max() > 1e-3


def test_has_the_published_size(name: str, model: ModelProto) -> None:
    assert models.parameter_count(model) == PARAMETERS[name]


@pytest.mark.parametrize(("network", "count"), CONVOLUTIONS.items())
def test_has_the_published_depth(network: str, count: int) -> None:
    assert sum(node.op_type == "Conv" for node in models.build(network).graph.node) == count


def test_vgg_size_follows_from_its_layers() -> None:
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convolutions_and_norms = sum(9 * before * after + 2 * after for before, after in pairwise(widths))
    assert PARAMETERS["vgg16-bn"] == convolutions_and_norms + 512 * 10 + 10


def test_names_are_unique(model: ModelProto) -> None:
    nodes = [node.name for node in model.graph.node]
    weights = [tensor.name for tensor in model.graph.initializer]
    assert all(nodes)
    assert len(set(nodes)) == len(nodes)
    assert all(weights)
    assert len(set(weights)) == len(weights)


def test_batch_normalization_is_the_identity(model: ModelProto) -> None:
    values = tensors(model)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert norms
    for norm in norms:
        for source, expected in zip(norm.input[1:], (1, 0, 0, 1), strict=True):
            assert (values[source] == expected).all()


def test_convolutions_have_kaiming_scale(model: ModelProto) -> None:
    values = tensors(model)
    for node in model.graph.node:
        if node.op_type != "Conv" or values[node.input[1]].size < 4000:
            continue
        weight = values[node.input[1]]
        groups = next(attribute.i for attribute in node.attribute if attribute.name == "group")
        fan_out = weight.shape[0] // groups * weight.shape[2] * weight.shape[3]
        assert weight.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.06)


def test_seed_fixes_every_byte(name: str, model: ModelProto) -> None:
    content = model.SerializeToString(deterministic=True)
    assert models.build(name, seed=0).SerializeToString(deterministic=True) == content
    assert models.build(name, seed=1).SerializeToString(deterministic=True) != content


def test_option_a_shortcuts_subsample_and_center() -> None:
    nodes = {node.name: node for node in models.build("resnet20").graph.node}
    assert {name for name, node in nodes.items() if node.op_type == "Pad"} == {
        "layer2.0.shortcut.pad",
        "layer3.0.shortcut.pad",
    }
    pads = numpy_helper.to_array(nodes["layer2.0.shortcut.pad.pads"].attribute[0].t)
    assert pads.tolist() == [0, 8, 0, 0, 0, 8, 0, 0]
    steps = numpy_helper.to_array(nodes["layer2.0.shortcut.slice.steps"].attribute[0].t)
    assert steps.tolist() == [2, 2]


def test_names_follow_pytorch() -> None:
    names = {tensor.name for tensor in models.build("resnet18").graph.initializer}
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.1.running_mean", "fc.bias"} <= names


def test_build_rejects_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown network 'alexnet'"):
        models.build("alexnet")


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_command_lists_every_network(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(models.NAMES)
    assert lines[1].split()[1:4] == ["3x32x32", "269,722", "parameters"]


def test_command_writes_a_network(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    command = [sys.executable, "-m", "models", "resnet20", str(target), "--seed", "7"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert target.read_bytes() == models.build("resnet20", seed=7).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["alexnet", "out.onnx"], "unknown network 'alexnet'"),
        (["alexnet"], "unknown network 'alexnet'"),
        (["resnet20"], "name the file to write"),
        (["resnet20", "absent/out.onnx"], "absent/out.onnx"),
        (["resnet20", "out.onnx", "--seed", "-1"], "non-negative"),
    ],
)
def test_command_explains_a_mistake_in_one_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not list(tmp_path.iterdir())
