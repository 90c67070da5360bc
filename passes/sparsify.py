"""Sparsify: single weights set to zero, the unstructured counterpart of a cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.allocate.budget import check_savable
from onnx_reconvene.allocate.search import largest
from onnx_reconvene.allocate.unstructured import Unstructured, best
from onnx_reconvene.cost import CostModel
from onnx_reconvene.errors import TargetError, UsageError
from onnx_reconvene.flow import weight_constant
from onnx_reconvene.notes import analysis_of, notes_of, stage_known
from onnx_reconvene.passes.base import Pass
from onnx_reconvene.passes.score import Score
from onnx_reconvene.saliency import element_scores
from onnx_reconvene.sharing import unite
from onnx_reconvene.target import Target, parse_targets
from onnx_reconvene.verify import Verdict

KINDS = ("params", "macs")  # of targets: zeros count as gone
SKIPPED = Verdict("skipped", None, "weights were set to zero, no channel was removed")


@dataclass(frozen=True)
class Sparsify(Pass):
    """Set the weights that score least for what they cost to zero, by one threshold over all layers; shapes stay as they are.

    target: params or macs, as if zeros were not there. score: by what. allow_uncounted: as for Allocate. Raises TargetError where
    the target cannot be reached.
    """

    stage: ClassVar[str] = "allocate"

    target: str | tuple[str, ...] = "macs=0.5"
    score: Score = field(default_factory=Score)
    allow_uncounted: bool = False

    def requires(self, graph: gs.Graph) -> None:
        """The targets count elements, and these have scores."""
        for target in self.targets:
            if target.kind not in KINDS:
                raise UsageError(f"--target {target}: with --granularity weight only {' and '.join(KINDS)} can be asked for")
        self.score.requires(graph)

    def call(self, graph: gs.Graph) -> bool:
        """Zero weights and note what is left."""
        notes, analysis, cost = notes_of(graph), analysis_of(graph), CostModel(analysis_of(graph))
        check_savable(cost, self.targets, self.allow_uncounted)
        context = self.score.context(graph)
        elements = element_scores(analysis, self.score.criterion, context)
        notes.data = context.seen or notes.data
        stage_known(graph)
        costs = cost.by_weight(target.kind for target in self.targets)
        density, left = self._densities(cost, Unstructured.of(elements, costs))
        for name, share in density.items():
            constant = weight_constant(analysis.flow.weights[name])
            if constant is not None and share < 1:
                if elements.by_weight[name].shape != constant.values.shape:
                    raise UsageError(f"'{name}' packs several numbers in each byte: --granularity weight cannot set single ones")
                stays = best(elements.by_weight[name], share)
                constant.values = np.where(stays, constant.values, analysis.flow.zero_of(name, constant.values.dtype))
        unite(graph.shared)
        notes.restore = None  # what was folded holds the zeros
        notes.criterion, notes.targets, notes.cost = self.score.criterion, self.targets, cost
        notes.keep, notes.left, notes.verdict, notes.done = np.ones(analysis.width, bool), left, SKIPPED, True
        return True

    def _densities(self, cost: CostModel, elements: Unstructured) -> tuple[dict[str, float], dict[str, float]]:
        """Return the density of each weight, and what then is left of each kind of cost."""
        macs, params = cost.macs_by_weight(), cost.params_by_weight()
        whole = {kind: cost(kind, cost.dense) for kind in KINDS}
        each = {
            "params": [params.get(name, 0.0) for name in elements.histograms],
            "macs": [macs.get(name, 0.0) for name in elements.histograms],
        }

        def left(x: float) -> dict[str, float]:
            gone = 1 - np.exp(elements.log_density(x))
            return {kind: whole[kind] - float(gone @ each[kind]) for kind in KINDS}

        def holds(x: float) -> bool:
            found = left(x)
            return all(found[t.kind] <= t.bound(whole[t.kind]) for t in self.targets)

        if not holds(0.0):
            raise TargetError(f"{_amounts(left(0.0))} is the least that zeros leave")
        x = largest(holds)
        return dict(zip(elements.histograms, np.exp(elements.log_density(x)).tolist(), strict=True)), left(x)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, read."""
        return parse_targets(self.target)


def _amounts(left: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {amount:.0f}" for kind, amount in left.items())
