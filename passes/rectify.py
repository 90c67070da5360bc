"""Rectify: new values for the weights of an untrained network that a cut has touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.flow import weight_constant
from onnx_reconvene.graph import every_tensor, plain_source
from onnx_reconvene.notes import notes_of, stage_known
from onnx_reconvene.passes.base import Pass, reference_of
from onnx_reconvene.rectify import MODES, Rectified, decide, rectified


@dataclass(frozen=True)
class Rectify(Pass):
    """Draw the weights that the cut has touched anew ("reinit"), rescale ("rescale") or leave them ("none"); "auto" is reinit for
    an evidently untrained network and else none. Notes the stage of the network, what was done and why.

    Run it after Verify, which proves the cut with the weights it had. original: the network before the cut, for a model that does
    not come straight from Cut.
    """

    stage: ClassVar[str] = "rectify"

    mode: str = "auto"
    seed: int = 0
    original: Any = None

    def check(self) -> None:
        """Raise UsageError where an option makes no sense."""
        if self.mode not in MODES:
            raise UsageError(f"--rectify {self.mode}: not one of {', '.join(MODES)}")

    def requires(self, graph: gs.Graph) -> None:
        """The cut has been made and the network before it is known."""
        self.check()
        reference_of(graph, "Rectify", self.original)
        done = notes_of(graph).rectified
        if done is not None and done.tensors:
            raise UsageError("Rectify: the weights have new values already; run it once")

    def call(self, graph: gs.Graph) -> bool:
        """Give weights new values of the same shapes and types."""
        notes = notes_of(graph)
        reference = reference_of(graph, "Rectify", self.original)
        stage = stage_known(graph)
        mode, why = decide(self.mode, stage)
        values = {}
        if mode != "none" and reference is not None:
            values = rectified(reference.source, plain_source(graph), mode, stage, self.seed)
        tensors = every_tensor(graph)
        for name, array in values.items():
            constant = weight_constant(tensors[name])
            assert constant is not None
            if not np.isfinite(array).all():
                raise ModelError(f"--rectify {mode}: '{name}' would overflow {array.dtype}; choose another mode")
            constant.values = array
        notes.rectified = Rectified(mode, why, len(values))
        return bool(values)
