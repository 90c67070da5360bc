"""Accuracy left right after a cut, by criterion and by how the scores at a unit's sites are combined: no training afterwards.

usage: python tools/bench/aggregate.py TRAINED.onnx CIFAR_FOLDER

TRAINED.onnx is what train.py makes. CIFAR_FOLDER holds a module cifar10 with load(split, count). Writes aggregate.json and
aggregate.md beside this script.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from common import HERE, setting, table, write
from numpy.typing import NDArray
from train import prepared

import onnx_reconvene as rc
from onnx_reconvene.saliency import AGGREGATES

CRITERIA = ("l1", "l2", "lamp", "taylor", "snip")
ALLOCATORS = ("uniform", "global")
TARGETS = ("macs=0.8", "macs=0.6")
SAMPLES = 256  # that criteria with a loss see
TESTED = 2000


@dataclass(frozen=True)
class Row:
    """One cut network and its accuracy on test images."""

    criterion: str
    aggregate: str
    allocate: str
    target: str
    accuracy: float


def accuracy(model: onnx.ModelProto, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of images that model tells right."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = np.array_split(np.arange(len(images)), 8)
    return float(np.mean([session.run(None, {name: images[k]})[0].argmax(1) == labels[k] for k in parts]))


def main() -> None:
    """Measure all and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    where = setting()
    model = onnx.load(given.model)
    images, labels = prepared("train", SAMPLES)
    tested = prepared("test", TESTED)
    data = {model.graph.input[0].name: images, "labels": labels}
    dense = accuracy(model, *tested)
    rows = []
    for criterion in CRITERIA:
        seen: dict[str, Any] = {"data": data, "samples": SAMPLES} if rc.criteria[criterion].needs_data else {}
        for aggregate in AGGREGATES:
            for allocate in ALLOCATORS:
                for target in TARGETS:
                    options = {"criterion": criterion, "aggregate": aggregate, "allocate": allocate, "target": target, **seen}
                    cut = rc.prune(model, round_to=1, **options).model
                    rows.append(Row(criterion, aggregate, allocate, target, accuracy(cut, *tested)))
                    print(rows[-1], flush=True)
    figures = {"dense": dense, "rows": [asdict(row) for row in rows]}
    usage = "python tools/bench/aggregate.py resnet20.onnx CIFAR_FOLDER"
    write(HERE / "aggregate.json", "Accuracy after a cut", usage, where, figures, report(dense, rows))


def report(dense: float, rows: list[Row]) -> str:
    """Return the figures as a table: the mean over allocators and targets, and over criteria."""

    def of(**asked: str) -> float:
        return mean(row.accuracy for row in rows if all(getattr(row, key) == value for key, value in asked.items()))

    lines = [[c, *(f"{of(criterion=c, aggregate=a):.1%}" for a in AGGREGATES)] for c in CRITERIA]
    lines.append(["all", *(f"{of(aggregate=a):.1%}" for a in AGGREGATES)])
    lines += [[f"all, {x}", *(f"{of(aggregate=a, allocate=x):.1%}" for a in AGGREGATES)] for x in ALLOCATORS]
    head = (
        f"ResNet-20 trained by `train.py`; on {TESTED} test images {dense:.1%} before. Mean over "
        f"{' and '.join(ALLOCATORS)} allocation and {' and '.join(TARGETS)}, nothing trained or repaired after the cut.\n\n"
    )
    return head + table(["criterion", *AGGREGATES], lines)


if __name__ == "__main__":
    main()
