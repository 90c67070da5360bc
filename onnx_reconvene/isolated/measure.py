"""Times models in onnxruntime: `python measure.py JOB TABLE.json [--threads N] [--provider NAME]`.

A program of its own, so that nothing else runs in its process; it needs onnxruntime and numpy alone, for it is also what runs on a
device. JOB is a folder or a zip file (which may hold this program as `__main__.py`: then it is `python JOB.zip TABLE.json`). Its
`job.json` names two kinds of models by key: `kernels`, of a single layer, of which the time within kernels counts, and `networks`,
of which whole runs are timed. They run in turn. What disturbs a run only ever slows it, so of each the fastest fifth counts; where
one thread computes, only the time in which it had a processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

VERSION = 1
NAMES = {"float": "float32", "double": "float64"}  # of types, where numpy has others than onnxruntime
BFLOAT16 = 16  # its number in onnx.proto
AT_ONCE = 12  # kernels that take turns
KERNEL_SECONDS, NETWORK_SECONDS = 0.02, 1.5  # for each model
WARM_UP, FEWEST, MOST = 2, 8, 200  # runs
UNDISTURBED = 0.97  # share of a run in which it had a processor
LAYOUT = ("ReorderInput", "ReorderOutput")  # kernels that a whole network runs at its ends only


def as_input(kind: str, values: Any) -> Any:
    """Return numbers as onnxruntime takes them for an input of one of its types. Raises TypeError where it takes none."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name != "bfloat16":
        return np.asarray(values).astype(NAMES.get(name, name))
    import onnxruntime as ort

    upper = np.asarray(np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(upper, BFLOAT16)


def draw(kind: str, shape: Sequence[int], rng: np.random.Generator) -> Any:
    """Return zeros and ones of an onnxruntime tensor type: as integers they are indices into anything."""
    return as_input(kind, rng.integers(0, 2, shape))


def processor() -> str:
    """Return the kind and name of the processor."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("model name", "Model", "Hardware")):
                return f"{platform.machine()} {line.partition(':')[2].strip()}"
    return f"{platform.machine()} {platform.processor()}".strip()


def session(path: str, threads: int, provider: str, profile: str | None = None) -> Any:
    """Return an onnxruntime session whose threads sleep while others run."""
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(path, options, providers=[provider])


def fastest(times: Any) -> float:
    """Return the mean of the fastest fifth of times."""
    return float(np.mean(np.sort(times)[: (len(times) + 4) // 5]))


def in_turn(runs: Sequence[Callable[[], object]], seconds: float, threads: int) -> tuple[list[Any], list[Any]]:
    """Run all in turn, over and over, for that many seconds each. Return for every run but those to warm up the milliseconds, and
    the share of them in which it had a processor, as far as that can be told: where the calling thread alone computes."""
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    end = time.perf_counter() + seconds * len(runs)
    while len(times[0]) < WARM_UP + FEWEST or (time.perf_counter() < end and len(times[0]) < WARM_UP + MOST):
        for run, own in zip(runs, times, strict=True):
            busy, start = time.thread_time(), time.perf_counter()
            run()
            own.append((1e3 * (time.perf_counter() - start), 1e3 * (time.thread_time() - busy)))
    wall, busy = np.moveaxis(np.asarray(times)[:, WARM_UP:], 2, 0)
    return list(wall), list(np.minimum(1, busy / wall) if threads == 1 else np.ones_like(wall))


def running(of: Any, sizes: dict[str, list[int]] | None = None) -> Callable[[], object]:
    """Return what runs a session on random inputs, of the shapes that it declares if no other sizes are given."""
    rng = np.random.default_rng(0)
    feeds = {i.name: draw(i.type, i.shape if sizes is None else sizes[i.name], rng) for i in of.get_inputs()}
    return lambda: of.run(None, feeds)


def networks(models: Sequence[dict[str, Any]], folder: str, threads: int, provider: str) -> list[float]:
    """Return the milliseconds of one run of each model."""
    opened = [(session(os.path.join(folder, m["file"]), threads, provider), m["sizes"]) for m in models]
    times, shares = in_turn([running(*one) for one in opened], NETWORK_SECONDS, threads)
    return [fastest(wall * share) for wall, share in zip(times, shares, strict=True)]


def kernels(files: Sequence[str], folder: str, threads: int, provider: str) -> list[float]:
    """Return the milliseconds that the kernels of each model take, without those that only change the layout of data."""
    found: list[float] = []
    for start in range(0, len(files), AT_ONCE):
        some = [os.path.join(folder, file) for file in files[start : start + AT_ONCE]]
        with tempfile.TemporaryDirectory() as notes:
            opened = [session(path, threads, provider, os.path.join(notes, str(k))) for k, path in enumerate(some)]
            times, shares = in_turn([running(one) for one in opened], KERNEL_SECONDS, threads)
            within = [_within_kernels(one.end_profiling(), share) for one, share in zip(opened, shares, strict=True)]
        found += [w or fastest(wall * share) for w, wall, share in zip(within, times, shares, strict=True)]
    return found


def _within_kernels(profile: str, shares: Any) -> float | None:
    """Return the milliseconds within kernels that a profile tells of, None if it tells of none."""
    with open(profile, encoding="utf-8") as file:
        events = json.load(file)
    times: dict[str, list[float]] = {}
    for event in (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")):
        if event["args"].get("op_name") not in LAYOUT:
            times.setdefault(event["name"], []).append(event["dur"] / 1e3)
    whole = shares > UNDISTURBED
    chosen, scale = (whole, 1.0) if whole.sum() >= FEWEST // 2 else (np.ones_like(whole), shares)
    return sum(fastest((np.asarray(own[WARM_UP:]) * scale)[chosen]) for own in times.values()) or None


@contextlib.contextmanager
def _folder(job: str) -> Iterator[str]:
    if os.path.isdir(job):
        yield job
        return
    import zipfile

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(job) as archive:
        archive.extractall(folder)
        yield folder


def measure(job: str, threads: int, provider: str) -> dict[str, float]:
    """Return the milliseconds of every model of a job, by key."""
    with _folder(job) as folder:
        with open(os.path.join(folder, "job.json"), encoding="utf-8") as file:
            asked = json.load(file)
        layers, whole = asked["kernels"], asked["networks"]
        times = [*kernels(list(layers.values()), folder, threads, provider)]
        times += networks(list(whole.values()), folder, threads, provider) if whole else []
    return dict(zip([*layers, *whole], times, strict=True))


def main(words: Sequence[str]) -> None:
    """Measure a job and write the table."""
    import argparse

    import onnxruntime as ort

    parser = argparse.ArgumentParser(prog="measure", description="Times the models of a job in onnxruntime; writes a table.")
    parser.add_argument("job", help="a folder or zip file, as --latency-job writes it")
    parser.add_argument("table", help="the JSON file to write")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime; 0: its choice")
    providers = ort.get_available_providers()
    parser.add_argument("--provider", default="CPUExecutionProvider", choices=providers, help="execution provider of onnxruntime")
    given = parser.parse_args(words)
    where = {"runtime": f"onnxruntime {ort.__version__}", "processor": processor(), "threads": given.threads}
    table = {"version": VERSION, "setting": {**where, "provider": given.provider}}
    times = measure(given.job, given.threads, given.provider)
    with open(given.table, "w", encoding="utf-8") as file:
        json.dump({**table, "values": times}, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:] if sys.argv[0].endswith(".py") else sys.argv)
