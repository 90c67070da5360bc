"""Load: the network made ready, with its shapes, its integers and what can be removed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.calibration import Calibration
from onnx_reconvene.errors import UsageError
from onnx_reconvene.inference import is_free
from onnx_reconvene.notes import Notes, adopt, analysis_of, asked, forget, notes_of, restore
from onnx_reconvene.passes.base import Pass
from onnx_reconvene.values import input_values


@dataclass(frozen=True)
class Load(Pass):
    """Infer shapes, evaluate shape arithmetic and find the groups of channels. Changes nothing, but hands these options on.

    input_shapes: sizes for inputs with free dimensions, by name; others are those of samples, or of ordinary inputs.
    attention: "heads" lets attention lose whole heads, "dims" dimensions of every head.
    input_values: numbers that inputs of a single one have in the runs that count, by name.
    calibration: samples that say what sizes are, if they are given.
    """

    stage: ClassVar[str] = "analyse"

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    attention: str = "heads"
    input_values: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)

    def requires(self, graph: gs.Graph) -> None:
        """The options make sense."""
        if self.attention not in ("heads", "dims"):
            raise UsageError(f"--attention {self.attention}: give heads or dims")

    def call(self, graph: gs.Graph) -> bool:
        """Analyse graph. What earlier passes have noted of it under other options is forgotten."""
        notes = notes_of(graph)
        graph.input_values = input_values(graph, self.input_values)
        sizes = {name: tuple(shape) for name, shape in self.input_shapes.items()}
        wanted = Notes(sizes, self.attention, self._sample_sizes(graph), dict(self.input_values), stage=notes.stage)
        changed = not notes.done and asked(wanted) != asked(notes)
        if changed:
            restore(graph)
            forget(graph)
            adopt(graph, wanted)
        analysis_of(graph)
        return changed

    def _sample_sizes(self, graph: gs.Graph) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs with free dimensions of which none is given, for the first sample."""
        named = {*self.input_shapes, *self.input_values}
        free = [t.name for t in graph.inputs if t.name not in named and is_free(t)]
        if self.calibration.data is None or not free or any(t.shape is None for t in graph.inputs):
            return {}
        from onnx_reconvene.calibration.data import Data, inputs_of

        data = Data(self.calibration.data, inputs_of(graph, self.input_shapes), self.calibration.image)
        sample = data.first()
        return {i.name: i.sizes(i.shape[0] or 1, *sample[i.name].shape[1:]) for i in data.inputs if i.name in free}
