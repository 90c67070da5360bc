"""Damages ONNX files and prunes them: whatever is in a file, the result is a network or one line that says what is wrong.

usage: python tools/fuzz_files.py [--count N] [--seconds S] [--seed N] [--save FOLDER] [FILE.onnx ...]

Seeds are the nets of the tests, random networks and `../shared/cases`, where it is. Each job forks a process for some files at a
time, which has 4 GB of memory, and 30 s for each file. What was done is written to `fuzz_files.json` beside this file; of each kind
of failure the smallest file goes to FOLDER. Files that are named are pruned as they are.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import itertools
import json
import os
import pathlib
import pkgutil
import re
import resource
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from subprocess import CompletedProcess

import numpy as np
import onnx
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "onnx_reconvene" / "isolated")]

from mutants import mutated  # noqa: E402
from validate import refusal  # noqa: E402

import onnx_reconvene as rc  # noqa: E402
from onnx_reconvene import boundary  # noqa: E402
from onnx_reconvene.errors import LONGEST  # noqa: E402
from tests.generator import Choices, network  # noqa: E402
from tests.nets import ALL  # noqa: E402

SECONDS, MEMORY = 30, 4 * 2**30  # for one file
CHUNK = 100  # files of one forked process
LARGEST = 2**16  # bytes of a seed; elements of an input that is fed
RANDOM_NETWORKS = 300
CASES = ROOT.parent / "shared" / "cases"
OPTIONS = [
    {},
    {"criterion": "l2", "allocate": "uniform", "round_to": 1, "rectify": "none"},
    {"criterion": "l1", "allocate": "reconvene", "round_to": 1},
    {"target": "params=0.5", "allocate": "global", "criterion": "l2"},
    {"target": "channels=0.5", "attention": "dims", "round_to": 1},
    {"granularity": "weight", "target": "params=0.5"},
    {"criterion": "l2", "aggregate": "mean", "min_width": 2, "steps": 2},
]
GOOD = ("pruned", "ModelError", "TargetError", "UsageError", "VerificationError")


@dataclass
class Tally:
    """What came of some files."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)  # kind -> seed, text, smallest file
    slowest: float = 0.0

    def add(self, seed: str, outcome: str, text: str, seconds: float, content: bytes) -> None:
        """Add what came of one file."""
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if outcome not in GOOD:
            kind = re.sub(r"'[^']*'|[-+.\d]+(e[-+]\d+)?", "_", f"{outcome}: {text}")[:100]
            if kind not in self.failures:
                print(f"seed {seed}: {outcome}: {text}", file=sys.stderr, flush=True)
            if kind not in self.failures or len(content) < len(self.failures[kind][2]):
                self.failures[kind] = seed, f"{outcome}: {text}", content


def load_all() -> None:
    """Import the whole program, before processes are forked and whatever becomes of its files."""
    for module in pkgutil.walk_packages(rc.__path__, "onnx_reconvene."):
        if not any(part in module.name for part in ("isolated", "__main__", "olive", "executor", "torch")):
            importlib.import_module(module.name)


def seeds(run_seed: int) -> list[bytes]:
    """Return the files that are damaged in a run."""
    first = run_seed * RANDOM_NETWORKS
    random_networks = (network(Choices(seed=seed)) for seed in range(first, first + RANDOM_NETWORKS))
    contents = [model.SerializeToString() for model in [*(net.model for net in ALL.values()), *random_networks]]
    cases = [path.read_bytes() for path in sorted(CASES.glob("*.onnx")) if path.stat().st_size <= LARGEST]
    return [*contents, *cases]


def content_of(seed: str, originals: list[bytes]) -> bytes:
    """Return the file of a seed, which is "RUN:INDEX" or "PATH:INDEX"; the index says how it is pruned, too."""
    name, _, index = seed.rpartition(":")
    if os.path.exists(name):
        return pathlib.Path(name).read_bytes()
    return mutated(originals[int(index) % len(originals)], originals, seed)


