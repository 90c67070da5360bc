"""Cut: the marked units removed, and every shape that depended on them."""

from __future__ import annotations

from typing import ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.cut import cut
from onnx_reconvene.notes import analysis_of, notes_of, restore
from onnx_reconvene.passes.base import Pass, needed
from onnx_reconvene.reference import reference
from onnx_reconvene.sharing import unite


class Cut(Pass):
    """Remove the units that Allocate has not marked to stay. Where all stay, no weight and no node changes."""

    stage: ClassVar[str] = "cut"

    def requires(self, graph: gs.Graph) -> None:
        """Some pass has said which units stay."""
        needed(graph, "keep", "Cut", "Allocate")

    def call(self, graph: gs.Graph) -> bool:
        """Slice weights and bring integers up to date."""
        analysis, notes = analysis_of(graph), notes_of(graph)
        assert notes.keep is not None
        notes.done = True
        notes.reference = None if notes.keep.all() else reference(analysis, notes.keep)
        if notes.keep.all():
            restore(graph)
            return True
        cut(analysis, notes.keep)
        unite(graph.shared)
        return True
