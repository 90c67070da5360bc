"""Load: the network made ready, with its shapes, its integers and what can be removed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.passes.base import Pass


@dataclass(frozen=True)
class Load(Pass):
    """Infer shapes, evaluate shape arithmetic and find the groups of channels. Changes nothing.

    input_shapes: sizes for inputs with free dimensions, by name; others are taken at their smallest legal size.
    """

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def call(self, graph: gs.Graph) -> bool:
        """Analyse graph."""
        notes = notes_of(graph)
        if notes.analysis is None:
            notes.sizes = self.input_shapes
        analysis_of(graph)
        return False
