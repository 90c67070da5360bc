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

from onnx_reconvene.errors import UsageError, VerificationError
from onnx_reconvene.graph import without_weights
from onnx_reconvene.reference import Reference, store

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of the largest output value, in float32 and in 16-bit types
TIME_LIMIT = 600  # seconds
WORKER = os.path.join(os.path.dirname(__file__), "isolated", "compare.py")


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
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder, _room(folder):
        job = {
            "original": store(against.source, folder, "original", against.zero, against.masked),
            "pruned": store(without_weights(graph), folder, "pruned"),
            "sizes": sizes_to_try(graph, against.sizes),
            "seed": seed,
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
def _room(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = os.path.dirname(folder)
        raise UsageError(f"verification needs room in {where}: {error.strerror or error}; --no-verify leaves it out") from error


def sizes_to_try(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> list[dict[str, list[int]]]:
    """Return the analysed input sizes and, where dimensions are free, these doubled."""
    first = {name: list(shape) for name, shape in sizes.items()}
    second = {
        t.name: [n if isinstance(s, int) else 2 * n for n, s in zip(first[t.name], t.shape, strict=True)] for t in graph.inputs
    }
    return [first] if first == second else [first, second]


def _run(job: str) -> dict[str, object]:
    command = [sys.executable, WORKER, job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"verification failed: no result within {TIME_LIMIT} s; --no-verify leaves it out") from error
    if done.returncode < 0:
        return {"failed": f"onnxruntime crashed ({signal.Signals(-done.returncode).name})"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"}
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def _tolerance(graph: gs.Graph) -> float:
    return HALF_TOLERANCE if any(str(t.dtype) in ("float16", "bfloat16") for t in graph.outputs) else TOLERANCE


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
