"""Calls from other tools: wiring only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_graphsurgeon as gs

from onnx_reconvene import report as reports
from onnx_reconvene.boundary import boundary
from onnx_reconvene.bridges import open_model
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.cost import CostModel
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.files import write_whole
from onnx_reconvene.graph import plain_source, without_weights
from onnx_reconvene.groups import Analysis
from onnx_reconvene.latency.runtime import CPU, Runtime
from onnx_reconvene.match import match
from onnx_reconvene.notes import analysis_of, forget, notes_of
from onnx_reconvene.options import check_types, texts
from onnx_reconvene.passes import Allocate, Cut, Emit, Load, Pass, Rectify, Repair, Replay, Score, Sparsify, Verify
from onnx_reconvene.passes.allocate import builder
from onnx_reconvene.plan import Plan, read_fractions, read_plan
from onnx_reconvene.rectify import Rectified
from onnx_reconvene.reference import reference
from onnx_reconvene.report import Report, Size
from onnx_reconvene.stage import INITIALIZED, TRAINED, Stage, stage_of
from onnx_reconvene.verify import Verdict, verify

AUTO = "auto"
DEFAULTS = {INITIALIZED: ("synflow", "reconvene"), TRAINED: ("l1", "uniform")}  # criterion, allocator: tools/bench/pairs.md
PLANNED = ("allocate", "attention", "rectify", "seed")  # options that a plan replays where nothing else is asked for
PATTERNS, WIDTHS = ("ignore", "only", "keep", "keep_file"), ("allocate", "steps", "round_to", "min_width")
CHOOSING = ("target", "criterion", "aggregate", *WIDTHS, *PATTERNS)  # which channels go, as a plan says
OF_CHANNELS = ("from_plan", *WIDTHS, *PATTERNS, "rectify", "repair")
MOST_STEPS = 1000  # each scores the whole network
Watch = Callable[[Sequence[Pass]], Iterable[Pass]]
STAGES = ("analyse", "score", "allocate", "cut", "verify", "rectify", "repair", "write")


@dataclass(frozen=True)
class Options:
    """What `prune` can be told; the options of the command line have the same names."""

    target: str | Sequence[str] = ()  # macs=0.5, if no file says what is kept
    criterion: str = AUTO
    allocate: str = AUTO
    round_to: int = 0  # automatic
    min_width: int = 1
    ignore: Sequence[str] = ()
    only: Sequence[str] = ()
    keep: Mapping[str, float] = field(default_factory=dict)
    keep_file: str | os.PathLike[str] | None = None
    from_plan: str | os.PathLike[str] | Plan | None = None
    steps: int = 1
    granularity: str = "channel"
    input_shape: Mapping[str, Sequence[int]] = field(default_factory=dict)
    attention: str = "heads"
    verify: bool = True
    rectify: str = "auto"
    repair: str = "none"
    seed: int = 0
    aggregate: str = "sum"
    data: Any = None
    samples: int = 128
    batch_size: int = 0  # automatic
    loss: Any = None
    gradients: str = "ort"
    image: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0  # automatic
    provider: str = CPU
    latency_table: str | None = None
    allow_uncounted: bool = False

    def passes(self) -> list[Pass]:
        """Return the passes that do it, all but the last that writes."""
        target = texts(self.target) or ("channels=1" if self.keep_file else "macs=0.5",)
        groups, patterns = read_fractions(self.keep_file) if self.keep_file else ({}, {})
        keep = *patterns.items(), *self.keep.items()
        allocate = Allocate(target, self.allocate, self.round_to, self.min_width, texts(self.ignore), texts(self.only), keep)
        allocate = replace(allocate, threads=self.threads, provider=self.provider, latency_table=self.latency_table)
        allocate = replace(allocate, keep_groups=tuple(groups.items()), allow_uncounted=self.allow_uncounted)
        calibration = Calibration(self.data, self.samples, self.batch_size, self.loss, self.gradients, self.image)
        score = Score(self.criterion, self.seed, self.aggregate, calibration)
        load = Load(self.input_shape, self.attention)
        if self.granularity == "weight":
            return [load, Sparsify(target, score, self.allow_uncounted)]
        rounds = [step for k in range(1, self.steps + 1) for step in (score, replace(allocate, progress=k / self.steps))]
        choose = [Replay(plan_of(self.from_plan))] if self.from_plan is not None else rounds
        steps: list[Pass] = [load, *choose, Cut()]
        verify = [Verify(seed=self.seed)] if self.verify else []
        rectify, repair = Rectify(self.rectify, self.seed), Repair(self.repair, calibration, self.seed)
        rectify.check()
        if self.repair == "none":
            return [*steps, *verify, rectify]
        repair.check()
        return [*steps, *verify, rectify, repair]

    def for_stage(self, stage: Stage) -> Options:
        """Return these options with what was left open chosen for a network of this stage."""
        criterion, allocate = DEFAULTS[stage.name]
        return replace(
            self,
            criterion=criterion if self.criterion == AUTO else self.criterion,
            allocate=allocate if self.allocate == AUTO else self.allocate,
        )

    def of_plan(self) -> Options:
        """Return these options with what their plan, if any, was made with."""
        if self.from_plan is None:
            return self
        plan, plain = plan_of(self.from_plan), Options()
        replayed = [key for key in PLANNED if key in plan.settings and getattr(self, key) == getattr(plain, key)]
        return replace(self, from_plan=plan, **{key: plan.settings[key] for key in replayed})

    def check(self) -> None:
        """Raise UsageError where options make no sense, or not together."""
        check_types(vars(self))
        if not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"--steps {self.steps}: must be at least 1 and at most {MOST_STEPS}")
        if self.granularity not in ("channel", "weight"):
            raise UsageError(f"--granularity {self.granularity}: not one of channel, weight")
        if self.granularity == "weight":
            self._refuse("--granularity weight", OF_CHANNELS)
        if self.from_plan is not None:
            self._refuse("--from-plan", CHOOSING)

    def _refuse(self, option: str, others: Iterable[str]) -> None:
        plain = Options()
        idle = [name for name in others if getattr(self, name) and getattr(self, name) != getattr(plain, name)]
        if idle:
            raise UsageError(f"{option}: goes without {', '.join('--' + name.replace('_', '-') for name in idle)}")


@dataclass
class Result:
    """A pruned network and the report on it."""

    graph: gs.Graph
    report: Report
    plan: Plan
    _back: Callable[[gs.Graph], Any]
    _model: Any = None

    @property
    def model(self) -> Any:
        """The pruned network, of the type that was given; for a path, the path of a file that holds it."""
        if self._model is None:
            self._model = self._back(self.graph)
        return self._model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pruned network to path, whole or not at all. Raises UsageError where path cannot be written."""
        Emit(path).run(self.graph)
        self.report = replace(self.report, output=os.fspath(path))


