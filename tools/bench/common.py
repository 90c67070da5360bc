"""What the benchmarks share: the command they measure, and how they leave their figures. Imports nothing that takes memory."""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
OPTIONS = ("--target", "channels=0.5", "--criterion", "l2", "--allocate", "uniform", "--round-to", "1")
PRUNED = f"Pruned with `{' '.join(OPTIONS)}`."


def command(source: Path, target: Path, *more: str) -> list[str]:
    """Return the command line that prunes source to target."""
    return [sys.executable, "-m", "onnx_reconvene", str(source), str(target), *OPTIONS, *more]


def milliseconds(run: Callable[[], object]) -> float:
    """Return what one run takes, undisturbed by the garbage collector."""
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    run()
    taken = time.perf_counter() - start
    gc.enable()
    return taken * 1e3


def cpu_milliseconds(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median CPU time of each of runs, which take turns, after one run each to warm up."""
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(repeats):
        for run, own in zip(runs, taken, strict=True):
            start = time.process_time()
            run()
            own.append(1e3 * (time.process_time() - start))
    return [median(own) for own in taken]


def setting(*more: str) -> dict[str, Any]:
    """Return where the figures come from: versions (of more packages, too), processors, and the load as the measurement begins."""
    packages = ("onnx-reconvene", "numpy", "onnx", "onnxruntime", *more)
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return {"versions": versions, "processors": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; None is an empty cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def write(path: Path, title: str, usage: str, where: dict[str, Any], figures: dict[str, Any], text: str) -> None:
    """Write figures to path as JSON, and text as Markdown beside it, with the command that gives it at the top."""
    path.write_text(json.dumps({"setting": where, **figures}, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    origin = f"{versions}; {where['processors']} processors, load {where['load']} at the start."
    parts = [f"# {title}", f"    {usage}", origin, text]
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
