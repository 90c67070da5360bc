"""Accuracy of a trained network right after a cut, by how it was repaired: no training afterwards.

usage: python tools/bench/repair.py TRAINED.onnx CIFAR_FOLDER

TRAINED.onnx is what train.py makes. CIFAR_FOLDER holds a module cifar10 with load(split, count). Writes repair.json and
repair.md beside this script.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass

import onnx
from aggregate import TESTED, accuracy
from common import HERE, setting, table, write
from train import prepared

import onnx_reconvene as rc

TARGETS = ("macs=0.7", "macs=0.5", "macs=0.35")
SAMPLES = (128, 512)
REPAIRS = [("none", 0), *((mode, samples) for mode in ("bn", "lstsq") for samples in SAMPLES)]


@dataclass(frozen=True)
class Row:
    """One cut network, its accuracy on test images, and the CPU seconds of cut and repair."""

    target: str
    repair: str
    samples: int
    accuracy: float
    seconds: float


def main() -> None:
    """Measure all and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    where = setting()
    model = onnx.load(given.model)
    images, _ = prepared("train", max(SAMPLES))
    tested = prepared("test", TESTED)
    rows = []
    for target in TARGETS:
        for repair, samples in REPAIRS:
            data = {"data": images, "samples": samples} if samples else {}
            start = time.process_time()
            options = {"target": target, "criterion": "l2", "allocate": "uniform", "round_to": 1, "repair": repair}
            cut = rc.prune(model, verify=False, **options, **data).model
            seconds = time.process_time() - start
            rows.append(Row(target, repair, samples, accuracy(cut, *tested), round(seconds, 1)))
            print(rows[-1], flush=True)
    dense = accuracy(model, *tested)
    figures = {"dense": dense, "rows": [asdict(row) for row in rows]}
    usage = "python tools/bench/repair.py resnet20.onnx CIFAR_FOLDER"
    write(HERE / "repair.json", "Repair after a cut", usage, where, figures, report(dense, rows))


def report(dense: float, rows: list[Row]) -> str:
    """Return the figures as a table."""
    found = {(row.repair, row.samples, row.target): row for row in rows}
    lines = []
    for repair, samples in REPAIRS:
        own = [found[repair, samples, target] for target in TARGETS]
        lines.append([repair, samples or None, *(f"{row.accuracy:.1%}" for row in own), f"{max(row.seconds for row in own):.1f}"])
    head = (
        f"ResNet-20 trained by `train.py`, pruned by `l2` and `uniform` to a share of its MACs; on {TESTED} test images "
        f"{dense:.1%} before. Samples are training images without labels; nothing is trained after the cut.\n\n"
    )
    return head + table(["repair", "samples", *TARGETS, "CPU s, at most"], lines)


if __name__ == "__main__":
    main()