def prune(model: Any, options: Options | None = None, **given: Any) -> Result:
    """Prune a network.

    model: a path, onnx.ModelProto, onnx_ir.Model, onnx_graphsurgeon.Graph or torch.onnx.ONNXProgram; it is not modified.
    Options are given by keyword, see `Options`. Raises UsageError, ModelError, TargetError or VerificationError, each with one
    line that names what to mend.
    """
    chosen = chosen_options(options, given)
    start = time.perf_counter()
    graph, back = open_model(model)
    return run(graph, back, chosen, start=start)


def chosen_options(options: Options | None, given: Mapping[str, Any]) -> Options:
    """Return options, the defaults where there are none, with those given put in their place. Raises UsageError where one of these
    is unknown."""
    given = dict(given, round_to=0) if given.get("round_to") == AUTO else given
    try:
        return replace(options or Options(), **given)
    except TypeError as error:
        raise UsageError(f"no such option: {error}") from error


def run(
    graph: gs.Graph,
    back: Callable[[gs.Graph], Any],
    options: Options,
    output: str | None = None,
    start: float | None = None,
    watch: Watch = iter,
) -> Result:
    """Run the passes over graph, and the one that writes to output if one is given; watch may show progress."""
    begin = time.perf_counter() if start is None else start
    options.check()
    with boundary("run", graph):
        return _run(graph, back, options.of_plan(), output, begin, watch)


