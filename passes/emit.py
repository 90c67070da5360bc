"""Emit: the network in a file, whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.files import Output, check_spares, check_writable, save
from onnx_reconvene.graph import without_weights
from onnx_reconvene.notes import restore, strip
from onnx_reconvene.passes.base import Pass


@dataclass(frozen=True)
class Emit(Pass):
    """Write the network to a path or a binary file, without the notes of passes; what was not cut is as it was read, field by
    field."""

    stage: ClassVar[str] = "write"

    path: Output

    def requires(self, graph: gs.Graph) -> None:
        """The path can be written, and is no part of what was read."""
        if isinstance(self.path, str | os.PathLike):
            check_writable(self.path)
        check_spares(self.path, graph.source)

    def call(self, graph: gs.Graph) -> bool:
        """Write beside path, then rename."""
        restore(graph)
        bare = without_weights(graph)
        strip(bare.model)
        save(bare, self.path)
        return False
