"""Zeroed-consumer equivalence: the proof that a cut changed nothing but what it removed.

In the original, every weight slice that reads a removed channel is set to zero. Its outputs must then equal those of the
pruned network, to float rounding. Where removed channels pass through statistics over channels, the rest of the network sees other
statistics than before, so this proves less: that the outputs are equal once these statistics leave the removed channels out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_reconvene.errors import VerificationError
from onnx_reconvene.graph import every_node, without_weights
from onnx_reconvene.inference import has_free_sizes
from onnx_reconvene.process import TIME_LIMIT, isolated, last_line, workplace
from onnx_reconvene.reference import Reference, store
from onnx_reconvene.threads import allowed

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of the largest output value, in float32 and in 16-bit types
DECIDING = {"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK", "Unique"}  # where rounding can turn a tie
ATTEMPTS = 4
COMMON_SIZES = (32, 64, 128, 224)
PURPOSE = "verification (--no-verify leaves it out)"


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
    with workplace(PURPOSE) as folder:
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
        raise VerificationError(f"verification failed: output '{answer['output']}' is off by {error:.2g} of its largest value")
    if against.inexact:
        return Verdict("shape-only", error, f"{against.inexact}; with these masked, the outputs are equal")
    return Verdict("exact", error)


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


def _run(job: str) -> dict[str, object]:
    try:
        done = isolated("compare.py", job)
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"verification failed: no result within {TIME_LIMIT} s; --no-verify leaves it out") from error
    if done.returncode < 0:
        return {"failed": f"onnxruntime crashed ({signal.Signals(-done.returncode).name})"}
    if done.returncode:
        return {"failed": last_line(done.stderr)}
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def _tolerance(graph: gs.Graph) -> float:
    return HALF_TOLERANCE if any(str(t.dtype) in ("float16", "bfloat16") for t in graph.outputs) else TOLERANCE


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
