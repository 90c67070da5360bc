"""Targets against multiply-accumulates that are counted from runs, on a folder of networks, and on quantized forms of small ones.

usage: python tools/bench/cases.py [FOLDER]

FOLDER: of networks, ../shared/cases if left out. Writes cases.json and cases.md beside this script; exit status 1 where something
does not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from common import HERE, setting, table, write
from counted import counted
from quantized_nets import NETS, forms

SHARED = HERE.parents[2] / "shared" / "cases"
OPTIONS = ("--criterion", "l2", "--allocate", "uniform", "--round-to", "1", "--rectify", "none")
TARGET, CHANNELS = 0.5, "channels=0.5"
LEAST = 0.9  # of what a float network loses, its quantized form has to lose
RIGHT = ("exact", "shape-only", "unproven")  # the last where no fault could have shown
TEXT = (
    f"Counted: multiply-accumulates after over before, both from a run in which all tensors are outputs. Pruned with "
    f"`--target macs={TARGET} {' '.join(OPTIONS)}`. Where the network holds a plugin, it cannot be verified, and to be counted it "
    "is taken to pass its input."
)
QUANTIZED = (
    f"Lost: the share of the multiply-accumulates, counted from runs, that goes at `--target {CHANNELS}`; ratio: over that which "
    f"the float network loses. At least {LEAST} is asked for."
)


@dataclass(frozen=True)
class Outcome:
    """What the command made of a network: exit status, what it said, MACs before and after as told and as counted."""

    status: int
    said: str
    told: tuple[int, int] = (0, 0)
    counted: tuple[int, int] = (0, 0)
    verify: str = ""

    @property
    def kept(self) -> float:
        """The share of the counted multiply-accumulates that is left."""
        return self.counted[1] / self.counted[0] if self.counted[0] else 1.0


def pruned(source: Path, folder: Path, target: str) -> Outcome:
    """Return what the command makes of the network at source."""
    out, report = folder / f"{source.stem}_pruned.onnx", folder / f"{source.stem}.json"
    words = [str(source), str(out), "--target", target, *OPTIONS, "--report", str(report), "-q"]
    done = subprocess.run([sys.executable, "-m", "onnx_reconvene", *words], capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    if done.returncode:
        return Outcome(done.returncode, said)
    told = json.loads(report.read_text(encoding="utf-8"))
    sizes = told["input_shapes"]
    counts = [counted(onnx.load(path), sizes) for path in (source, out)]
    return Outcome(0, said, (told["before"]["macs"], told["after"]["macs"]), (counts[0], counts[1]), told["verify"]["status"])


def case(source: Path, folder: Path) -> dict[str, object]:
    """Return the figures of one network of the folder."""
    outcome = pruned(source, folder, f"macs={TARGET}")
    plugin = any(node.domain not in ("", "ai.onnx", "com.microsoft") for node in onnx.load(source).graph.node)
    right = outcome.verify in RIGHT or (plugin and outcome.verify == "skipped")
    holds = outcome.status == 0 and right and outcome.kept <= TARGET
    return {
        "status": outcome.status,
        "told": round(outcome.told[1] / outcome.told[0], 4) if outcome.told[0] else None,
        "counted": round(outcome.kept, 4) if outcome.status == 0 else None,
        "verify": outcome.verify or outcome.said[:120],
        "holds": holds,
    }


def quantized(name: str, folder: Path) -> dict[str, dict[str, object]]:
    """Return what the forms of one small network lose."""
    source = folder / f"{name}.onnx"
    onnx.save(NETS[name](), source)
    plain = 1 - pruned(source, folder, CHANNELS).kept
    rows: dict[str, dict[str, object]] = {}
    for form, path in forms(source, folder):
        outcome = pruned(path, folder, CHANNELS)
        lost = 1 - outcome.kept
        ratio = lost / plain if plain else 1.0
        holds = outcome.status == 0 and outcome.verify in RIGHT and ratio >= LEAST
        told = outcome.verify or outcome.said[:120]
        rows[f"{name} {form}"] = {
            "status": outcome.status,
            "float": round(plain, 4),
            "lost": round(lost, 4),
            "ratio": round(ratio, 3),
            "verify": told,
            "holds": holds,
        }
    return rows


def main(networks: Path) -> int:
    """Measure and write the figures; return 1 where something does not hold."""
    where = setting()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {path.stem: case(path, folder) for path in sorted(networks.glob("*.onnx"))}
        twins = {row: figures for net in NETS for row, figures in quantized(net, folder).items()}
    sections = [f"{text}\n\n{_table(figures)}" for text, figures in ((TEXT, cases), (QUANTIZED, twins)) if figures]
    failing = [row for figures in (cases, twins) for row, values in figures.items() if not values["holds"]]
    text = "\n\n".join([*sections, f"Not held: {', '.join(failing)}." if failing else "All hold."])
    usage = "python tools/bench/cases.py [FOLDER]"
    write(HERE / "cases.json", "Targets, counted from runs", usage, where, {"cases": cases, "quantized": twins}, text)
    print(text)
    return int(bool(failing))


def _table(figures: dict[str, dict[str, object]]) -> str:
    header = list(next(iter(figures.values())))
    return table(["network", *header], [[row, *values.values()] for row, values in figures.items()])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED))
