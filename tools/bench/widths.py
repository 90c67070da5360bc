"""Train pruned networks on CIFAR-10 at equal size: are Reconvene's widths better than simpler ones? Needs torch.

usage: PYTHONPATH=. python tools/bench/widths.py CIFAR_FOLDER [--networks NAME ...] [--seeds N] [--epochs N] [--images N] [--times]

"flat, MACs" and "reconvene, MACs" have as many multiply-accumulates as Reconvene has, whatever their parameters, all others what
the target says. "reconvene, kept" keeps the weights of the channels that stay.
CIFAR_FOLDER holds a module cifar10 with load(split, count) that returns images [n, 32, 32, 3] and labels, both uint8.
Every network is built, pruned, initialized anew (random channels keep their weights, too) and trained alike: SGD with momentum
0.9, one cycle up to a rate of 0.1, weight decay 5e-4, batches of 128, shifts and flips, bfloat16. Cells that widths.json has
already are not trained again; it is written after each, widths.md at the end. With --times nothing is trained, but each network of
the first seed that has not been is timed in onnxruntime, in turn with the dense one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import HERE, table
from numpy.typing import NDArray
from train import accuracy, prepared

import models
import onnx_reconvene as rc
from onnx_reconvene.bridges import open_model
from onnx_reconvene.graph import without_weights
from onnx_reconvene.latency.measure import latencies

METHODS = ("uniform", "flat", "unstructured", "reconvene", "reconvene, kept", "random", "flat, MACs", "reconvene, MACs")
TARGETS = {"params=1/4": METHODS, "params=1/16.21": METHODS, "macs=1/2": ("uniform", "flat", "reconvene")}
DENSE = "channels=1"
BATCH, RATE, DECAY, SHIFT = 128, 0.1, 5e-4, 4
CELLS = HERE / "widths.json"
ROW = ("network", "target", "epochs", "method")  # what cells of one row of the table have in common


def network(name: str, seed: int, method: str, target: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the network to train, and its parameters, multiply-accumulates and widths."""
    model = models.build(name, seed)
    if method == "dense":
        return model, described(rc.prune(model, target=DENSE).report.before, [])
    if method == "unstructured":
        found = rc.prune(model, target=target, criterion="synflow", granularity="weight")
        return found.model, described(found.report.after, [])
    allocate = "reconvene" if method == "random" else method.partition(",")[0]
    if method.endswith(", MACs"):
        target = f"macs={network(name, seed, 'reconvene', target)[1]['macs']}"
    rectify = "none" if method.endswith("kept") else "reinit"
    options = {"allocate": allocate, "round_to": 1, "rectify": rectify, "seed": seed}
    found = rc.prune(model, target=target, criterion="synflow", **options)
    if method == "random":
        keep = {f"{g.name}": g.kept / g.width for g in found.report.groups}
        found = rc.prune(model, target=DENSE, keep=keep, criterion="random", round_to=1, rectify="none", seed=seed)
    return found.model, described(found.report.after, [group.kept for group in found.report.groups])


