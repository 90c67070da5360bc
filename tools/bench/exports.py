"""Prune what torch's two exporters make of transformers' own models, tiny ones with random weights, to half of their MACs.

usage: python tools/bench/exports.py OUTDIR [--only PATTERN] [--json FILE]

export_families.py makes the exports in OUTDIR, those that are not there yet; it needs more than the project does:
pip install torch transformers onnxscript. The batch size is free where the exporter can do that, and the example's where not.
Weights are as the models initialize them. Writes exports.json and exports.md beside this script, or to FILE and its neighbour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from common import HERE, setting, table, write
from zoo import alike, kept

BATCH = 2  # of the examples that the exporters trace
TARGET = ("--target", "macs=0.5")
MESSAGE = 160  # characters


@dataclass(frozen=True)
class Row:
    """What became of one export; without nodes there is none, and without an exit status of 0 no smaller one."""

    model: str
    exporter: str
    nodes: int | None = None
    batch: str | None = None  # "free" or "fixed"
    exit: int | None = None
    error: str | None = None
    macs_kept: float | None = None
    params_kept: float | None = None
    verify: str | None = None
    max_rel_err: float | None = None
    alike: str | None = None  # at the batch size of the export and, where that is free, at others
    seconds: float | None = None  # of the whole command

    @property
    def well(self) -> bool:
        """Whether the target was reached, and the result verified and run."""
        return self.exit == 0 and self.verify in ("exact", "shape-only") and self.alike == "yes"


def measure(source: Path) -> Row:
    """Prune one export, or tell why there is none, and look at what came of it."""
    model, exporter = source.stem.split("__")
    if source.suffix == ".txt":
        return Row(model, exporter, error=f"no export: {first_line(source.read_text(encoding='utf-8'))}")
    proto = onnx.load(source)
    free = any(value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input)
    about = {"model": model, "exporter": exporter, "nodes": len(proto.graph.node), "batch": "free" if free else "fixed"}
    with tempfile.TemporaryDirectory() as place:
        target, report = Path(place) / "pruned.onnx", Path(place) / "report.json"
        line = [sys.executable, "-m", "onnx_reconvene", str(source), str(target), *TARGET, "--report", str(report)]
        start = time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        seconds = round(time.perf_counter() - start, 2)
        if done.returncode:
            return Row(**about, exit=done.returncode, error=first_line(done.stderr) or "no message", seconds=seconds)
        found = json.loads(report.read_text(encoding="utf-8"))
        return Row(
            **about,
            exit=0,
            macs_kept=kept(found["before"]["macs"], found["after"]["macs"]),
            params_kept=kept(found["before"]["params"], found["after"]["params"]),
            verify=found["verify"]["status"],
            max_rel_err=found["verify"]["max_rel_err"],
            error=found["verify"]["reason"] if found["verify"]["status"] == "skipped" else None,
            alike=alike_at(source, target, proto, (BATCH, BATCH + 1, 1) if free else (BATCH,)),
            seconds=seconds,
        )


def first_line(message: str) -> str:
    """Return the first line of message, or what fits of it."""
    return message.strip().split("\n", 1)[0][:MESSAGE]


def alike_at(original: Path, pruned: Path, proto: onnx.ModelProto, batches: Sequence[int]) -> str:
    """Return "yes" if original and pruned run alike at all these batch sizes, else how not at the first one."""
    for batch in batches:
        sizes = {v.name: [d.dim_value or batch for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
        found = alike(original, pruned, sizes)
        if found != "yes":
            return f"batch {batch}: {found}"
    return "yes"


def summary(rows: Sequence[Row]) -> dict[str, int]:
    """Return counts over rows."""
    return {
        "exports tried": len(rows),
        "exported": sum(row.nodes is not None for row in rows),
        "with a free batch": sum(row.batch == "free" for row in rows),
        "exit 0": sum(row.exit == 0 for row in rows),
        "verified exact": sum(row.verify == "exact" for row in rows),
        "verified shape-only": sum(row.verify == "shape-only" for row in rows),
        "exit 0, verified and run alike": sum(row.well for row in rows),
    }


def shown(sums: Mapping[str, Mapping[str, int]], rows: Sequence[Row]) -> str:
    """Return summaries and rows as Markdown."""
    counts = table(["", *sums], [[key, *(one[key] for one in sums.values())] for key in next(iter(sums.values()))])
    header = ["model", "exporter", "nodes", "batch", "exit", "verification", "error"]
    header += ["MACs kept", "params kept", "runs alike", "seconds", "remark"]
    cells = [
        [
            *(r.model, r.exporter, r.nodes, r.batch, r.exit, r.verify, None if r.max_rel_err is None else f"{r.max_rel_err:.1e}"),
            *(r.macs_kept, r.params_kept, r.alike, r.seconds, r.error and r.error.replace("|", "/")),
        ]
        for r in rows
    ]
    return f"Pruned with `{' '.join(TARGET)}`.\n\n{counts}\n\n{table(header, cells)}"


def main() -> None:
    """Export, prune, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUTDIR")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="models by name, a shell pattern")
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "exports.json")
    given = parser.parse_args()
    subprocess.run(
        [sys.executable, str(HERE / "export_families.py"), str(given.folder), given.only], stdout=subprocess.DEVNULL, check=True
    )
    where = setting("torch", "transformers", "onnxscript")
    rows = []
    for source in sorted(path for path in given.folder.glob(f"{given.only}__*.*") if path.suffix in (".onnx", ".txt")):
        rows.append(measure(source))
        print(rows[-1].model, rows[-1].exporter, rows[-1].exit, rows[-1].error or rows[-1].verify, rows[-1].alike, flush=True)
    exporters = sorted({row.exporter for row in rows})
    sums = {name: summary([row for row in rows if row.exporter == name]) for name in exporters} | {"both": summary(rows)}
    figures = {"summary": sums, "exports": [asdict(row) for row in rows]}
    write(given.json, "Exports of transformers", "python tools/bench/exports.py OUTDIR", where, figures, shown(sums, rows))


if __name__ == "__main__":
    main()
