"""Zeroed-consumer equivalence: the proof that a cut changed nothing but what it removed.

In the original, every weight slice that reads a removed channel is set to zero. Its outputs must then equal those of the
pruned network, to float rounding. Groups whose channels pass through statistics over channels are exempt: there only
shapes are compared.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import VerificationError
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import Source, put_values, without_weights, write_data
from onnx_reconvene.groups import Analysis

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of the largest output value, in float32 and in 16-bit types
TIME_LIMIT = 600  # seconds
WORKER = os.path.join(os.path.dirname(__file__), "isolated", "compare.py")


@dataclass(frozen=True)
class Verdict:
    """What verification found: "exact", "shape-only" or "skipped", and why if not exact."""

    status: str
    max_rel_err: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Slices:
    """Positions along axes of one weight that read removed channels."""

    tensor: str
    values: NDArray[np.float32]
    gone: tuple[tuple[int, NDArray[np.bool_]], ...]  # (axis, mask)

    def zeroed(self) -> NDArray[np.float32]:
        """Return a copy of the weight with these slices set to zero."""
        values = np.array(self.values)
        for axis, gone in self.gone:
            np.moveaxis(values, axis, 0)[gone] = 0
        return values


@dataclass(frozen=True)
class Reference:
    """The network before a cut, and the slices that have to be zero in it to equal the network after."""

    source: Source
    zero: tuple[Slices, ...]
    inexact: str | None  # the operator that computes statistics over removed channels, if any
    sizes: Mapping[str, Sequence[int]]  # of the graph inputs


def reference(analysis: Analysis, keep: NDArray[np.bool_]) -> Reference:
    """Return the zeroed-consumer counterpart of cutting analysis by keep; call it before the cut. Copies no weight."""
    stays = np.append(keep, True)
    zero = []
    for name, tensor in analysis.flow.weights.items():
        gone = []
        for axis, labels in analysis.flow.values[name].labels.items():
            read = np.zeros(labels.size, bool)
            read[labels >= 0] = analysis.read_labels[labels[labels >= 0]]
            gone.append((axis, read & ~stays[analysis.units(labels)]))
        if any(mask.any() for _, mask in gone):
            values = weight_values(tensor)
            assert values is not None
            zero.append(Slices(name, values, tuple(gone)))
    inexact = next((g.inexact for g in analysis.groups if g.inexact and not keep[g.first : g.first + g.width].all()), None)
    return Reference(without_weights(analysis.graph), tuple(zero), inexact, analysis.sizes)


def verify(graph: gs.Graph, against: Reference, seed: int = 0) -> Verdict:
    """Run the pruned graph and its reference side by side, in a process of their own.

    Raises VerificationError where they differ, or where the pruned network does not run.
    """
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder:
        job = {
            "original": _store(against.source, folder, "original", against.zero),
            "pruned": _store(without_weights(graph), folder, "pruned"),
            "sizes": sizes_to_try(graph, against.sizes),
            "exact": against.inexact is None,
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
        return Verdict("shape-only", None, f"{against.inexact} over removed channels")
    return Verdict("exact", error)


def _store(source: Source, folder: str, name: str, zero: Sequence[Slices] = ()) -> str:
    """Write a model to folder, its weights as external data; those to be partly zeroed one at a time."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    nodes = {output: node for node in model.graph.node for output in node.output}
    initializers = {t.name: t for t in model.graph.initializer}
    with open(os.path.join(folder, name + ".data"), "wb") as file:
        write_data(Source(model, {n: a for n, a in source.arrays.items() if n not in {s.tensor for s in zero}}), file)
        for slices in zero:
            if slices.tensor in nodes:
                model.graph.node.remove(nodes[slices.tensor])
            tensor = initializers.get(slices.tensor) or model.graph.initializer.add(name=slices.tensor)
            arrays: dict[str, NDArray[np.float32]] = {}
            put_values(tensor, slices.zeroed(), arrays)
            write_data(Source(model, arrays), file)
    path = os.path.join(folder, name + ".onnx")
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    return path


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
