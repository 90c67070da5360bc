"""Allocate: which units stay, so that the targets hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.allocate import Allocation, Budget, Limits, allocators, budgets, masks, meet, round_finely
from onnx_reconvene.analysis import analyze
from onnx_reconvene.axes import Widths
from onnx_reconvene.cost import CostModel
from onnx_reconvene.cut import cut
from onnx_reconvene.errors import UsageError
from onnx_reconvene.graph import Source, reopen, without_weights
from onnx_reconvene.groups import Analysis
from onnx_reconvene.latency.runtime import CPU, Runtime
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.options import LATENCY
from onnx_reconvene.passes.base import Pass, needed
from onnx_reconvene.passes.score import Score
from onnx_reconvene.saliency import ElementScores, Scores, criteria, element_scores
from onnx_reconvene.saliency.masking import without
from onnx_reconvene.target import Target, parse_targets
from onnx_reconvene.values import with_values

if TYPE_CHECKING:
    from onnx_reconvene.latency.clock import Clock

UPAI = "synflow"  # unstructured pruning at initialization, by default


@dataclass(frozen=True)
class Allocate(Pass):
    """Spread the budget over groups and mark the best units of each to stay. Notes the masks; changes no weight.

    target: what is kept, "macs=0.5" or several of them; all hold. allocate: see `onnx_reconvene.allocators`. ignore and only: shell
    patterns of nodes, weights or groups whose channels stay, or alone may go. keep: (pattern, fraction) pairs, of which the one
    that names a group holds for it, else the last that matches; keep_groups, before which these go: (name, fraction) pairs of
    single groups. round_to: widths are multiples of it, 0 for automatic. progress: how much of the way to the targets is to be
    done, from 0 to 1; what an earlier Allocate has marked to go stays so. threads (0: its own choice) and provider: those of
    onnxruntime where latency is measured; latency_table: a file that was measured on a device, instead. allow_uncounted: targets
    leave out layers whose cost is not known. Raises TargetError where the target cannot be reached.
    """

    stage: ClassVar[str] = "allocate"

    target: str | tuple[str, ...] = "macs=0.5"
    allocate: str = "uniform"
    round_to: int = 0
    min_width: int = 1
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    keep: tuple[tuple[str, float], ...] = ()
    progress: float = 1.0
    threads: int = 0
    provider: str = CPU
    latency_table: str | None = None
    keep_groups: tuple[tuple[str, float], ...] = ()
    allow_uncounted: bool = False

    def requires(self, graph: gs.Graph) -> None:
        """The units are scored and the options make sense."""
        if self.allocate not in allocators:
            raise UsageError(f"--allocate {self.allocate}: not one of {', '.join(allocators)}")
        if self.round_to < 0 or self.min_width < 1:
            raise UsageError("--round-to must be at least 1 (or auto), --min-width at least 1")
        needed(graph, "scores", "Allocate", "Score")

    def call(self, graph: gs.Graph) -> bool:
        """Note which units stay."""
        analysis = analysis_of(graph)
        notes = needed(graph, "scores", "Allocate", "Score")
        assert notes.scores is not None
        gone = None if notes.keep is None else ~notes.keep
        left = None if gone is None else tuple(analysis.widths(~gone).tolist())
        limits = Limits(self.round_to, self.min_width, tuple(self._fixed(analysis).items()), left)
        timed = self.allocate == LATENCY or any(target.kind == LATENCY for target in self.targets)
        clock = clock_of(graph, Runtime(self.threads, self.provider), self.latency_table) if timed else None
        cost = CostModel(analysis, clock.model if clock else None)
        spaces = budgets(cost, self.targets, limits, cache(partial(_elements, graph)), self.progress, self.allow_uncounted)
        scores = notes.scores if gone is None else np.where(gone, -np.inf, notes.scores)
        within, allocation = self._allocated(analysis, scores, spaces, clock)
        notes.timing = None if clock is None else clock.timing(allocation.widths)
        notes.cost, notes.sensitivity, notes.rounding = cost, allocation.sensitivity, within.rounding(allocation.widths)
        notes.allocate, notes.targets, notes.keep = self.allocate, self.targets, masks(analysis, scores, allocation.widths)
        return True

    def _allocated(
        self, analysis: Analysis, scores: Scores, spaces: Iterable[Budget], clock: Clock | None
    ) -> tuple[Budget, Allocation]:
        """Allocate; where a target bounds latency and may be measured, until the measured network is within it."""

        def allocate(within: Budget) -> Allocation:
            chosen = allocators[self.allocate](analysis, scores, within)
            chosen = chosen if isinstance(chosen, Allocation) else Allocation(chosen)
            return replace(chosen, widths=self._checked(within, chosen.widths))

        within, allocation = round_finely(spaces, allocate)
        judged = clock is not None and clock.may_measure and any(target.kind == LATENCY for target in self.targets)
        if clock is None or not judged or self.progress < 1:
            return within, allocation
        return within, meet(within, allocate, clock.measure)

    def _checked(self, within: Budget, found: Any) -> Widths:
        """Return the widths that an allocator returns. Raises UsageError where they are not what they must be."""
        try:
            widths = np.asarray(found)
        except ValueError as error:
            raise UsageError(f"allocator {self.allocate} returns no array of widths: {error}") from error
        if widths.shape != within.cost.dense.shape or widths.dtype.kind not in "iu":
            raise UsageError(f"allocator {self.allocate} returns no whole number for each of {len(within.allowed)} groups")
        if (widths < 1).any() or (widths > within.cost.dense).any() or not within.holds(widths):
            raise UsageError(f"allocator {self.allocate} returns widths outside 1 to that of the group, or above the target")
        return widths

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, read."""
        return parse_targets(self.target)

    def _fixed(self, analysis: Analysis) -> dict[str, float]:
        names = {group.name for group in analysis.groups}
        for name, fraction in (*self.keep_groups, *self.keep):
            if not 0 < fraction <= 1:
                raise UsageError(f"--keep {name}={fraction:g}: the fraction kept must be above 0 and at most 1")
        for name in dict(self.keep_groups).keys() - names:
            raise UsageError(f"--keep-file: the network has no group '{name}'; the plan was made for another one")
        fixed, named = dict(self.keep_groups), names & dict(self.keep).keys()
        for pattern, fraction in self.keep:
            fixed |= dict.fromkeys(analysis.matching(pattern, "--keep") - (named - {pattern}), fraction)
        if self.only:
            free = set().union(*(analysis.matching(pattern, "--only") for pattern in self.only))
            fixed |= dict.fromkeys(names - free, 1.0)
        for pattern in self.ignore:
            fixed |= dict.fromkeys(analysis.matching(pattern, "--ignore"), 1.0)
        return fixed


