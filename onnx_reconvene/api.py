"""Calls from other tools: wiring only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from onnx_reconvene import report as reports
from onnx_reconvene.boundary import boundary
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.cost import CostModel, Counting
from onnx_reconvene.errors import ModelError
from onnx_reconvene.files import Output, write_whole
from onnx_reconvene.graph import plain_source, without_weights
from onnx_reconvene.groups import Analysis
from onnx_reconvene.kinds import OUTPUT, texts
from onnx_reconvene.latency.runtime import Runtime
from onnx_reconvene.match import match
from onnx_reconvene.notes import analysis_of, forget, notes_of
from onnx_reconvene.options import PLANNED, Keywords, Options, chosen_options, with_options
from onnx_reconvene.passes import Allocate, Cut, Emit, Load, Pass, Rectify, Repair, Replay, Score, Sparsify, Verify
from onnx_reconvene.passes.allocate import builder
from onnx_reconvene.plan import Plan, plan_of, read_fractions
from onnx_reconvene.rectify import Rectified
from onnx_reconvene.reference import reference
from onnx_reconvene.report import Report, Size
from onnx_reconvene.stage import stage_of
from onnx_reconvene.values import with_values
from onnx_reconvene.verify import Verdict, verify

if TYPE_CHECKING:
    from typing_extensions import Unpack

Watch = Callable[[Sequence[Pass]], Iterable[Pass]]
STAGES = ("analyse", "score", "allocate", "cut", "verify", "rectify", "repair", "write")


def passes_of(options: Options) -> list[Pass]:
    """Return the passes that do what options ask, all but the last that writes."""
    calibration = _calibration(options)
    load = Load(options.input_shape, options.attention, options.input_value, calibration)
    score = Score(options.criterion, options.seed, options.aggregate, calibration)
    if options.granularity == "weight":
        return [load, Sparsify(options.targets, score, options.allow_uncounted)]
    allocate, steps = _allocate(options), options.steps
    rounds = [step for k in range(1, steps + 1) for step in (score, replace(allocate, progress=k / steps))]
    choose = rounds if options.from_plan is None else [Replay(plan_of(options.from_plan))]
    verify = [Verify(seed=options.seed)] if options.verify else []
    rectify = Rectify(options.rectify, options.seed)
    rectify.check()
    repair = [] if options.repair == "none" else [Repair(options.repair, calibration, options.seed)]
    for step in repair:
        step.check()
    return [load, *choose, Cut(), *verify, rectify, *repair]


def _allocate(options: Options) -> Allocate:
    groups, patterns = read_fractions(options.keep_file) if options.keep_file else ({}, {})
    return Allocate(
        options.targets,
        options.allocate,
        options.round_to,
        options.min_width,
        texts(options.ignore),
        texts(options.only),
        (*patterns.items(), *options.keep.items()),
        threads=options.threads,
        provider=options.provider,
        latency_table=None if options.latency_table is None else os.fspath(options.latency_table),
        keep_groups=tuple(groups.items()),
        allow_uncounted=options.allow_uncounted,
    )


def _calibration(options: Options) -> Calibration:
    return Calibration(options.data, options.samples, options.batch_size, options.loss, options.gradients, options.image)


@dataclass(repr=False)
class Result:
    """A pruned network and the report on it."""

    graph: gs.Graph
    report: Report
    plan: Plan
    _back: Callable[[gs.Graph], Any]
    _model: Any = None

    def __repr__(self) -> str:
        return f"Result({self.report!r})"

    @property
    def model(self) -> Any:
        """The pruned network, of the type that was given; a ModelProto for a path, bytes or a file."""
        if self._model is None:
            self._model = self._back(self.graph)
        return self._model

    def save(self, output: Output) -> None:
        """Write the pruned network to a path, whole or not at all, or to a binary file. Raises UsageError where that cannot be."""
        OUTPUT.check("output", output)
        Emit(output).run(self.graph)
        self.report = replace(self.report, output=_path(output))


@with_options
def prune(
    model: Any,
    output: Output | None = None,
    *,
    options: Options | None = None,
    **keywords: Unpack[Keywords],
) -> Result:
    """Prune a network and write it to output, if that is given.

    model: a path, bytes, a binary file, onnx.ModelProto, onnx_ir.Model, onnx_graphsurgeon.Graph or torch.onnx.ONNXProgram; it is
    not modified. output: a path, or a binary file. Options are given by keyword, see `Options`; options: some to start from. Raises
    UsageError, ModelError, TargetError or VerificationError, each with one line that names what to mend.
    """
    chosen = chosen_options(options, keywords)
    chosen.check()
    if output is not None:
        OUTPUT.check("output", output)
    start = time.perf_counter()
    graph, back = open_model(model)
    return run(graph, back, chosen, output, start)


def run(
    graph: gs.Graph,
    back: Callable[[gs.Graph], Any],
    options: Options,
    output: Output | None = None,
    start: float | None = None,
    watch: Watch = iter,
) -> Result:
    """Run the passes over graph, and the one that writes to output if one is given, under options that have been checked; watch may
    show progress."""
    begin = time.perf_counter() if start is None else start
    with boundary("run", graph):
        return _run(graph, back, options.of_plan(), output, begin, watch)


def _run(
    graph: gs.Graph, back: Callable[[gs.Graph], Any], options: Options, output: Output | None, begin: float, watch: Watch
) -> Result:
    forget(graph)  # what passes have noted before says nothing of this run
    stage = notes_of(graph).stage = stage_of(plain_source(graph))
    options = options.for_stage(stage)
    seconds = {"load": time.perf_counter() - begin}
    nodes = reports.node_count(graph)
    seconds |= _run_all(graph, watch(passes_of(options) + ([Emit(output)] if output is not None else [])))
    notes, analysis = notes_of(graph), analysis_of(graph)
    assert notes.keep is not None
    seconds["total"] = time.perf_counter() - begin
    report = _report(graph, options, _path(output), nodes, seconds)
    settings = {key: getattr(options, key) for key in PLANNED}
    plan = Plan.of(analysis, notes.keep, settings | {"criterion": report.criterion, "rectify": report.rectify.mode})
    forget(graph)
    return Result(graph, report, plan, back)


def _path(output: Output | None) -> str | None:
    return os.fspath(output) if isinstance(output, str | os.PathLike) else None


def _report(graph: gs.Graph, options: Options, output: str | None, nodes: int, seconds: dict[str, float]) -> Report:
    """Return what the notes of graph say; nodes: how many it had."""
    notes, analysis = notes_of(graph), analysis_of(graph)
    assert notes.keep is not None
    assert notes.cost is not None
    assert notes.stage is not None
    timing = notes.timing
    memory = any(target.kind == "memory" for target in notes.targets)
    before, after = (timing.before, timing.measured) if timing else (None, None)
    return Report(
        graph.source.path,
        output,
        notes.criterion or options.criterion,
        notes.allocate or options.allocate,
        options.seed,
        notes.stage.name,
        {name: list(shape) for name, shape in analysis.sizes.items()},
        dict(analysis.origins),
        reports.size(notes.cost, notes.cost.dense, nodes, None, memory, before),
        reports.size(notes.cost, analysis.widths(notes.keep), reports.node_count(graph), notes.left, memory, after),
        reports.group_reports(analysis, notes.keep, notes.sensitivity),
        list(analysis.frozen),
        notes.verdict or Verdict("skipped", None, "not asked for"),
        notes.rectified or Rectified("none", "no channel was removed"),
        seconds,
        notes.data,
        timing,
        None if notes.dense_scores is None else reports.score_kept(notes.dense_scores, notes.keep),
        notes.repaired,
        Counting.of(analysis),
        notes.rounding,
    )


def _run_all(graph: gs.Graph, steps: Iterable[Pass]) -> dict[str, float]:
    """Run passes over graph; return the seconds of each stage, 0 for those that are left out."""
    seconds = dict.fromkeys(STAGES, 0.0)
    for step in steps:
        began = time.perf_counter()
        step.run(graph)
        seconds[step.stage] += time.perf_counter() - began
    return seconds


def analyze(
    model: Any, input_shape: Mapping[str, Sequence[int]] | None = None, input_value: Mapping[str, float] | None = None
) -> Analysis:
    """Return what can be removed from a network (`groups`) and what cannot, and why (`frozen`).

    model: as for `prune`. input_shape: sizes for inputs with free dimensions, by name. input_value: numbers for inputs of one.
    """
    graph, _ = open_model(model)
    Load(input_shape or {}, input_values=input_value or {}).run(graph)
    return analysis_of(graph)


@dataclass(frozen=True)
class Comparison:
    """Two networks side by side; the verdict is None where the second is not the first with channels removed. Remarks say why a
    latency or the verdict is missing, each in one line."""

    before: Size
    after: Size
    verdict: Verdict | None
    remarks: tuple[str, ...] = ()


def compare(
    before: Any,
    after: Any,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    input_value: Mapping[str, float] | None = None,
) -> Comparison:
    """Return sizes, latencies in onnxruntime and zeroed-consumer equivalence of two networks (models as for `prune`).

    threads: those of onnxruntime, 0 for its own choice. Raises VerificationError where the second has the weights of the first with
    channels removed, but computes something else.
    """
    graphs = [open_model(model)[0] for model in (before, after)]
    with boundary("compare", *graphs):
        return _compare(graphs, input_shape or {}, threads, input_value or {})


def _compare(
    graphs: Sequence[gs.Graph], input_shape: Mapping[str, Sequence[int]], threads: int, input_value: Mapping[str, float]
) -> Comparison:
    from onnx_reconvene.latency.measure import Job

    sources = [without_weights(graph) for graph in graphs]
    for graph in graphs:
        Load(input_shape, input_values=input_value).run(graph)
    sources = [with_values(source, graph.input_values) for source, graph in zip(sources, graphs, strict=True)]
    analyses = [analysis_of(graph) for graph in graphs]
    times: dict[str, float] = {}
    remarks = []
    try:
        times = Job(networks={n: (s, x.sizes) for n, s, x in zip("AB", sources, analyses, strict=True)}).run(Runtime(threads))
    except ModelError as error:
        remarks.append(f"latency: not measured ({error})")
    first, second = (_size(analysis, times.get(name)) for name, analysis in zip("AB", analyses, strict=True))
    apart = _apart(*graphs)
    keep = match(analyses[0], graphs[1]) if apart is None else None
    verdict = None if keep is None else verify(graphs[1], reference(analyses[0], keep))
    if verdict is None:
        why = apart or "the weights of B are not those of A with channels removed"
        remarks.append(f"{why}, so nothing can be said of equivalence")
    return Comparison(first, second, verdict, tuple(remarks))


def _apart(a: gs.Graph, b: gs.Graph) -> str | None:
    """Return how the inputs or outputs of two networks differ, None where they do not."""
    inputs = [[f"'{t.name}' {t.dtype} {_dimensions(t.shape)}" for t in graph.inputs] for graph in (a, b)]
    outputs = [[f"'{t.name}'" for t in graph.outputs] for graph in (a, b)]
    for what, (own, other) in (("inputs", inputs), ("outputs", outputs)):
        if own != other:
            return f"A and B have different {what} ({', '.join(own)}; {', '.join(other)})"
    return None


def _dimensions(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as text in which all free dimensions are alike."""
    return "of any shape" if shape is None else "x".join(str(n) if isinstance(n, int) else "?" for n in shape) or "scalar"


def _size(analysis: Analysis, latency_ms: float | None) -> Size:
    cost = CostModel(analysis)
    return replace(reports.size(cost, cost.dense, reports.node_count(analysis.graph)), latency_ms=latency_ms)


def write_latency_job(
    model: Any,
    path: str,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    attention: str = "heads",
    input_value: Mapping[str, float] | None = None,
) -> None:
    """Write to path, a zip file, what has to be measured of a network on a device; arguments as for `prune`.

    There `tools/measure_device.py` writes the table that the option `latency_table` reads.
    """
    from onnx_reconvene.latency.clock import job_for

    graph, _ = open_model(model)
    Load(input_shape or {}, attention, input_value or {}).run(graph)
    job_for(analysis_of(graph), builder(graph)).pack(path)


def write_report(report: Report, path: str) -> None:
    """Write the report as JSON to path."""
    write_whole(path, (json.dumps(report.json(), indent=1) + "\n").encode())


def write_page(report: Report, path: str) -> None:
    """Write the report as an HTML page to path. Raises UsageError where plots cannot be drawn."""
    from onnx_reconvene.pages import check_plots, run

    check_plots("the page of a run")
    write_whole(path, run.page(report).encode())
