"""Zeroed-consumer equivalence: the proof that a cut changed nothing but what it removed.

In the original, every weight slice that reads a removed channel is set to zero. Its outputs must then equal those of the
pruned network, to float rounding, and so must tensors inside (see `probes`). Where removed channels pass through statistics over
channels, the rest of the network sees other statistics than before, so this proves less: that all is equal once these statistics
leave the removed channels out. And it proves nothing of groups of which no deliberate fault would have shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.errors import VerificationError
from onnx_reconvene.graph import Source, every_node, every_tensor, plain_source, without_weights
from onnx_reconvene.inference import has_free_sizes
from onnx_reconvene.probes import PREFIX, Probes, add_faults, add_probes, probes
from onnx_reconvene.process import TIME_LIMIT, finished, last_line, started, workplace
from onnx_reconvene.reference import Reference, store
from onnx_reconvene.rounding import leave_out
from onnx_reconvene.shapes import small_constant
from onnx_reconvene.threads import allowed

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of the largest value of a tensor, in float32 and in 16-bit types
COMMON_SIZES = (32, 64, 128, 224)
PURPOSE = "verification (--no-verify leaves it out)"
FAILED = "verification failed"
Answer = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What verification found: "exact", "shape-only", "unproven" or "skipped", and why if not exact."""

    status: str
    max_rel_err: float | None = None
    reason: str | None = None


def verify(graph: gs.Graph, against: Reference, seed: int = 0) -> Verdict:
    """Run the pruned graph and its reference side by side, in a process of their own.

    Raises VerificationError where they differ, or where the pruned network does not run though the original does.
    """
    values = values_to_try(graph, against.cutting.graph.input_values)
    settings = {"sizes": sizes_to_try(graph, against.sizes), "values": values, "seed": seed, "threads": allowed()}
    with workplace(PURPOSE) as folder:
        with started("compare.py") as program:  # it starts while the models are written
            job, probed = _models(graph, against, folder)
            answer = _answer(program, {**settings, **job, "tolerance": _tolerance(graph)})
        if answer.get("off") and (smooth := _without_rounding(job)):
            with started("compare.py") as program:
                answer = _answer(program, {**settings, **smooth, "tolerance": _tolerance(graph)})
        if "skipped" in answer:
            answer = _excused(graph, against, folder, settings, _first_line(str(answer["skipped"])))
    return _verdict(answer, against, probed)


def _models(graph: gs.Graph, against: Reference, folder: str) -> tuple[Answer, Probes]:
    """Write the models to compare and return the part of the job that names them, and what is compared.

    Where functions or bodies are written in another form than they are analysed in, that form is run, too.
    """
    before, after = Source(onnx.ModelProto(), against.source.arrays), plain_source(graph)
    before.model.CopyFrom(against.source.model)
    probed = probes(against.cutting, before.model.graph, after.model.graph)
    add_probes(before.model.graph, probed.tensors)
    plain = store(after, folder, "plain")
    with_faults = onnx.load(plain, load_external_data=False)  # of the same weights
    add_probes(with_faults.graph, probed.tensors)
    add_faults(with_faults.graph, probed.faults)
    pruned = os.path.join(folder, "pruned.onnx")
    onnx.save(with_faults, pruned)
    is_plain = graph.source.form is None
    axes = {
        probe.output: {axis: [against.stays(probe.tensor, axis).size, stays.tolist()] for axis, stays in probe.stays.items()}
        for probe in probed.tensors
    }
    job: Answer = {
        "original": store(before, folder, "original", against.zero, against.masked),
        "pruned": pruned,
        "written": plain if is_plain else store(without_weights(graph), folder, "written"),
        "compare_written": not is_plain,
        "probes": axes,
        "faults": {fault.group: fault.pairs for fault in probed.faults},
    }
    return job, probed


def _without_rounding(job: Answer) -> Answer | None:
    """Return the job to compare the same models without the rounding of quantized activations, None where they have none or are
    written in another form."""
    if job["compare_written"]:
        return None
    smooth = dict(job)
    for role in ("original", "pruned"):
        model = onnx.load(job[role], load_external_data=False)
        if not leave_out(model.graph):
            return None
        smooth[role] = f"{os.path.splitext(job[role])[0]}_smooth.onnx"
        onnx.save(model, smooth[role])
    return smooth


