"""Score: how much each unit matters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.calibration import Calibration
from onnx_reconvene.calibration.given import SOURCES
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import every_tensor, plain_source
from onnx_reconvene.groups import Analysis
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.passes.base import Pass, needed
from onnx_reconvene.saliency import AGGREGATES, Context, axes_with_units, criteria
from onnx_reconvene.saliency.masking import without
from onnx_reconvene.stage import batch_norms_start

if TYPE_CHECKING:
    from onnx_reconvene.calibration import Objective


@dataclass(frozen=True)
class Score(Pass):
    """Score every unit by a criterion (see `onnx_reconvene.criteria`). Notes the scores; changes no weight."""

    stage: ClassVar[str] = "score"

    criterion: str = "l2"
    seed: int = 0
    aggregate: str = "sum"
    calibration: Calibration = field(default_factory=Calibration)

    def requires(self, graph: gs.Graph) -> None:
        """The criterion exists and the weights are finite."""
        check_criterion(self.criterion, self.calibration)
        if self.aggregate not in AGGREGATES:
            raise UsageError(f"--aggregate {self.aggregate}: not one of {', '.join(AGGREGATES)}")
        self.calibration.check()
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must not be negative")
        needed(graph, "", "Score", "")
        _check_finite(analysis_of(graph))

    def call(self, graph: gs.Graph) -> bool:
        """Score the units of graph; those that Allocate has marked to go count as gone."""
        notes, analysis = notes_of(graph), analysis_of(graph)
        context = self.context(graph)
        left = contextlib.nullcontext() if notes.keep is None else without(analysis, notes.keep)
        with left:
            scores = criteria[self.criterion].score(analysis, context) if analysis.width else np.zeros(0)
        notes.data = context.seen or notes.data
        try:
            notes.scores = np.asarray(scores, np.float64).reshape(np.shape(scores))
        except (TypeError, ValueError) as error:
            raise UsageError(f"criterion {self.criterion} returns no numbers: {error}") from error
        notes.criterion, notes.aggregate, notes.seed = self.criterion, self.aggregate, self.seed
        notes.calibration = self.calibration
        if notes.keep is None:
            notes.dense_scores = notes.scores
        return True

    def context(self, graph: gs.Graph) -> Context:
        """Return what the criterion is given."""
        return Context(np.random.default_rng(self.seed), self.aggregate, self._objective(graph))

    def _objective(self, graph: gs.Graph) -> Callable[[], Objective] | None:
        """Return what makes the loss on data, None where there are no data."""
        if self.calibration.data is None:
            return None
        from onnx_reconvene.calibration import Objective

        sizes = analysis_of(graph).sizes
        return lambda: Objective(graph, sizes, self.calibration, self.seed, warm_up=batch_norms_start(plain_source(graph)))

    def ensures(self, graph: gs.Graph) -> None:
        """Every unit has a finite score."""
        scores, width = notes_of(graph).scores, analysis_of(graph).width
        if scores is None or scores.shape != (width,):
            shape = None if scores is None else scores.shape
            raise UsageError(f"criterion {self.criterion} returns scores of shape {shape}, not one for each of {width} units")
        if not np.isfinite(scores).all():
            raise ModelError(f"criterion {self.criterion} overflows on this network: its weights are too large")


def check_criterion(name: str, given: Calibration, option: str = "--criterion") -> None:
    """Raise UsageError, naming the option, where there is no such criterion or it has no data."""
    if name not in criteria:
        raise UsageError(f"{option} {name}: not one of {', '.join(criteria)}")
    if criteria[name].needs_data and given.data is None:
        raise UsageError(f"{option} {name} needs data: give --data {SOURCES}")


def _check_finite(analysis: Analysis) -> None:
    """NaN is never meant; infinity may be, in the constant of a mask, but not where channels are weighed."""
    weights = {name for layer in analysis.layers for name in layer.sources}
    weighed = {name for name in axes_with_units(analysis) if name in weights or len(analysis.shapes[name]) == 1}
    for tensor in every_tensor(analysis.graph).values():
        values = weight_values(tensor) if isinstance(tensor, gs.Constant) or tensor.name in weighed else None
        if values is None or values.dtype.kind != "f":
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(values.sum(dtype=np.float32))
        if suspicious and (np.isnan(values).any() or (tensor.name in weighed and np.isinf(values).any())):
            raise ModelError(f"initializer '{tensor.name}' holds NaN or infinity; such a network cannot be scored")
