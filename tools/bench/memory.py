"""Predicted peak of activations against what onnxruntime's arena is asked for.

usage: python tools/bench/memory.py NETWORK.onnx ...

Writes memory.json and memory.md beside this script.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from arena import RUN
from common import HERE, setting, table, write

import onnx_reconvene as rc
from onnx_reconvene.cost import CostModel

TEXT = (
    "Predicted: the largest sum of the activations that are alive at once, in MB (10^6 bytes). Arena: what onnxruntime asks its "
    "arena for in a second run, when it knows all sizes; it counts no inputs. Where both differ the arena has gaps between "
    "buffers, copies in another layout of channels, or room in which kernels work."
)


def arena(path: Path) -> int:
    """Return the bytes that onnxruntime's arena is asked for in a run."""
    line = [sys.executable, str(HERE / "arena.py"), str(path)]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    asked = re.findall(r"Extending BFCArena.*?num_bytes: (\d+)", said.split(RUN)[-1])
    return sum(int(number) for number in asked)


def main(paths: list[Path]) -> None:
    """Measure and write the figures."""
    where, rows = setting(), []
    for path in paths:
        cost = CostModel(rc.analyze(path))
        predicted, found = cost.activations(cost.dense), arena(path)
        rows.append([path.stem, *(round(x / 1e6, 3) for x in (predicted, found)), round(predicted / found, 2) if found else None])
    header = ["network", "predicted", "arena", "ratio"]
    ratios = [row[-1] for row in rows if row[-1] is not None]
    text = f"{TEXT}\n\n{table(header, rows)}\n\nThe median ratio is {np.median(ratios):.2f}."
    figures = {"networks": {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}}
    write(HERE / "memory.json", "Memory", "python tools/bench/memory.py NETWORK.onnx ...", where, figures, text)
    print(text)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
