"""Load: the network made ready, with its shapes, its integers and what can be removed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.errors import UsageError
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.passes.base import Pass


@dataclass(frozen=True)
class Load(Pass):
    """Infer shapes, evaluate shape arithmetic and find the groups of channels. Changes nothing.

    input_shapes: sizes for inputs with free dimensions, by name; others are taken at their smallest legal size.
    attention: "heads" lets attention lose whole heads, "dims" dimensions of every head.
    """

    stage: ClassVar[str] = "analyse"

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    attention: str = "heads"

    def requires(self, graph: gs.Graph) -> None:
        """The options make sense."""
        if self.attention not in ("heads", "dims"):
            raise UsageError(f"--attention {self.attention}: give heads or dims")

    def call(self, graph: gs.Graph) -> bool:
        """Analyse graph."""
        notes = notes_of(graph)
        if notes.analysis is None:
            notes.sizes, notes.attention = self.input_shapes, self.attention
        analysis_of(graph)
        return False
