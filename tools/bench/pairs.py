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
    parser.add_argument("--criteria", nargs="+", default=CRITERIA)
    parser.add_argument("--allocate", nargs="+", default=ALLOCATORS)
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    torch.set_num_threads(1)
    data = (*prepared("train", given.images), *prepared("test", TESTED))
    done: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, _, path in (pair.partition("=") for pair in given.networks):
        model = onnx.load(path)
        rows = done.setdefault(f"{name}, {given.images} images, {given.seeds} seeds", {})
        for allocate, criterion in product(given.allocate, given.criteria):
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
        known = {tuple(pair.split()): f"{100 * np.mean(row['accuracy']):.1f}" for pair, row in rows.items()}
        columns, lines = (list(dict.fromkeys(pair[k] for pair in known)) for k in (1, 0))
        body = [(criterion, *(known.get((criterion, allocate)) for allocate in columns)) for criterion in lines]
        parts += [f"## {key}", table(("criterion", *columns), body)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
