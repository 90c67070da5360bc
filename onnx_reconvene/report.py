"""The report: what was done to a network and what came of it, as data, JSON and text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.axes import Widths
from onnx_reconvene.cost import CostModel, Counting
from onnx_reconvene.graph import every_node
from onnx_reconvene.groups import Analysis, Frozen
from onnx_reconvene.latency.runtime import Timing
from onnx_reconvene.rectify import Rectified
from onnx_reconvene.sizes import size_line
from onnx_reconvene.target import Rounding
from onnx_reconvene.verify import Verdict

VERSION = 1


@dataclass(frozen=True)
class Size:
    """What a network costs: elements of float weights, multiply-accumulates, bytes of float and quantized weights, nodes;
    if asked for, milliseconds of a run and bytes of memory at its peak."""

    params: int
    macs: int
    bytes: int
    nodes: int
    latency_ms: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class GroupReport:
    """What became of one group; width and kept count its units, where it has blocks those of one."""

    name: str
    width: int
    kept: int
    sensitivity: float | None
    pruned: bool
    sites: list[tuple[str, int]]


@dataclass(frozen=True, repr=False)
class Report:
    """Everything about one run. `json()` gives the documented form."""

    input: str | None
    output: str | None
    criterion: str
    allocate: str
    seed: int
    stage: str
    input_shapes: dict[str, list[int]]
    input_sizes: dict[str, str]  # "given", "samples" or "assumed", for inputs with free dimensions
    before: Size
    after: Size
    groups: list[GroupReport]
    frozen: list[Frozen]
    verify: Verdict
    rectify: Rectified
    seconds: dict[str, float]
    data: dict[str, Any] | None = None  # what the criterion saw, if it needs data
    latency: Timing | None = None  # if a target or the allocator asks for it
    score_kept: float | None = None  # see `score_kept`
    repair: dict[str, Any] | None = None  # what a repair did, see `repair.Repaired`
    counting: Counting | None = None  # what costs take for granted and leave out
    rounding: Rounding | None = None  # of widths, and what it costs

    def __repr__(self) -> str:
        sizes = ", ".join(f"{kind} {getattr(self.before, kind):,} -> {getattr(self.after, kind):,}" for kind in ("params", "macs"))
        return f"Report({sizes}, by {self.criterion}, {self.allocate}, {len(self.groups)} groups, {self.verify.status})"

    def json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"version": VERSION, **asdict(self)}


def size(
    cost: CostModel,
    widths: Widths,
    nodes: int,
    left: Mapping[str, float] | None = None,
    memory: bool = False,
    latency_ms: float | None = None,
) -> Size:
    """Return what the network costs at these widths, peak memory if asked for; left says otherwise, where zeros do not count."""
    costs = {kind: cost(kind, widths) for kind in ("params", "macs", "size")} | dict(left or {})
    peak = round(cost("memory", widths)) if memory else None
    return Size(round(costs["params"]), round(costs["macs"]), round(costs["size"]), nodes, latency_ms, peak)


def node_count(graph: gs.Graph) -> int:
    """Return how many nodes the main graph has when it is written: with the Constant nodes of the weights that are read."""
    homes = {} if graph.source.form is None else graph.source.form.homes.by_name
    constants = {name for name, home in homes.items() if home.node is not None and not home.graph}
    return len(graph.nodes) + len(constants & {t.name for node in every_node(graph) for t in node.inputs} if constants else ())


def group_reports(analysis: Analysis, keep: NDArray[np.bool_], sensitivity: NDArray[np.float64] | None) -> list[GroupReport]:
    """Return what became of each group."""
    known = [None] * len(analysis.groups) if sensitivity is None else sensitivity.tolist()
    return [
        GroupReport(g.name, g.width, int(kept), felt, bool(kept < g.width), [(s.tensor, s.axis) for s in g.sites])
        for g, kept, felt in zip(analysis.groups, analysis.widths(keep), known, strict=True)
    ]


def score_kept(scores: NDArray[np.float64], keep: NDArray[np.bool_]) -> float | None:
    """Return the share of the sum of scores that units to be kept have, both [units]; scores below 0 count as 0. None where no
    score is above 0."""
    mass = np.maximum(scores, 0)
    total = float(mass.sum())
    return float(mass[keep].sum()) / total if total > 0 else None


def summary(report: Report) -> str:
    """Return the report as a short table for a terminal."""
    lines = [sizes(report.before, report.after)]
    pruned = sum(group.pruned for group in report.groups)
    wide = [group for group in report.groups if group.width > 1]  # the only unit of a group stays
    units, kept = sum(group.width for group in wide), sum(group.kept for group in wide)
    how = f"by {report.criterion}, {report.allocate}" if report.criterion and report.allocate else "as planned"
    lines.append(f"{pruned} of {len(wide)} groups pruned {how}: {units - kept:,} of {units:,} removable units gone")
    lines += [rounding_line(report.rounding)] if report.rounding and report.rounding.step > 1 else []
    seen = data_lines(report.data) if report.data else []
    seen += [latency_line(report.latency)] if report.latency else []
    seen += report.counting.lines() if report.counting else []
    return "\n".join(
        [
            *lines,
            *size_line(report.input_shapes, report.input_sizes),
            *seen,
            frozen_line(report.frozen),
            verify_line(report.verify),
            rectify_line(report.rectify),
            *repair_lines(report.repair),
        ]
    )


def rounding_line(rounding: Rounding) -> str:
    """Return one line on what rounding of widths costs."""
    return (
        f"rounding: widths are multiples of at most {rounding.step} channels, which ends "
        f"{100 * rounding.unused:.1f} points below --target {rounding.target}"
    )


def group_table(report: Report) -> str:
    """Return one line per group, most sensitive first where sensitivities are known: units before and after, sensitivity."""
    rows = [("group", "units", "kept", "sensitivity")]
    for group in sorted(report.groups, key=lambda g: -(g.sensitivity or 0)):
        felt = "-" if group.sensitivity is None else f"{group.sensitivity:.3f}"
        rows.append((group.name, f"{group.width:,}", f"{group.kept:,}", felt))
    return aligned(rows)


def latency_line(timing: Timing) -> str:
    """Return one line on latency."""
    measured = "not measured here" if timing.measured is None else f"{timing.measured:,.3f} ms measured"
    threads = f"{timing.threads} threads" if timing.threads else "as many threads as it likes"
    return f"latency: {timing.predicted:,.3f} ms predicted, {measured} (onnxruntime, {threads}, {timing.provider})"


def data_lines(data: Mapping[str, Any]) -> list[str]:
    """Return what a criterion saw of data, in a line or a few."""
    lines = [f"scored on {data['samples']:,} samples, {data['batch_size']} at a time; loss: {data['loss']}"]
    if data["warmed_up"]:
        lines.append(f"untrained: {data['warmed_up']} BatchNormalizations had the statistics of these samples while scoring")
    return [*lines, *data["remarks"]]


def sizes(before: Size, after: Size) -> str:
    """Return two sizes side by side, and the share of the first that is left in the second."""
    return aligned(size_rows(before, after))


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Return the cells of a table as text; columns other than those to the left are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def size_rows(before: Size, after: Size) -> list[tuple[str, ...]]:
    """Return what `sizes` shows as the cells of a table, under a head."""
    rows: list[tuple[str, ...]] = [("", "before", "after", "kept")]
    for entry in fields(Size):
        old, new = getattr(before, entry.name), getattr(after, entry.name)
        if old is not None and new is not None:
            form = "{:,.3f}" if isinstance(old, float) else "{:,}"
            rows.append((LABELS[entry.name], form.format(old), form.format(new), f"{new / old:.1%}" if old else "-"))
    return rows


LABELS = {
    "params": "parameters",
    "macs": "MACs",
    "bytes": "weight bytes",
    "nodes": "nodes",
    "latency_ms": "latency, ms",
    "memory": "peak memory",
}


def frozen_line(frozen: list[Frozen]) -> str:
    """Return one line on the channels that had to stay."""
    if not frozen:
        return "no channel is frozen"
    reasons = Counter[str]()
    for entry in frozen:
        reasons[entry.reason] += entry.channels
    (reason, most), *others = reasons.most_common()
    rest = f", and {len(others)} more reason{'s' if len(others) > 1 else ''} (inspect lists them)" if others else ""
    return f"{sum(reasons.values()):,} output channels frozen: {most:,} because {reason}{rest}"


def verify_line(verdict: Verdict) -> str:
    """Return one line on verification."""
    error = f", largest relative error {verdict.max_rel_err:.1e}" if verdict.max_rel_err is not None else ""
    return f"verification: {verdict.status}{error}{f' ({verdict.reason})' if verdict.reason else ''}"


def rectify_line(rectified: Rectified) -> str:
    """Return one line on what became of the weights of layers that were cut."""
    done = {"none": "kept as they are", "rescale": "rescaled", "reinit": "drawn anew"}[rectified.mode]
    count = f"{rectified.tensors} tensors " if rectified.mode != "none" else ""
    return f"weights of layers that were cut: {count}{done} ({rectified.why})"


def repair_lines(done: Mapping[str, Any] | None) -> list[str]:
    """Return what a repair did and what it could not do, in a line or two; none where there was no repair."""
    if done is None:
        return []
    counts = {"layers fitted": "fitted", "BatchNormalizations recalibrated": "recalibrated", "biases corrected": "corrected"}
    what = ", ".join(f"{done[key]} {text}" for text, key in counts.items() if done[key]) or "nothing to do"
    missed = "; ".join(done["skipped"][:3]) + ("; ..." if len(done["skipped"]) > 3 else "")
    return [f"repair: {what}, on {done['samples']:,} samples", *([f"not repaired: {missed}"] if missed else [])]
