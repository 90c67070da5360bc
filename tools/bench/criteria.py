"""What criteria with data cost: the gradients of feature maps against those of all weights, and the memory of many samples.

usage: python tools/bench/criteria.py [--json FILE] [--times]

Needs torch, for the architectures. Times are CPU milliseconds of one batch, forward and backward, on one thread, the two in turns;
peak memory is that of a process of its own that runs the command. Writes criteria.json and criteria.md beside this script, or FILE
and its neighbour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
import onnx
import torch
import torch_models
from common import HERE, cpu_milliseconds, setting, table, write
from gradients import exported, runner
from onnx import helper

import onnx_reconvene as rc
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import BACKENDS, Calibration, Objective, OnnxRuntime
from onnx_reconvene.calibration.backend import compiled
from onnx_reconvene.saliency.sites import reads_and_makes

REPEATS = 15
TIMED = [(name, size, batch) for name in ("ResNet-18", "MobileNetV2") for size, batch in ((64, 32), (64, 1), (224, 1))]
PIXELS = 224
SCORED = {"taylor": 512, "snip": 64, "grasp": 16, "hutchinson": 4}  # samples


@dataclass(frozen=True)
class Speed:
    """CPU milliseconds of one batch with what taylor and fisher need, and with the gradients of all weights."""

    model: str
    size: int
    batch: int
    forward_ms: float
    feature_maps_ms: float
    weights_ms: float
    ratio: float
    backward_ratio: float  # of what is left without the forward pass


@dataclass(frozen=True)
class Memory:
    """Peak memory of the command on many samples, and seconds for scoring alone."""

    criterion: str
    samples: int
    batch: int
    peak_gb: float
    score_seconds: float


def network(name: str, size: int, batch: int | str) -> onnx.ModelProto:
    """Return a network in ONNX, for batches of this size or, where it is a name, of any."""
    model = exported(torch_models.build(name), torch.randn(batch if isinstance(batch, int) else 1, 3, size, size))
    if isinstance(batch, str):
        for value in [*model.graph.input, *model.graph.output]:
            value.type.tensor_type.shape.dim[0].dim_param = batch
    return model


def squared(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return model with the loss that is differentiated: the squared norm of its outputs, averaged over samples."""
    model.graph.node.append(helper.make_node("ReduceSumSquare", [model.graph.output[0].name], ["norm"], keepdims=0))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1 / batch, np.float32), "share"))
    model.graph.node.append(helper.make_node("Mul", ["norm", "share"], ["loss"]))
    return model


def speed(name: str, size: int, batch: int) -> Speed:
    """Time one network, the two in turns."""
    model, x = squared(network(name, size, batch), batch), torch.randn(batch, 3, size, size)
    graph, _ = open_model(model)
    analysis = rc.analyze(graph)
    images = np.broadcast_to(x.numpy(), (REPEATS + 1, batch, 3, size, size)).reshape(-1, 3, size, size)
    objective = Objective(graph, analysis.sizes, Calibration(images, samples=len(images), loss="loss"))
    batches = objective.contractions(reads_and_makes(analysis), per_sample=True)
    names = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and "running" not in t.name]
    names.remove("share")
    full = runner(rc.gradients(model, names, "loss"), names, x)
    forward, feeds = compiled(graph.source, ["loss"], threads=1), {model.graph.input[0].name: x.numpy()}
    there, ours, theirs = cpu_milliseconds([lambda: forward(feeds), lambda: next(batches), full], REPEATS)
    back = (ours - there) / (theirs - there)
    return Speed(name, size, batch, round(there, 1), round(ours, 1), round(theirs, 1), round(ours / theirs, 2), round(back, 2))


def memory(criterion: str, samples: int, folder: Path) -> Memory:
    """Run the command in a process of its own and return the most memory that it held."""
    report = folder / "report.json"
    words = [str(folder / "model.onnx"), "--dry-run", "--no-verify", "-q", "--criterion", criterion]
    words += ["--data", str(folder / "images.npy"), "--samples", str(samples), "--report", str(report)]
    measured = "import resource, sys; from onnx_reconvene.cli import main; status = main(sys.argv[1:]); "
    measured += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    command = [sys.executable, "-c", measured, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(report.read_text())
    peak = int(done.stdout.split()[-1]) / 2**20
    return Memory(criterion, samples, found["data"]["batch_size"], round(peak, 2), round(found["seconds"]["score"], 1))


def memories() -> list[Memory]:
    """Score a ResNet-50 on random images that lie in a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(network("ResNet-50", PIXELS, "n"), folder / "model.onnx")
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.float32, (max(SCORED.values()), 3, PIXELS, PIXELS))
        rng = np.random.default_rng(0)
        for image in images:
            image[:] = rng.standard_normal(image.shape, np.float32)
        del images
        found = []
        for criterion, samples in SCORED.items():
            found.append(memory(criterion, samples, folder))
            print(found[-1], flush=True)
        return found


def main() -> None:
    """Measure all and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "criteria.json")
    parser.add_argument("--times", action="store_true", help="measure times alone; the figures of memory stay as they are")
    given = parser.parse_args()
    path = given.json
    torch.set_num_threads(1)
    where = setting("torch")
    held = [Memory(**row) for row in json.loads(path.read_text())["memory"]] if given.times else memories()
    BACKENDS["ort"] = lambda: OnnxRuntime(threads=1)
    times = []
    for name, size, batch in TIMED:
        times.append(speed(name, size, batch))
        print(times[-1], flush=True)
    figures = {"speed": [asdict(t) for t in times], "memory": [asdict(m) for m in held]}
    write(path, "Criteria with data", "python tools/bench/criteria.py", where, figures, text(times, held))


def text(times: list[Speed], held: list[Memory]) -> str:
    """Return the figures as Markdown."""
    header = [field.name.replace("_", " ") for field in fields(Speed)]
    parts = [
        "Forward and backward of one batch, one thread, CPU milliseconds, in turns: with the sums over feature maps that taylor "
        "and fisher need, and with the gradients of all weights:",
        table(header, [astuple(t) for t in times]),
        "The way there, the way back to feature maps and that to weights are about as much arithmetic each. So two thirds are "
        "what to expect of both ways together, and half of the way back; less where the way to weights takes longer than its "
        "arithmetic, or where the last part of the way back, through the pooling of the stem, need not be gone.",
        f"ResNet-50 at {PIXELS} pixels on samples from a file, the whole command, batches of automatic size:",
        table(
            ("criterion", "samples", "batch", "peak GB", "seconds to score"),
            [(m.criterion, m.samples, m.batch, m.peak_gb, m.score_seconds) for m in held],
        ),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
