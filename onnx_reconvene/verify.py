"""Zeroed-consumer equivalence: the proof that a cut changed nothing but what it removed.

In the original, every weight slice that reads a removed channel is set to zero. Its outputs must then equal those of the
pruned network, to float rounding. Where removed channels pass through statistics over channels, the rest of the network sees other
statistics than before, so this proves less: that the outputs are equal once these statistics leave the removed channels out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_reconvene.errors import ModelError, UsageError, VerificationError
from onnx_reconvene.graph import Source, every_node, without_weights
from onnx_reconvene.inference import has_free_sizes
from onnx_reconvene.reference import Reference, store
from onnx_reconvene.threads import allowed

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of the largest output value, in float32 and in 16-bit types
TIME_LIMIT = 600  # seconds
DECIDING = {"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK", "Unique"}  # where rounding can turn a tie
ATTEMPTS = 4
COMMON_SIZES = (32, 64, 128, 224)
PROGRAMS = os.path.join(os.path.dirname(__file__), "isolated")


@dataclass(frozen=True)
class Verdict:
    """What verification found: "exact", "shape-only" or "skipped", and why if not exact."""

    status: str
    max_rel_err: float | None = None
    reason: str | None = None


def verify(graph: gs.Graph, against: Reference, seed: int = 0) -> Verdict:
    """Run the pruned graph and its reference side by side, in a process of their own.

    Raises VerificationError where they differ, or where the pruned network does not run.
    """
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder, room(folder, "verification", "; --no-verify leaves it out"):
        job = {
            "original": store(against.source, folder, "original", against.zero, against.masked),
            "pruned": store(without_weights(graph), folder, "pruned"),
            "sizes": sizes_to_try(graph, against.sizes),
            "seed": seed,
            "threads": allowed(),
            "attempts": ATTEMPTS if any(node.op in DECIDING for node in every_node(graph)) else 1,
        }
        path = os.path.join(folder, "job.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(job, file)
        answer = _run(path)
    if "skipped" in answer:
        return Verdict("skipped", None, _first_line(str(answer["skipped"])))
    if "failed" in answer:
        raise VerificationError(f"verification failed: the pruned network does not run: {_first_line(str(answer['failed']))}")
    error = float(str(answer["max_rel_err"]))
    if not error <= _tolerance(graph):
        raise VerificationError(
            f"verification failed: output '{answer['output']}' is off by {error:.2g} of its largest value; nothing is written"
        )
    if against.inexact:
        return Verdict("shape-only", error, f"{against.inexact}; with these masked, the outputs are equal")
    return Verdict("exact", error)


@contextlib.contextmanager
def room(folder: str, what: str, otherwise: str = "") -> Iterator[None]:
    """Raise UsageError where the disk on which folder lies has no room for what is done."""
    try:
        yield
    except OSError as error:
        where = os.path.dirname(folder)
        raise UsageError(f"{what} needs room in {where}: {error.strerror or error}{otherwise}") from error


def sizes_to_try(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> list[dict[str, list[int]]]:
    """Return the analysed input sizes and, where dimensions are free, others to verify at: doubled ones, and some common ones for
    networks that do not run at the smallest."""
    first = {name: list(shape) for name, shape in sizes.items()}
    if not has_free_sizes(graph):
        return [first]

    free = {t.name: [not isinstance(s, int) for s in t.shape or [None] * len(first[t.name])] for t in graph.inputs}

    def resized(batch: int, times: int, least: int) -> dict[str, list[int]]:
        scaled = {name: [batch * n if not axis else max(times * n, least) for axis, n in enumerate(s)] for name, s in first.items()}
        return {name: [s if f else n for n, s, f in zip(first[name], scaled[name], free[name], strict=True)] for name in first}

    return [first, resized(2, 2, 1), *(resized(2, 1, least) for least in COMMON_SIZES)]


def latencies(models: Sequence[Source], sizes: Mapping[str, Sequence[int]], threads: int = 0) -> list[float]:
    """Return the median milliseconds of one run of each model in onnxruntime, run in turn in a process of their own.

    Raises ModelError where onnxruntime does not run one of them.
    """
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder, room(folder, "verification", "; --no-verify leaves it out"):
        paths = [store(model, folder, f"model{k}") for k, model in enumerate(models)]
        job = os.path.join(folder, "job.json")
        with open(job, "w", encoding="utf-8") as file:
            json.dump({"models": paths, "sizes": {name: list(shape) for name, shape in sizes.items()}, "threads": threads}, file)
        try:
            done = _isolated("latency.py", job)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"onnxruntime does not run the models a few times within {TIME_LIMIT} s") from error
    if done.returncode:
        raise ModelError(f"onnxruntime does not run one of the models: {_last_line(done.stderr)}")
    times: list[float] = json.loads(done.stdout)
    return times


def _isolated(program: str, job: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, os.path.join(PROGRAMS, program), job]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)


def _run(job: str) -> dict[str, object]:
    try:
        done = _isolated("compare.py", job)
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"verification failed: no result within {TIME_LIMIT} s; --no-verify leaves it out") from error
    if done.returncode < 0:
        return {"failed": f"onnxruntime crashed ({signal.Signals(-done.returncode).name})"}
    if done.returncode:
        return {"failed": _last_line(done.stderr)}
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def _tolerance(graph: gs.Graph) -> float:
    return HALF_TOLERANCE if any(str(t.dtype) in ("float16", "bfloat16") for t in graph.outputs) else TOLERANCE


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it gives no reason"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
