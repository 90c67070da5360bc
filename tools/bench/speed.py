"""The whole command, from start to written file, against the floor of speed; and the memory it takes.

usage: python tools/bench/speed.py MODEL.onnx

Writes speed.json and speed.md beside this script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from common import HERE, PRUNED, command, setting, table, write

REPEATS = 5
FLOOR, BARE, VERIFIED = "floor", "--no-verify", "with verification"
MOST = {BARE: 1.6, VERIFIED: 2.8}  # times the floor
POLL = 0.002  # seconds


def timed(line: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command; return its seconds and the peak RSS in MB of its largest process, itself or a child it waited for."""
    start = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit status {process.returncode}: {' '.join(line)}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def child_peak(line: Sequence[str]) -> float:
    """Run a command; return the peak RSS in MB of its largest child."""
    peak = 0.0
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max([peak, *(high for parent, high in processes() if parent == process.pid)])
            time.sleep(POLL)
    return peak


def processes() -> list[tuple[int, float]]:
    """Return the parent and the peak RSS in MB of every process there is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":\t" in line)
        except OSError:  # it ended meanwhile
            continue
        if "VmHWM" in lines:
            found.append((int(lines["PPid"]), int(lines["VmHWM"].split()[0]) * 1024 / 1e6))
    return found


def compiled(folder: str) -> dict[str, str]:
    """Return an environment where Python keeps compiled modules in folder, so that a checkout starts as fast as an install."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": folder}


def race(lines: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Run the commands in turn, over and over; return what each run took. The first round is a warm-up."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(1 + REPEATS):
        for name, line in lines.items():
            runs[name].append(timed(line, environment))
    return {name: taken[1:] for name, taken in runs.items()}


def main(model: Path) -> None:
    """Measure and write the figures."""
    where = setting()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pruned.onnx"
        floor = [sys.executable, str(HERE / "floor.py"), str(model), str(Path(folder) / "weights")]
        lines = {FLOOR: floor, BARE: command(model, target, "--no-verify"), VERIFIED: command(model, target)}
        runs = race(lines, compiled(folder))
        child = child_peak(command(model, target))
    size = model.stat().st_size / 1e6
    limit = 2.5 * size + 150
    figures = {
        name: {
            "seconds": round(median(seconds for seconds, _ in taken), 3),
            "times the floor": round(median(a / b for (a, _), (b, _) in zip(taken, runs[FLOOR], strict=True)), 2),
            "at most": MOST.get(name),
            "peak MB": round(max(peak for _, peak in taken), 1),
            "peak MB allowed": None if name == FLOOR else round(limit, 1),
            "all seconds": [round(seconds, 3) for seconds, _ in taken],
        }
        for name, taken in runs.items()
    }
    header = list(figures[FLOOR])
    text = (
        f"{PRUNED}\n\n"
        f"{model.stem}, {size:.1f} MB; medians of {REPEATS} alternating runs after one to warm up. Peak is that of the largest "
        f"process; the verification child alone peaks at {child:.1f} MB; allowed are 2.5 times the file and 150 MB.\n\n"
        + table(["", *header], [[name, *one.values()] for name, one in figures.items()])
    )
    results = {"model": model.stem, "file MB": round(size, 1), "verification child MB": round(child, 1), "runs": figures}
    write(HERE / "speed.json", "Speed", "python tools/bench/speed.py MODEL.onnx", where, results, text)
    print(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
