"""Accuracy left right after a cut, by criterion and by how the scores at a unit's sites are combined: no training afterwards.

usage: python tools/bench/aggregate.py TRAINED.onnx ... CIFAR_FOLDER

Each TRAINED.onnx classifies CIFAR-10, as what train.py makes. CIFAR_FOLDER holds a module cifar10 with load(split, count). Writes
aggregate.json and aggregate.md beside this script, or where --json says.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import onnx
import onnxruntime as ort
from common import HERE, setting, table, write
from numpy.typing import NDArray
from train import prepared

import onnx_reconvene as rc
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes import Allocate, Cut, Load, Score, Sequential, Verify
from onnx_reconvene.saliency import AGGREGATES

USAGE = "python tools/bench/aggregate.py TRAINED.onnx ... CIFAR_FOLDER"
CRITERIA = ("l1", "l2", "lamp", "taylor", "snip")
ALLOCATORS = ("uniform", "global")
TARGETS = ("macs=0.8", "macs=0.6")
SAMPLES = 256  # that criteria with a loss see
TESTED = 1000


@dataclass(frozen=True)
class Row:
    """One cut network and its accuracy on test images."""

    network: str
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


def measure(path: Path) -> tuple[float, list[Row]]:
    """Return the accuracy of a network, and that of all cuts of it."""
    model = onnx.load(path)
    images, labels = prepared("train", SAMPLES)
    tested = prepared("test", TESTED)
    data = Calibration({model.graph.input[0].name: images, "labels": labels}, SAMPLES)
    rows = []
    for criterion in CRITERIA:
        given = data if rc.criteria[criterion].needs_data else Calibration()
        for aggregate in AGGREGATES:
            scores = scored(model, Score(criterion, 0, aggregate, given))
            for allocate in ALLOCATORS:
                for target in TARGETS:
                    cut = cut_by(model, scores, Allocate(target, allocate, round_to=1))
                    rows.append(Row(path.stem, criterion, aggregate, allocate, target, accuracy(cut, *tested)))
                    print(rows[-1], flush=True)
    return accuracy(model, *tested), rows


def scored(model: onnx.ModelProto, score: Score) -> NDArray[np.float64]:
    """Return the scores of all units."""
    graph, _ = open_model(model)
    Sequential(Load(), score).run(graph)
    scores = notes_of(graph).scores
    assert scores is not None
    return scores


def cut_by(model: onnx.ModelProto, scores: NDArray[np.float64], allocate: Allocate) -> onnx.ModelProto:
    """Return the network cut by given scores."""
    graph, back = open_model(model)
    Load().run(graph)
    notes_of(graph).scores = scores
    Sequential(allocate, Cut(), Verify()).run(graph)
    return back(graph)


def main() -> None:
    """Measure all and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="TRAINED.onnx")
    parser.add_argument("folder")
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "aggregate.json")
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    where, dense, rows = setting(), {}, []
    for path in given.models:
        dense[path.stem], found = measure(path)
        rows += found
    figures = {"dense": dense, "rows": [asdict(row) for row in rows]}
    write(given.json, "Accuracy after a cut", USAGE, where, figures, report(dense, rows))


def report(dense: dict[str, float], rows: list[Row]) -> str:
    """Return the figures as tables, one for each network: the mean over allocators and targets, and over criteria."""
    parts = [
        f"On {TESTED} test images of CIFAR-10. Mean over {' and '.join(ALLOCATORS)} allocation and {' and '.join(TARGETS)}, nothing"
        " trained or repaired after the cut."
    ]
    for network, before in dense.items():
        parts += [f"{network}, {before:.1%} before:", of_network([row for row in rows if row.network == network])]
    return "\n\n".join(parts)


def of_network(rows: list[Row]) -> str:
    """Return the table of one network."""

    def of(**asked: str) -> float:
        return mean(row.accuracy for row in rows if all(getattr(row, key) == value for key, value in asked.items()))

    lines = [[c, *(f"{of(criterion=c, aggregate=a):.1%}" for a in AGGREGATES)] for c in CRITERIA]
    lines.append(["all", *(f"{of(aggregate=a):.1%}" for a in AGGREGATES)])
    lines += [[f"all, {x}", *(f"{of(aggregate=a, allocate=x):.1%}" for a in AGGREGATES)] for x in ALLOCATORS]
    lines += [[f"all, {t}", *(f"{of(aggregate=a, target=t):.1%}" for a in AGGREGATES)] for t in TARGETS]
    return table(["criterion", *AGGREGATES], lines)


if __name__ == "__main__":
    main()
