"""Replay: the units that a plan keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.cost import CostModel
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.passes.base import Pass, needed
from onnx_reconvene.plan import Plan


@dataclass(frozen=True)
class Replay(Pass):
    """Mark the units that a plan keeps to stay, in place of Score and Allocate."""

    stage: ClassVar[str] = "allocate"

    plan: Plan

    def requires(self, graph: gs.Graph) -> None:
        """Nothing has been cut yet."""
        needed(graph, "", "Replay", "")

    def call(self, graph: gs.Graph) -> bool:
        """Note which units stay. Raises UsageError where the plan is for another network."""
        notes, analysis = notes_of(graph), analysis_of(graph)
        notes.keep, notes.cost = self.plan.masks(analysis), CostModel(analysis)
        notes.criterion, notes.allocate = (self.plan.settings.get(key) for key in ("criterion", "allocate"))
        return True