def outcome(content: bytes, index: int, folder: str) -> tuple[str, str]:
    """Prune a file, from its path and from a ModelProto in turn; return the kind of result, and what went wrong."""
    path = os.path.join(folder, "in.onnx")
    try:
        model = onnx.ModelProto.FromString(content) if index % 2 else None
    except Exception:  # no protobuf message
        model = None
    pathlib.Path(path).write_bytes(content)
    try:
        result = rc.prune(path if model is None else model, verify=False, **OPTIONS[index // 2 % len(OPTIONS)])
        pruned = path + ".pruned"
        result.save(pruned)
    except rc.DefectError as error:
        return "defect", str(error)
    except rc.ReconveneError as error:
        text = str(error)
        if isinstance(error.__cause__, MemoryError):
            return "memory", text
        return ("text" if len(text) > LONGEST or len(text.splitlines()) != 1 else type(error).__name__), text
    except BaseException as error:
        return "exception", f"{type(error).__name__}: {error}"
    sizes = result.report.input_shapes
    small = all(np.prod(shape, dtype=float) <= LARGEST for shape in sizes.values())
    return still_runs(path, pruned, sizes) if small else ("pruned", "")


def still_runs(before: str, after: str, sizes: dict[str, list[int]]) -> tuple[str, str]:
    """Return whether a network runs after it was pruned where it did before."""
    if not runs_alone(before, sizes):  # so it says nothing of the pruned one
        return "pruned", ""
    try:
        run(after, sizes)
    except Exception as error:
        return "breaks", str(error)
    return "pruned", ""


def runs_alone(path: str, sizes: dict[str, list[int]]) -> bool:
    """Return True if a network runs, in a process that it may take down."""
    child = os.fork()
    if not child:
        try:
            run(path, sizes)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def run(path: str, sizes: dict[str, list[int]]) -> None:
    """Run a network on random inputs, the same each time."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {value.name: drawn(value.type, sizes[value.name], rng) for value in session.get_inputs()}
    limits = onnxruntime.RunOptions()
    timer = threading.Timer(SECONDS / 6, setattr, (limits, "terminate", True))  # what never ends is no program's fault
    timer.start()
    session.run(None, feeds, limits)
    timer.cancel()


def drawn(kind: str, shape: Sequence[int], rng: np.random.Generator) -> object:
    """Return values for an input of onnxruntime."""
    names = {"float": "float32", "double": "float64"}
    name = kind.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype(names.get(name, name))
    values = rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)


def in_process(_: str, path: str) -> CompletedProcess[str]:
    """Stand in for the second opinion of the boundary: this process is expendable itself."""
    return CompletedProcess([], 0, refusal(path), "")


def work(chunk: list[str], originals: list[bytes], pipe: int) -> None:
    """Prune the files of these seeds in this process, and say of each what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    boundary.isolated = in_process
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for seed in chunk:
            result = outcome(content_of(seed, originals), int(seed.rpartition(":")[2]), folder)
            os.write(pipe, (json.dumps(result) + "\n").encode())


def results(chunk: list[str], originals: list[bytes]) -> Iterator[tuple[str, str, float]]:
    """Yield what came of each file, from processes that are forked anew where one crashes or hangs."""
    while chunk:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                work(chunk, originals, writer)
            finally:
                os._exit(0)
        os.close(writer)
        done, failure = 0, None
        with open(reader, encoding="utf-8") as answers:
            for result, text, seconds in _answers(answers, len(chunk)):
                done += 1
                yield result, text, seconds
        os.kill(child, signal.SIGKILL) if done < len(chunk) and not _has_ended(child) else None
        _, status = os.waitpid(child, 0)
        if done < len(chunk):
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
            failure = ("hang", f"more than {SECONDS} s") if name == "SIGKILL" else ("crash", name)
            yield (*failure, 0.0)
            done += 1
        chunk = chunk[done:]


def _has_ended(child: int) -> bool:
    """Return True if a process that closed its pipe ended by itself."""
    for _ in range(100):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return True
        time.sleep(0.01)
    return False


def _answers(file: object, count: int) -> Iterator[tuple[str, str, float]]:
    """Yield what a process says until it is done, ends or takes too long."""
    for _ in range(count):
        began = time.monotonic()
        ready, _, _ = select.select([file], [], [], SECONDS)
        line = file.readline() if ready else ""
        if not line:
            return
        yield (*json.loads(line), time.monotonic() - began)


def fuzz(chosen: Iterator[str], originals: list[bytes], seconds: float) -> Tally:
    """Prune the files of these seeds, until time runs out."""
    tally, start, told = Tally(), time.monotonic(), time.monotonic()
    while time.monotonic() - start < seconds and (chunk := list(itertools.islice(chosen, CHUNK))):
        for seed, (result, text, took) in zip(chunk, results(chunk, originals), strict=True):
            tally.add(seed, result, text, took, content_of(seed, originals) if result not in GOOD else b"")
        if time.monotonic() - told > 10:
            told = time.monotonic()
            count, speed = tally.outcomes.total(), tally.outcomes.total() / (told - start)
            print(f"{count} files, {len(tally.failures)} kinds of failure, {speed:.0f}/s", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10**9, help="files")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=pathlib.Path, help="folder for files that fail")
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE.onnx")
    given = parser.parse_args()
    start = time.monotonic()
    load_all()
    if given.files:
        chosen = [f"{path}:{index}" for path in given.files for index in range(2 * len(OPTIONS))]
    else:
        chosen = (f"{given.seed}:{index}" for index in range(given.count))
    tally = fuzz(iter(chosen), [] if given.files else seeds(given.seed), given.seconds)
    if not given.files:
        write(given.seed, tally, time.monotonic() - start)
    print(json.dumps(dict(tally.outcomes.most_common())))
    for seed, text, damaged in tally.failures.values():
        print(f"seed {seed} ({len(damaged)} bytes): {text}")
        if given.save:
            given.save.mkdir(parents=True, exist_ok=True)
            (given.save / f"{seed.replace(':', '-')}.onnx").write_bytes(damaged)
    return int(bool(tally.failures))


def write(seed: int, tally: Tally, seconds: float) -> None:
    """Write what was done beside this file."""
    content = {
        "seed": seed,
        "files": tally.outcomes.total(),
        "seconds": round(seconds, 1),
        "slowest": round(tally.slowest, 1),
        "outcomes": dict(tally.outcomes.most_common()),
        "failures": {seed: text for seed, text, _ in tally.failures.values()},
    }
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
