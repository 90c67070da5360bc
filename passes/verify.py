"""Verify: the pruned network computes what the original does without the removed channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.errors import UsageError
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes.base import Pass, reference_of
from onnx_reconvene.verify import Verdict, verify


@dataclass(frozen=True)
class Verify(Pass):
    """Run the network and its zeroed-consumer reference side by side; raises VerificationError. Changes nothing.

    original: the network before the cut, for a model that does not come straight from Cut.
    """

    stage: ClassVar[str] = "verify"

    original: Any = None
    seed: int = 0

    def requires(self, graph: gs.Graph) -> None:
        """The cut has been made and the network before it is known."""
        reference_of(graph, "Verify", self.original)
        notes = notes_of(graph)
        if notes.repaired or (notes.rectified is not None and notes.rectified.tensors):
            raise UsageError("Verify compares weights as they were: run it before Rectify and Repair")

    def call(self, graph: gs.Graph) -> bool:
        """Note the verdict."""
        notes, reference = notes_of(graph), reference_of(graph, "Verify", self.original)
        if reference is None:
            notes.verdict = Verdict("exact", 0.0, "nothing was removed")
        else:
            notes.verdict = verify(graph, reference, self.seed)
        return False