def _run(
    graph: gs.Graph, back: Callable[[gs.Graph], Any], options: Options, output: str | None, begin: float, watch: Watch
) -> Result:
    if not notes_of(graph).done:
        forget(graph)  # what passes have noted before says nothing of this run
    stage = notes_of(graph).stage = stage_of(plain_source(graph))
    options = options.for_stage(stage)
    seconds = {"load": time.perf_counter() - begin}
    nodes = len(graph.nodes)
    seconds |= _run_all(graph, watch(options.passes() + ([Emit(output)] if output is not None else [])))
    notes, analysis = notes_of(graph), analysis_of(graph)
    assert notes.keep is not None
    seconds["total"] = time.perf_counter() - begin
    report = _report(graph, options, output, nodes, seconds)
    settings = {key: getattr(options, key) for key in PLANNED}
    plan = Plan.of(analysis, notes.keep, settings | {"criterion": report.criterion, "rectify": report.rectify.mode})
    forget(graph)
    return Result(graph, report, plan, back)


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
        reports.size(notes.cost, notes.cost.dense, nodes, None, memory, before),
        reports.size(notes.cost, analysis.widths(notes.keep), len(graph.nodes), notes.left, memory, after),
        reports.group_reports(analysis, notes.keep, notes.sensitivity),
        list(analysis.frozen),
        notes.verdict or Verdict("skipped", None, "not asked for"),
        notes.rectified or Rectified("none", "no channel was removed"),
        seconds,
        notes.data,
        timing,
        None if notes.dense_scores is None else reports.score_kept(notes.dense_scores, notes.keep),
        notes.repaired,
        dict(analysis.read),
        analysis.uncounted,
    )


def plan_of(given: str | os.PathLike[str] | Plan) -> Plan:
    """Return a plan, read if its path is given."""
    return given if isinstance(given, Plan) else read_plan(given)


def _run_all(graph: gs.Graph, steps: Iterable[Pass]) -> dict[str, float]:
    """Run passes over graph; return the seconds of each stage, 0 for those that are left out."""
    seconds = dict.fromkeys(STAGES, 0.0)
    for step in steps:
        began = time.perf_counter()
        step.run(graph)
        seconds[step.stage] += time.perf_counter() - began
    return seconds


def analyze(model: Any, input_shape: Mapping[str, Sequence[int]] | None = None) -> Analysis:
    """Return what can be removed from a network (`groups`) and what cannot, and why (`frozen`).

    model: as for `prune`. input_shape: sizes for inputs with free dimensions, by name.
    """
    graph, _ = open_model(model)
    Load(input_shape or {}).run(graph)
    return analysis_of(graph)


@dataclass(frozen=True)
class Comparison:
    """Two networks side by side; the verdict is None where the second is not the first with channels removed. Remarks say why a
    latency or the verdict is missing, each in one line."""

    before: Size
    after: Size
    verdict: Verdict | None
    remarks: tuple[str, ...] = ()


def compare(before: Any, after: Any, input_shape: Mapping[str, Sequence[int]] | None = None, threads: int = 0) -> Comparison:
    """Return sizes, latencies in onnxruntime and zeroed-consumer equivalence of two networks (models as for `prune`).

    threads: those of onnxruntime, 0 for its own choice. Raises VerificationError where the second has the weights of the first with
    channels removed, but computes something else.
    """
    from onnx_reconvene.latency.measure import Job

    graphs = [open_model(model)[0] for model in (before, after)]
    sources = [without_weights(graph) for graph in graphs]
    for graph in graphs:
        Load(input_shape or {}).run(graph)
    analyses = [analysis_of(graph) for graph in graphs]
    times: dict[str, float] = {}
    remarks = []
    try:
        times = Job(networks={n: (s, a.sizes) for n, s, a in zip("AB", sources, analyses, strict=True)}).run(Runtime(threads))
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
    return replace(reports.size(cost, cost.dense, len(analysis.graph.nodes)), latency_ms=latency_ms)


def write_latency_job(
    model: Any, path: str, input_shape: Mapping[str, Sequence[int]] | None = None, attention: str = "heads"
) -> None:
    """Write to path, a zip file, what has to be measured of a network on a device; arguments as for `prune`.

    There `tools/measure_device.py` writes the table that the option `latency_table` reads.
    """
    from onnx_reconvene.latency.clock import job_for

    graph, _ = open_model(model)
    Load(input_shape or {}, attention).run(graph)
    job_for(analysis_of(graph), builder(graph)).pack(path)


def write_report(report: Report, path: str) -> None:
    """Write the report as JSON to path."""
    write_whole(path, (json.dumps(report.json(), indent=1) + "\n").encode())


def write_page(report: Report, path: str) -> None:
    """Write the report as an HTML page to path. Raises UsageError where plots cannot be drawn."""
    from onnx_reconvene.pages import check_plots, run

    check_plots("the page of a run")
    write_whole(path, run.page(report).encode())