def clock_of(graph: gs.Graph, runtime: Runtime, table: str | None = None) -> Clock:
    """Return the clock of an analysed network; table: a file that was measured on a device."""
    from onnx_reconvene.latency.clock import clock

    return clock(analysis_of(graph), builder(graph), runtime, table)


def builder(graph: gs.Graph) -> Callable[[Widths], Source]:
    """Return what builds an analysed network cut to given widths, whichever units go; the network itself stays as it is."""

    def build(widths: Widths) -> Source:
        analysis, copy = analysis_of(graph), reopen(graph)
        copied = analyze(copy, analysis.sizes, notes_of(graph).attention, analysis.read)
        keep = masks(copied, np.zeros(copied.width), widths)
        if not keep.all():
            cut(copied, keep)
        return with_values(without_weights(copy), copy.input_values)

    return build


def _elements(graph: gs.Graph) -> ElementScores:
    """Return the scores of single weights by the criterion that units were scored by, by synflow where it scores only units."""
    notes, analysis = notes_of(graph), analysis_of(graph)
    chosen = criteria.get(notes.criterion or UPAI)
    method = chosen if chosen is not None and chosen.elements is not None else criteria[UPAI]
    if method.needs_data and notes.calibration.data is None:
        raise UsageError(
            f"Allocate scores single weights by {method.name}, on data that no model carries: name the data by text, or run "
            "Score and Allocate in one Sequential"
        )
    score = Score(method.name, notes.seed, notes.aggregate, notes.calibration)
    with nullcontext() if notes.keep is None else without(analysis, notes.keep):
        return element_scores(analysis, method.name, score.context(graph))
