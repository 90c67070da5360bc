"""Fixtures shared by the tests: networks, the command line in this process and in one of its own, independent counts."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import ModelProto, helper, numpy_helper, parser, shape_inference

import models
from onnx_reconvene.allocate import budget
from onnx_reconvene.cli import main

ROOT = Path(__file__).parents[1]
ZOO = ROOT.parent / "shared" / "zoo"


def pytest_configure(config: pytest.Config) -> None:
    """Name our marks, and let random tests run alike everywhere and however slow the machine."""
    os.environ["XDG_CACHE_HOME"] = folder = tempfile.mkdtemp(prefix="reconvene-cache-")  # nothing measured before counts
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    settings.register_profile("steady", deadline=None, derandomize=True)
    settings.load_profile("steady")
    config.addinivalue_line("markers", "slow: takes seconds; -m 'not slow' leaves it out")


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Size:
    """What a model costs, counted on the model itself."""

    params: int
    macs: int
    bytes: int


@cache
def _serialized(name: str) -> bytes:
    return models.build(name).SerializeToString(deterministic=True)


@pytest.fixture(scope="session")
def network() -> Callable[[str], ModelProto]:
    """Return a fresh copy of a standard network."""
    return lambda name: onnx.load_from_string(_serialized(name))


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write a standard network or any other model to a new folder and return its path."""

    def write(model: str | ModelProto = "resnet20", name: str = "in.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(_serialized(model) if isinstance(model, str) else model.SerializeToString(deterministic=True))
        return path

    return write


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def call(*words: object) -> Ran:
        status = main([str(word) for word in words])
        return Ran(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def command() -> Callable[..., Ran]:
    """Run the command line, or other Python code with `python=...`, in a process of its own."""

    def call(*words: object, python: str | None = None, **environment: str) -> Ran:
        start = ["-m", "onnx_reconvene"] if python is None else ["-c", python]
        line = [sys.executable, *start, *(str(word) for word in words)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def parsed() -> Callable[..., ModelProto]:
    """Return the model that ONNX text describes; weights given by name and shape are drawn from a seed."""

    def parse(text: str, seed: int = 0, **weights: tuple[int, ...]) -> ModelProto:
        rng = np.random.default_rng(seed)
        model = parser.parse_model(text)
        for name, shape in weights.items():
            model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name))
        return model

    return parse


@pytest.fixture
def blocks_of_16(monkeypatch):
    """Let the kernels of the runtime compute 16 channels at a time."""
    monkeypatch.setattr(budget, "channel_step", lambda: 16)


@pytest.fixture(scope="session")
def count() -> Callable[..., Size]:
    """Count parameters, bytes and multiply-accumulates of a model, knowing nothing of the library."""
    return counted


def counted(model: ModelProto, **inputs: tuple[int, ...]) -> Size:
    """Return the costs of model; inputs with free dimensions are given a shape."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in inputs:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, inputs[value.name]))
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    inferred = shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*inferred.input, *inferred.value_info]}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.output}
    shapes |= {t.name: list(t.dims) for t in inferred.initializer}
    shapes |= {
        n.output[0]: list(a.t.dims) for n in inferred.node for a in n.attribute if n.op_type == "Constant" and a.name == "value"
    }
    floats = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2, onnx.TensorProto.DOUBLE: 8}
    sizes = [(math.prod(t.dims), floats[t.data_type]) for t in model.graph.initializer if t.data_type in floats]
    macs = sum(_macs(node, shapes) for node in inferred.node)
    return Size(sum(n for n, _ in sizes), macs, sum(n * width for n, width in sizes))


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    a, b, y = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(b) * y[0] * math.prod(y[2:])
    if node.op_type == "ConvTranspose":
        return math.prod(b) * a[0] * math.prod(a[2:])
    if node.op_type == "MatMul":
        return math.prod(y) * a[-1]
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(y) * a[0 if transposed else 1]


@pytest.fixture(scope="session")
def zoo() -> Callable[[str], ModelProto]:
    """Return a real architecture with freshly drawn weights."""
    if not ZOO.is_dir():
        pytest.skip("no zoo beside this checkout")
    materialize = _module(ZOO / "materialize.py")
    return lambda name: materialize.materialize(ZOO / f"{name}.onnx")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Forget the criteria and allocators that a test registers."""
    from onnx_reconvene import allocators, criteria

    before = dict(criteria), dict(allocators)
    yield
    for registry, content in zip((criteria, allocators), before, strict=True):
        registry.clear()
        registry.update(content)
