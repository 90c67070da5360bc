"""Gradients of networks exported from torch: are they those of torch autograd, and how long do they take?

usage: python tools/bench/gradients.py [--json FILE]

Needs torch. Errors are against torch in double precision, times against torch in single: forward and backward with the gradients
of all weights, one thread, in turns, CPU time. Writes gradients.json and gradients.md beside this script, or FILE and its
neighbour.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch_models
from common import HERE, cpu_milliseconds, setting, table

import onnx_reconvene as rc

REPEATS = 15
TIMED = [(name, 64, 1) for name in torch_models.MODELS]
TIMED += [(name, size, batch) for name in ("ResNet-18", "MobileNetV2") for size, batch in ((64, 32), (224, 1))]
ROUNDING = 1e-9  # of the largest gradient of the network; what is smaller in double precision is zero


@dataclass(frozen=True)
class Accuracy:
    """The gradients of one network, for a batch of two images of 64 pixels."""

    model: str
    nodes: int  # of the network with gradients
    transform_ms: float
    tensors: int
    worst: float  # largest error of a tensor, relative to its largest gradient
    tensor: str  # where it is worst


@dataclass(frozen=True)
class Speed:
    """CPU milliseconds of one forward and backward pass."""

    model: str
    size: int
    batch: int
    torch_ms: float
    ort_ms: float
    ratio: float


def exported(module: torch.nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """Return module as ONNX, no weight folded or renamed."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keep = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(module, (x,), buffer, training=keep, do_constant_folding=False, opset_version=17, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


def runner(model: onnx.ModelProto, names: list[str], x: torch.Tensor) -> Callable[[], Any]:
    """Return a function that runs the network of gradients on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs, feeds = [f"{name}.grad" for name in names], {model.graph.input[0].name: x.numpy()}
    return lambda: session.run(outputs, feeds)


def autograd(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the gradients of the sum of the outputs."""
    return torch.autograd.grad(module(x).sum(), list(module.parameters()))


def accuracy(name: str) -> Accuracy:
    """Compare the gradients of one network, tensor by tensor."""
    module, x = torch_models.build(name), torch.randn(2, 3, 64, 64)
    names = [key for key, _ in module.named_parameters()]
    model = exported(module, x)
    start = time.perf_counter()
    network = rc.gradients(model, names)
    took = time.perf_counter() - start
    expected = [g.numpy() for g in autograd(copy.deepcopy(module).double(), x.double())]
    floor = ROUNDING * max(np.abs(e).max() for e in expected)
    errors = {
        key: float(np.abs(f - e).max() / np.abs(e).max())
        for key, f, e in zip(names, runner(network, names, x)(), expected, strict=True)
        if np.abs(e).max() > floor
    }
    worst = max(errors, key=lambda key: errors[key])
    return Accuracy(name, len(network.graph.node), round(1e3 * took, 1), len(errors), errors[worst], worst)


def speed(name: str, size: int, batch: int) -> Speed:
    """Time one network, torch and onnxruntime in turns."""
    module, x = torch_models.build(name), torch.randn(batch, 3, size, size)
    names = [key for key, _ in module.named_parameters()]
    ours = runner(rc.gradients(exported(module, x), names), names, x)
    theirs, own = cpu_milliseconds([lambda: autograd(module, x), ours], REPEATS)
    return Speed(name, size, batch, round(theirs, 1), round(own, 1), round(own / theirs, 2))


def main() -> None:
    """Measure all and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "gradients.json")
    path = parser.parse_args().json
    torch.set_num_threads(1)
    where = setting() | {"torch": torch.__version__}
    errors, times = [], []
    for name in torch_models.MODELS:
        errors.append(accuracy(name))
        print(errors[-1], flush=True)
    for name, size, batch in TIMED:
        times.append(speed(name, size, batch))
        print(times[-1], flush=True)
    figures = {"setting": where, "accuracy": [asdict(e) for e in errors], "speed": [asdict(t) for t in times]}
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text(where, errors, times), encoding="utf-8")


def text(where: dict[str, Any], errors: list[Accuracy], times: list[Speed]) -> str:
    """Return the figures as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    origin = f"{versions}, torch {where['torch']}; {where['processors']} processors, load {where['load']} at the start."
    header = ["network", "nodes", "transform ms", "weights", "largest relative error", "where"]
    right = [[e.model, e.nodes, e.transform_ms, e.tensors, f"{e.worst:.1e}", e.tensor] for e in errors]
    fast = [[t.model, t.size, t.batch, t.torch_ms, t.ort_ms, t.ratio] for t in times]
    return "\n\n".join(
        [
            "# Gradients",
            "    python tools/bench/gradients.py",
            origin,
            "Against torch in double precision, 64 pixels, batch 2:",
            table(header, right),
            "Forward and backward with all weight gradients, one thread, CPU milliseconds, in turns with torch autograd:",
            table(["network", "pixels", "batch", "torch", "onnxruntime", "ratio"], fast) + "\n",
        ]
    )


if __name__ == "__main__":
    main()
