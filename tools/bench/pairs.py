"""Which data-free criterion and allocator keep most of a trained network's accuracy at half the multiply-accumulates? Needs torch.

usage: python tools/bench/pairs.py CIFAR_FOLDER NAME=TRAINED.onnx ... [--images N] [--seeds N]

TRAINED.onnx: a network trained by train.py. Each pair cuts it to half; it is then trained for one pass over N images and tested on
4,000. Pairs that pairs.json has already are not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from typing import Any

import numpy as np
import onnx
import torch
from common import HERE, table
from sensitivity import TESTED, retrained
from train import prepared

import onnx_reconvene as rc

RESULTS = HERE / "pairs.json"
CRITERIA = ("l1", "l2", "lamp", "fpgm", "bn-scale", "synflow", "random")
ALLOCATORS = ("uniform", "flat", "erk", "precrop", "global", "reconvene")


def main() -> None:
    """Cut, train, test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("networks", nargs="+", metavar="NAME=TRAINED.onnx")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    torch.set_num_threads(1)
    data = (*prepared("train", given.images), *prepared("test", TESTED))
    done: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, _, path in (pair.partition("=") for pair in given.networks):
        model = onnx.load(path)
        rows = done.setdefault(f"{name}, {given.images} images, {given.seeds} seeds", {})
        for allocate, criterion in product(ALLOCATORS, CRITERIA):
            if f"{criterion} {allocate}" not in rows:
                options = {"target": "macs=0.5", "criterion": criterion, "allocate": allocate, "rectify": "none", "round_to": 1}
                cut = rc.prune(model, **options, verify=False)
                found = {"params": cut.report.after.params, "accuracy": [retrained(cut.model, s, data) for s in range(given.seeds)]}
                rows[f"{criterion} {allocate}"] = found
                RESULTS.write_text(json.dumps(done, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(report(done))


def report(done: dict[str, Any]) -> str:
    """Return mean accuracies, criteria down, allocators across, network by network."""
    parts = ["# Pairs of criterion and allocator", "    python tools/bench/pairs.py CIFAR_FOLDER NAME=TRAINED.onnx ..."]
    parts.append("Accuracy in % after a cut to half the multiply-accumulates and one pass over some images.")
    for key, rows in done.items():
        cells = [[100 * np.mean(rows[f"{c} {a}"]["accuracy"]) for a in ALLOCATORS] for c in CRITERIA]
        means = np.mean(cells, 0)
        body = [(c, *(f"{cell:.1f}" for cell in row)) for c, row in zip(CRITERIA, cells, strict=True)]
        parts += [f"## {key}", table(("criterion", *ALLOCATORS), [*body, ("mean", *(f"{mean:.1f}" for mean in means))])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
