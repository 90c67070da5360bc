"""Verify: the pruned network computes what the original does without the removed channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from onnx_reconvene.bridges import open_model
from onnx_reconvene.errors import UsageError
from onnx_reconvene.notes import analysis_of, apply, notes_of
from onnx_reconvene.passes.base import Pass
from onnx_reconvene.reference import reference
from onnx_reconvene.verify import Verdict, verify


@dataclass(frozen=True)
class Verify(Pass):
    """Run the network and its zeroed-consumer reference side by side; raises VerificationError. Changes nothing.

    original: the network before the cut, for a model that does not come straight from Cut.
    """

    original: Any = None
    seed: int = 0

    def requires(self, graph: gs.Graph) -> None:
        """The cut has been made and the network before it is known."""
        notes = notes_of(graph)
        if not notes.done:
            raise UsageError("Verify needs a cut network: run Cut first")
        if notes.reference is None and self.original is None and not _nothing_removed(graph):
            raise UsageError("Verify needs the network before the cut: Verify(original=...)")

    def call(self, graph: gs.Graph) -> bool:
        """Note the verdict."""
        notes = notes_of(graph)
        if notes.reference is None and self.original is not None:
            before, _ = open_model(self.original)
            apply(notes, analysis_of(before))
            assert notes.keep is not None
            notes.reference = reference(analysis_of(before), notes.keep)
        if notes.reference is None:
            notes.verdict = Verdict("exact", 0.0, "nothing was removed")
        else:
            notes.verdict = verify(graph, notes.reference, self.seed)
        return False


def _nothing_removed(graph: gs.Graph) -> bool:
    keep = notes_of(graph).keep
    return keep is not None and bool(keep.all())
