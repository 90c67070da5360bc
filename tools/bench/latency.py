"""Latency targets against latency measured anew, and what the allocator `latency` gains at equal MACs.

usage: PYTHONPATH=. python tools/bench/latency.py [NETWORK ...]

The networks are those of `python -m models`. Writes latency.json and latency.md beside this script.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from common import HERE, setting, table, write

import models
import onnx_reconvene as rc
from onnx_reconvene.graph import load, without_weights
from onnx_reconvene.latency.measure import latencies
from onnx_reconvene.sizes import input_sizes

TARGETS = (0.75, 0.5, 0.33)
NETWORKS = ("resnet50", "mobilenetv2", "vgg16-bn", "unet")
THREADS = (1, 2)
CUTS: dict[str, dict[str, Any]] = {
    "uniform, round-to 1": {"allocate": "uniform", "round_to": 1},
    "uniform, auto": {"allocate": "uniform"},
    "latency, auto": {"allocate": "latency", "threads": 1},
}


def again(paths: list[Path], threads: int) -> list[float]:
    """Return the milliseconds of one run of each network, in turn."""
    graphs = [load(path) for path in paths]
    return latencies([without_weights(graph) for graph in graphs], input_sizes(graphs[0], {}), threads)


def targets(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Return what came of each latency target, in milliseconds measured anew, with one thread."""
    rows = []
    for target in TARGETS:
        result = rc.prune(path, target=f"latency={target}", criterion="l2", allocate="latency", threads=1, verify=False)
        result.save(folder / "target.onnx")
        dense, cut = again([path, folder / "target.onnx"], 1)
        timing = result.report.latency
        assert timing is not None
        rows.append(
            {
                "target": target,
                "dense ms": round(dense, 3),
                "predicted ms": round(timing.predicted, 3),
                "measured ms": round(timing.measured or 0, 3),
                "anew ms": round(cut, 3),
                "of the target": round(cut / dense / target, 3),
                "MACs": round(result.report.after.macs / result.report.before.macs, 3),
                "seconds": round(result.report.seconds["total"], 1),
            }
        )
    return rows


def equal_macs(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Return how fast half the MACs are, times the dense network."""
    files = [folder / f"cut{k}.onnx" for k in range(len(CUTS))]
    for file, options in zip(files, CUTS.values(), strict=True):
        rc.prune(path, target="macs=0.5", criterion="l2", verify=False, **options).save(file)
    rows = []
    for threads in THREADS:
        dense, *cut = again([path, *files], threads)
        rows.append({"threads": threads, **{name: round(dense / ms, 2) for name, ms in zip(CUTS, cut, strict=True)}})
    return rows


def main(names: list[str]) -> None:
    """Measure and write the figures."""
    where, figures = setting(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in names:
            path = folder / f"{network}.onnx"
            onnx.save(models.build(network), path)
            figures[network] = {"targets": targets(path, folder), "half the MACs": equal_macs(path, folder)}
            print(network, figures[network], flush=True)
    parts = [
        "Latency targets, one thread; widths by the allocator `latency`. *Measured* is what the command saw, *anew* what the "
        "written model took when it was measured again beside the dense one; no more than 1.05 *of the target* is wanted.",
        *(_rows(figures, "targets")),
        "Half the MACs, kept by l2: times the speed of the dense network.",
        *(_rows(figures, "half the MACs")),
    ]
    write(HERE / "latency.json", "Latency", "python tools/bench/latency.py", where, figures, "\n\n".join(parts))


def _rows(figures: dict[str, dict[str, list[dict[str, Any]]]], part: str) -> list[str]:
    rows = [[network, *row.values()] for network, found in figures.items() for row in found[part]]
    header = next(iter(figures.values()))[part][0]
    return [table(["network", *header], rows)]


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