def _verdict(answer: Answer, against: Reference, probed: Probes) -> Verdict:
    for status in ("skipped", "unproven"):
        if status in answer:
            return Verdict(status, None, _first_line(str(answer[status])))
    if "failed" in answer:
        raise VerificationError(f"{FAILED}: the pruned network does not run: {_first_line(str(answer['failed']))}")
    if "memory" in answer:
        raise VerificationError(f"{FAILED}: it needs more memory than it may use; try smaller --input-shape, or --no-verify")
    error = float(answer["max_rel_err"])
    if answer["off"]:
        inside = {probe.output: f"'{probe.tensor}', a tensor inside," for probe in probed.tensors}
        tensor = inside.get(answer["tensor"], f"output '{answer['tensor']}'")
        raise VerificationError(f"{FAILED}: {tensor} is off by {error:.2g} of its largest value")
    notes = [f"{against.inexact}; with these masked, the outputs are equal"] if against.inexact else []
    for name, off in list(answer["rounded"].items())[:1]:
        notes.append(f"'{name.removeprefix(PREFIX)}' is off by {off:.2g}, as it is by rounding alone")
    blind = [*answer["blind"], *probed.blind]
    if blind:
        more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
        notes.insert(0, f"no fault in '{blind[0]}'{more} would have shown on any inputs that were tried")
    status = "unproven" if blind else "shape-only" if against.inexact else "exact"
    return Verdict(status, error, "; ".join(notes) or None)


def _excused(graph: gs.Graph, against: Reference, folder: str, settings: Answer, why: str) -> Answer:
    """Return what to answer where the original, as it is analysed, does not run: whether the file that was given does, and if so
    whether the pruned one does."""
    source = against.cutting.analysis.graph.source
    path = source.path if source.path and os.path.exists(source.path) else None
    if path is None:
        model = source.form.original if source.form else source.model
        path = store(Source(model, source.arrays), folder, "given")
    before = _fate(path, settings)
    after = _fate(store(without_weights(graph), folder, "written"), settings)
    for stage in ("load", "draw", "run"):
        if stage in before:
            return {"skipped": before[stage] if stage == "draw" else f"onnxruntime does not {stage} the original: {before[stage]}"}
        if stage in after:
            return {"failed": f"{_first_line(after[stage])} (onnxruntime does {stage} the original)"}
    return {"unproven": f"both networks run, but not what is to be compared with: {why}"}


def _fate(path: str, settings: Answer) -> Answer:
    with started("compare.py") as program:
        return _answer(program, {**settings, "model": path})


def values_to_try(graph: gs.Graph, fixed: Mapping[str, NDArray[Any]]) -> dict[str, list[float]]:
    """Return the values to try of inputs of one element: those given, and of each that chooses a branch also false and true, and
    integers that it may be compared with."""
    values = {name: [value.reshape(-1)[0].item()] for name, value in fixed.items()}
    inputs = [t for t in graph.inputs if t.shape is not None and all(size == 1 for size in t.shape)]
    choosing = {t.name for t in inputs if str(t.dtype).startswith(("bool", "int", "uint"))}
    for node in every_node(graph) if choosing else ():
        if node.op == "If":
            names, integers = _behind(node.inputs[0])
            for name in names & choosing:
                values[name] = list(dict.fromkeys([*values.get(name, []), 0, 1, *sorted(integers)]))
    return values


def _behind(tensor: gs.Tensor) -> tuple[set[str], set[int]]:
    """Return the names of the tensors that a tensor is computed from, and the single integers among the constants."""
    names: set[str] = set()
    integers: set[int] = set()
    waiting = [tensor]
    while waiting:
        tensor = waiting.pop()
        if tensor.name in names:
            continue
        names.add(tensor.name)
        value = small_constant(tensor)
        if value is not None and value.size == 1 and value.dtype.kind in "iu":
            integers.add(int(value.reshape(-1)[0]))
        waiting += [t for node in tensor.inputs for t in node.inputs]
    return names, integers


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


def _answer(program: subprocess.Popen[str], job: Answer) -> Answer:
    try:
        done = finished(program, json.dumps(job))
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"{FAILED}: no result within {TIME_LIMIT} s; --no-verify leaves it out") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        if name == "SIGXCPU":
            raise VerificationError(f"{FAILED}: no result within its processor time; --no-verify leaves it out")
        return {"failed": f"onnxruntime crashed ({name})"}
    if done.returncode:
        return {"failed": last_line(done.stderr)}
    answer: Answer = json.loads(done.stdout)
    return answer


def _tolerance(graph: gs.Graph) -> float:
    """Return the tolerance of a graph; where any tensor is of 16 bits, so may be all that is computed of it."""
    half = any(str(t.dtype) in ("float16", "bfloat16") for t in every_tensor(graph).values())
    return HALF_TOLERANCE if half else TOLERANCE


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
