"""The command with no options: half the multiply-accumulates, how fast, and what becomes of the weights?

usage: PYTHONPATH=. python tools/bench/default.py ZOO_DIR [--json FILE]

Runs it on the networks of models/, untrained, and on every network in ZOO_DIR. Writes default.json and default.md beside this
script, or FILE and its neighbour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import onnx
from common import HERE, setting, table, write

import models


@dataclass(frozen=True)
class Row:
    """What became of one network; the error alone if the command failed."""

    model: str
    seconds: float
    error: str | None = None
    stage: str | None = None
    criterion: str | None = None
    allocate: str | None = None
    weights: str | None = None  # none, rescale or reinit
    macs_kept: float | None = None
    params_kept: float | None = None
    verify: str | None = None


def measure(name: str, source: Path, folder: Path) -> Row:
    """Run the command on the network at source."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "onnx_reconvene", str(source), str(folder / "out.onnx"), "--report", str(report), "-q"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = round(time.perf_counter() - start, 2)
    if done.returncode:
        return Row(name, seconds, done.stderr.strip())
    found = json.loads(report.read_text())
    kept = [round(found["after"][kind] / found["before"][kind], 4) for kind in ("macs", "params")]
    chosen = (found["stage"], found["criterion"], found["allocate"], found["rectify"]["mode"])
    return Row(name, seconds, None, *chosen, *kept, found["verify"]["status"])


def main() -> None:
    """Run on all networks and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--json", type=Path, default=HERE / "default.json")
    given = parser.parse_args()
    where = setting("onnx-reconvene", "numpy", "onnx", "onnxruntime", "scipy")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in models.NAMES:
            onnx.save(models.build(name), Path(folder) / "in.onnx")
            rows.append(measure(f"models: {name}", Path(folder) / "in.onnx", Path(folder)))
        rows += [measure(path.stem, path, Path(folder)) for path in sorted(given.zoo.glob("*.onnx"))]
    columns = [column.name for column in fields(Row)]
    slowest = max(rows, key=lambda row: row.seconds)
    found = table(columns, [[getattr(row, column) for column in columns] for row in rows])
    text = f"Slowest: {slowest.model}, {slowest.seconds} s, the start of Python included.\n\n{found}"
    usage = "PYTHONPATH=. python tools/bench/default.py ZOO_DIR"
    write(given.json, "No options", usage, where, {"rows": [asdict(row) for row in rows]}, text)


if __name__ == "__main__":
    main()
