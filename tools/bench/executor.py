"""Networks executed by torch from ONNX: do they give what onnxruntime gives, what gradients, and how long do they take?

usage: python tools/bench/executor.py [--networks FOLDER ...] [--json FILE]

Needs torch. Every network in the folders (with weights) runs in torch and in onnxruntime, its optimizations off, on the same random
inputs; where the two differ, so may onnxruntime with its optimizations. Gradients of eight architectures are compared with those of
the torch modules they were exported from, in double precision, and with those of `onnx_reconvene.gradients` in onnxruntime. Times
are of forward and backward with the gradients of all weights, one thread, in turns with the original module, CPU time. Writes
executor.json and executor.md beside this script, or FILE and its neighbour.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch_models
from common import HERE, setting, table, write
from gradients import autograd, exported, runner
from numpy.typing import NDArray
from onnx import helper

import onnx_reconvene as rc
from onnx_reconvene.executor import gradients_of
from onnx_reconvene.graph import from_model
from onnx_reconvene.sizes import input_sizes

REPEATS = 15
SHAPES = ((64, 1), (64, 32), (224, 1))  # pixels, batch
TIMED = ("ResNet-18", "MobileNetV2")
Arrays = dict[str, NDArray[np.generic]]
TOLERANCE = 1e-4  # of the largest value of an output


@dataclass(frozen=True)
class Output:
    """The largest error of an output of one network against onnxruntime, relative to its largest value; why there is none."""

    network: str
    error: float | None
    itself: float | None = None  # where this is above the tolerance: of onnxruntime with its optimizations
    failure: str = ""


@dataclass(frozen=True)
class Accuracy:
    """The largest errors of the gradients of a weight, relative to its largest gradient, for a batch of two images of 64 pixels."""

    model: str
    weights: int
    torch: float  # against the original module in double precision
    single: float  # of the original module in single precision, against itself in double
    ort: float  # against onnx_reconvene.gradients


@dataclass(frozen=True)
class Speed:
    """CPU milliseconds of one forward and backward pass."""

    model: str
    size: int
    batch: int
    torch_ms: float
    ours_ms: float
    ratio: float


def drawn(model: onnx.ModelProto) -> Arrays:
    """Return random inputs of the smallest legal sizes; integers are 1 or 2, so that they index and count."""
    rng, feeds = np.random.default_rng(0), {}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for name, shape in input_sizes(from_model(model), {}).items():
        dtype = helper.tensor_dtype_to_np_dtype(kinds[name])
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(1, 3, shape)
        feeds[name] = values.astype(dtype)
    return feeds


def output(path: Path) -> Output:
    """Compare the outputs of one network."""
    model = onnx.load(path)
    try:
        feeds = drawn(model)
        expected = run(model, feeds, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        with torch.no_grad():
            found = rc.to_torch(model)(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    except Exception as error:  # whatever it is, it is a figure
        return Output(path.stem, None, failure=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    tensors = found if isinstance(found, tuple) else (found,)
    error = max(map(relative, [tensor.numpy() for tensor in tensors], expected))
    if error <= TOLERANCE:
        return Output(path.stem, error)
    optimized = run(model, feeds, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    return Output(path.stem, error, max(map(relative, optimized, expected)))


def run(model: onnx.ModelProto, feeds: Arrays, level: ort.GraphOptimizationLevel) -> list[NDArray[np.generic]]:
    """Return what onnxruntime gives on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, 1, 4
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def relative(found: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """Return the largest error, relative to the largest expected value."""
    expected = expected.astype(np.float64)
    return float(np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30))


def accuracy(name: str) -> Accuracy:
    """Compare the gradients of one network with those of its original and with those in onnxruntime."""
    module, x = torch_models.build(name), torch.randn(2, 3, 64, 64)
    names = [key for key, _ in module.named_parameters()]
    model = exported(module, x)
    executed = rc.to_torch(model)
    ours = gradients_of(executed, {executed.inputs[0]: x.numpy()}, names).gradients
    exact = dict(zip(names, autograd(copy.deepcopy(module).double(), x.double()), strict=True))
    other = dict(zip(names, runner(rc.gradients(model, names), names, x)(), strict=True))
    floor = 1e-9 * max(float(g.abs().max()) for g in exact.values())  # what is smaller in double precision is zero
    alive = [key for key in names if exact[key].abs().max() > floor]
    single = dict(zip(names, autograd(module, x), strict=True))
    pairs = ((ours, exact), (single, exact), (ours, other))
    errors = [max(relative(np.asarray(found[key]), np.asarray(e[key])) for key in alive) for found, e in pairs]
    return Accuracy(name, len(alive), *errors)


def speed(name: str, size: int, batch: int) -> Speed:
    """Time one network, the original module and ours in turns."""
    module, x = torch_models.build(name), torch.randn(batch, 3, size, size)
    ours = rc.to_torch(exported(module, x))
    times: dict[torch.nn.Module, list[float]] = {module: [], ours: []}
    for run in times:
        autograd(run, x)
    for _ in range(REPEATS):
        for run, taken in times.items():
            start = time.process_time()
            autograd(run, x)
            taken.append(1e3 * (time.process_time() - start))
    theirs, own = (median(taken) for taken in times.values())
    return Speed(name, size, batch, round(theirs, 1), round(own, 1), round(own / theirs, 2))


def main() -> None:
    """Measure all and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, nargs="*", metavar="FOLDER", default=[])
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "executor.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    where = setting("torch")
    times = [speed(name, size, batch) for name in TIMED for size, batch in SHAPES]
    errors = [accuracy(name) for name in torch_models.MODELS]
    outputs = {folder.name: [output(path) for path in sorted(folder.glob("*.onnx"))] for folder in given.networks}
    figures = {
        "speed": [asdict(t) for t in times],
        "gradients": [asdict(e) for e in errors],
        "outputs": {name: [asdict(o) for o in found] for name, found in outputs.items()},
    }
    usage = "python tools/bench/executor.py --networks FOLDER ..."
    write(given.json, "Networks executed by torch", usage, where, figures, text(times, errors, outputs))


def text(times: list[Speed], errors: list[Accuracy], outputs: dict[str, list[Output]]) -> str:
    """Return the figures as Markdown."""
    fast = [[t.model, t.size, t.batch, t.torch_ms, t.ours_ms, t.ratio] for t in times]
    right = [[e.model, e.weights, f"{e.torch:.1e}", f"{e.single:.1e}", f"{e.ort:.1e}"] for e in errors]
    parts = [
        "Forward and backward with all weight gradients, one thread, CPU milliseconds, in turns with the original module:",
        table(["network", "pixels", "batch", "torch", "from ONNX", "ratio"], fast),
        "Largest relative error of a gradient: against the original module in double precision; that of the original module in "
        "single precision; against onnxruntime:",
        table(["network", "weights", "from ONNX", "torch", "onnxruntime"], right),
    ]
    for name, found in outputs.items():
        good = [o for o in found if o.error is not None and o.error <= TOLERANCE]
        parts.append(f"Outputs in `{name}`: {len(good)} of {len(found)} networks are within {TOLERANCE} of onnxruntime.")
        rows = [[o.network, *(e and f"{e:.1e}" for e in (o.error, o.itself)), o.failure] for o in found if o not in good]
        if rows:
            parts.append(table(["network", "relative error", "onnxruntime against itself, optimized", "failure"], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
