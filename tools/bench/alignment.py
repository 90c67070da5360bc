"""Layers cut to the widths that are chosen automatically, against the dense ones: is any slower?

usage: PYTHONPATH=. python tools/bench/alignment.py MODEL.onnx ...

Half of the multiply-accumulates of each network are cut away, by magnitude and the same fraction everywhere. Each convolution and
matrix product whose shapes changed is timed alone, before and after, in one process in turn, on one thread; what seems slower is
timed again. Writes alignment.json and alignment.md beside this script.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, setting, table, write

import onnx_reconvene as rc
from onnx_reconvene.latency.kernels import Kernel, Work
from onnx_reconvene.latency.measure import Job
from onnx_reconvene.latency.runtime import Runtime

SLOWER = 1.02  # more is timed again
AGAIN = 3
Pair = tuple[Kernel, Kernel]  # dense, cut


def pairs(path: str, round_to: int) -> list[Pair]:
    """Return the kernels that changed, each pair once."""
    cut = rc.prune(path, criterion="l1", allocate="uniform", round_to=round_to, verify=False)
    analysis = rc.analyze(path)
    work = Work(analysis)
    dense = np.asarray([group.width for group in analysis.groups])
    kept = np.asarray([group.kept for group in cut.report.groups])
    sizes = [work.axes(widths) for widths in (dense, kept)]
    found = [tuple(layer.kernel(work.axes, at) for at in sizes) for layer in work.layers]
    return [(before, after) for before, after in dict.fromkeys(found) if before != after]


def ratios(found: list[Pair]) -> np.ndarray:
    """Return how long each pair takes after the cut, in parts of before, [pairs]; of repeated timings the least."""

    def timed(some: list[Pair]) -> np.ndarray:
        took = Job(kernels=list(dict.fromkeys(kernel for pair in some for kernel in pair))).run(Runtime(1))
        return np.asarray([took[str(after)] / took[str(before)] for before, after in some])

    result = timed(found)
    for _ in range(AGAIN):
        slow = np.flatnonzero(result > SLOWER)
        if slow.size:
            result[slow] = np.minimum(result[slow], timed([found[k] for k in slow]))
    return result


def row(path: str) -> dict[str, Any]:
    """Return the row of a network."""
    result: dict[str, Any] = {"network": Path(path).stem}
    for name, round_to in (("auto", 0), ("round-to 1", 1)):
        found = pairs(path, round_to)
        ratio = ratios(found)
        worst = int(ratio.argmax())
        result |= {
            f"{name}: layers": len(found),
            f"{name}: slower": int((ratio > SLOWER).sum()),
            f"{name}: most": round(float(ratio[worst]), 3),
        }
        if round_to == 0 and ratio[worst] > SLOWER:
            result["slowest"] = " -> ".join(map(str, found[worst]))
    return result


def main(paths: list[str]) -> None:
    """Measure and write."""
    where, rows = setting(), []
    for path in paths:
        rows.append(row(path))
        print(rows[-1], flush=True)
    head = [key for key in rows[0] if key != "slowest"]
    said = f"Distinct layers that changed, how many are slower by more than {SLOWER - 1:.0%}, and the most time over that before."
    slow = [f"{r['network']}: `{r['slowest']}`" for r in rows if "slowest" in r]
    text = "\n\n".join([said, table(head, [[r[key] for key in head] for r in rows]), *slow])
    write(
        HERE / "alignment.json",
        "Widths and kernels",
        "PYTHONPATH=. python tools/bench/alignment.py MODEL.onnx ...",
        where,
        {"rows": rows},
        text,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