def described(size: Any, widths: list[int]) -> dict[str, Any]:
    """Return what a cell says of its network."""
    return {"params": size.params, "macs": size.macs, "widths": widths}


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Return each image shifted by up to SHIFT pixels, and half of them flipped."""
    padded = torch.nn.functional.pad(images, (SHIFT,) * 4)
    rows, columns = (torch.randint(0, 2 * SHIFT + 1, (len(images), 1)) + torch.arange(32) for _ in range(2))
    columns = torch.where(torch.rand(len(images), 1) < 0.5, columns, columns.flip(1))
    moved = torch.gather(padded, 2, rows[:, None, :, None].expand(-1, 3, -1, padded.shape[3]))
    return torch.gather(moved, 3, columns[:, None, None, :].expand(-1, 3, 32, -1))


def trained(model: onnx.ModelProto, seed: int, epochs: int, data: tuple[NDArray[Any], ...]) -> float:
    """Train a network and return the accuracy on the test images. Weights that are zero stay so."""
    torch.manual_seed(seed)
    images, labels, tested, truth = (torch.from_numpy(array) for array in data)
    module = rc.to_torch(model).to(memory_format=torch.channels_last)  # a fifth faster for narrow layers
    masks = [(p, (p != 0).to(p.dtype)) for p in module.parameters() if p.ndim > 1 and bool((p == 0).any())]
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, weight_decay=DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for chosen in order[: steps * BATCH].split(BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                logits = module(shifted(images[chosen]).contiguous(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            for parameter, mask in masks:
                parameter.data.mul_(mask)
    return accuracy(module, tested, truth)


def speeds(done: list[dict[str, Any]]) -> None:
    """Enter, for the first seed, how many times faster than dense each network runs on one thread, where that is missing."""
    for cell in [cell for cell in done if cell["seed"] == 0 and "speed" not in cell]:
        dense = models.build(cell["network"], 0)
        cut, _ = network(cell["network"], 0, cell["method"], cell["target"])
        graphs = [open_model(model)[0] for model in (dense, cut)]
        before, after = latencies([without_weights(graph) for graph in graphs], rc.analyze(dense).sizes, 1)
        cell["speed"] = round(before / after, 3)


def cells(names: list[str], seeds: int) -> list[tuple[str, int, str, str]]:
    """Return what is to be trained, seed by seed."""
    return [
        (name, seed, method, target)
        for seed in range(seeds)
        for name in names
        for method, target in [("dense", DENSE), *((method, target) for target, all_ in TARGETS.items() for method in all_)]
    ]


def main() -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "vgg16-bn"])
    parser.add_argument("--methods", nargs="+", default=["dense", *METHODS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=12000)
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--times", action="store_true")
    given = parser.parse_args()
    done = json.loads(given.cells.read_text()) if given.cells.exists() else []
    if given.times:
        speeds(done)
    else:
        train_all(given, done)
    write(done, given.cells)
    given.cells.with_suffix(".md").write_text(report(done))


def train_all(given: argparse.Namespace, done: list[dict[str, Any]]) -> None:
    """Train what is missing, and add it to what is done."""
    sys.path.insert(0, given.folder)
    torch.set_num_threads(1)
    data = (*prepared("train", given.images), *prepared("test", 10000))
    for name, seed, method, target in cells(given.networks, given.seeds):
        key = {"network": name, "seed": seed, "method": method, "target": target, "images": given.images, "epochs": given.epochs}
        if method not in given.methods or any(key.items() <= cell.items() for cell in done):
            continue
        start = time.perf_counter()
        model, about = network(name, seed, method, target)
        accuracy = trained(model, seed, given.epochs, data)
        done.append({**key, **about, "accuracy": accuracy, "seconds": round(time.perf_counter() - start)})
        write(done, given.cells)
        print(done[-1], flush=True)


def write(done: list[dict[str, Any]], path: Path) -> None:
    """Write cells, a line each."""
    path.write_text("[\n" + ",\n".join(json.dumps(cell) for cell in done) + "\n]\n")


def report(done: list[dict[str, Any]]) -> str:
    """Return the table: per network, ratio, length of training and method mean and spread over the seeds."""
    rows = []
    for key in sorted({tuple(c[k] for k in ROW) for c in done}):
        own = [c for c in done if tuple(c[k] for k in ROW) == key]
        accuracy = 100 * np.asarray([c["accuracy"] for c in own])
        error = f"{accuracy.std(ddof=1) / np.sqrt(len(own)):.2f}" if len(own) > 1 else None
        sizes = (f"{np.mean([c[kind] for c in own]):,.0f}" for kind in ("params", "macs"))
        speed = next((c["speed"] for c in own if "speed" in c), None)
        rows.append((*key, len(own), f"{accuracy.mean():.2f}", error, *sizes, speed))
    head = (*ROW, "seeds", "accuracy %", "standard error", "params", "MACs", "speed")
    usage = "    PYTHONPATH=. python tools/bench/widths.py CIFAR_FOLDER"
    rule = (
        "With one seed a difference of less than a point says nothing. Running it again trains what is missing. MACs: as many as "
        "Reconvene has at that target."
    )
    return "\n\n".join(["# Widths", usage, rule, table(head, rows)]) + "\n"


if __name__ == "__main__":
    main()
