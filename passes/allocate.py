"""Allocate: which units stay, so that the targets hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.allocate import Allocation, Limits, allocators, budget, masks
from onnx_reconvene.errors import UsageError
from onnx_reconvene.groups import Analysis
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.passes.base import Pass, needed
from onnx_reconvene.saliency import Context, ElementScores, criteria, element_scores
from onnx_reconvene.target import Target, parse_target

UPAI = "synflow"  # unstructured pruning at initialization, by default


@dataclass(frozen=True)
class Allocate(Pass):
    """Spread the budget over groups and mark the best units of each to stay. Notes the masks; changes no weight.

    target: what is kept, "macs=0.5" or several of them; all hold. allocate: see `onnx_reconvene.allocators`. ignore and only:
    shell patterns of nodes or weights whose channels stay, or alone may go. keep: (pattern, fraction) pairs. round_to: widths are
    multiples of it, 0 for automatic. progress: how much of the way to the targets is to be done, from 0 to 1; what an earlier
    Allocate has marked to go stays so. Raises TargetError where the target cannot be reached.
    """

    target: str | tuple[str, ...] = "macs=0.5"
    allocate: str = "uniform"
    round_to: int = 0
    min_width: int = 1
    ignore: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    keep: tuple[tuple[str, float], ...] = ()
    progress: float = 1.0

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
        within = budget(analysis, self.targets, limits, lambda: _elements(graph), self.progress)
        found = allocators[self.allocate](analysis, notes.scores, within)
        found = found if isinstance(found, Allocation) else Allocation(found)
        widths = np.asarray(found.widths)
        if widths.shape != within.cost.dense.shape or widths.dtype.kind not in "iu":
            raise UsageError(f"allocator {self.allocate} returns no whole number for each of {len(analysis.groups)} groups")
        if (widths < 1).any() or (widths > within.cost.dense).any() or not within.holds(widths):
            raise UsageError(f"allocator {self.allocate} returns widths outside 1 to that of the group, or above the target")
        ranked = notes.scores if gone is None else np.where(gone, -np.inf, notes.scores)
        notes.cost, notes.sensitivity = within.cost, found.sensitivity
        notes.allocate, notes.targets, notes.keep = self.allocate, self.targets, masks(analysis, ranked, widths)
        return True

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, read."""
        return tuple(parse_target(t) for t in ((self.target,) if isinstance(self.target, str) else self.target))

    def _fixed(self, analysis: Analysis) -> dict[str, float]:
        fixed: dict[str, float] = {}
        for pattern, fraction in self.keep:
            if not 0 < fraction <= 1:
                raise UsageError(f"--keep {pattern}={fraction:g}: the fraction kept must be above 0 and at most 1")
            fixed |= dict.fromkeys(analysis.matching(pattern, "--keep"), fraction)
        if self.only:
            free = set().union(*(analysis.matching(pattern, "--only") for pattern in self.only))
            fixed |= {group.name: 1.0 for group in analysis.groups if group.name not in free}
        for pattern in self.ignore:
            fixed |= dict.fromkeys(analysis.matching(pattern, "--ignore"), 1.0)
        return fixed


def _elements(graph: gs.Graph) -> ElementScores:
    """Return the scores of single weights by the criterion that units were scored by, by synflow where it scores only units."""
    notes = notes_of(graph)
    chosen = criteria.get(notes.criterion or UPAI)
    method = chosen.name if chosen is not None and chosen.elements is not None else UPAI
    return element_scores(analysis_of(graph), method, notes.context or Context())
