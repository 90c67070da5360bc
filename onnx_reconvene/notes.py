"""What passes find out about a graph, carried from one to the next.

On a graph the notes are an attribute. A ModelProto carries what is written down of them, the `State`, in its metadata, under one
key that `Emit` removes; so passes can be run one by one, in other processes too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.cost import CostModel
from onnx_reconvene.errors import UsageError
from onnx_reconvene.fold import fold
from onnx_reconvene.graph import Source, plain_source
from onnx_reconvene.groups import Analysis
from onnx_reconvene.latency.runtime import Timing
from onnx_reconvene.reference import Reference
from onnx_reconvene.sharing import separate, unite
from onnx_reconvene.stage import Stage, stage_of
from onnx_reconvene.state import KEY, State
from onnx_reconvene.target import Rounding
from onnx_reconvene.trial import analyze_by_trial
from onnx_reconvene.values import input_values


@dataclass(eq=False, repr=False)
class Notes(State):
    """The state of a graph, and what cannot be written down, or serves but the report."""

    restore: Callable[[], None] | None = None  # lets nodes read what they read before the analysis
    analysis: Analysis | None = None
    dense: Source | None = None  # the network before all else, in plain form
    dense_scores: NDArray[np.float64] | None = None  # those of the first Score, before units were marked to go
    data: dict[str, Any] | None = None  # what the criterion saw, see `Objective.summary`
    cost: CostModel | None = None
    sensitivity: NDArray[np.float64] | None = None  # [groups]
    rounding: Rounding | None = None  # of widths, and what it costs
    left: dict[str, float] | None = None  # of each kind of cost, where single weights were set to zero
    timing: Timing | None = None  # of one run, if a target or an allocator asks for it
    reference: Reference | None = None
    stage: Stage | None = None  # of the network before the cut, see `stage_known`

    def state(self) -> State:
        """Return what can be written down."""
        return State(**{of.name: getattr(self, of.name) for of in fields(State)})


def notes_of(graph: gs.Graph) -> Notes:
    """Return the notes of graph, empty ones at first."""
    if not hasattr(graph, "notes"):
        graph.notes = Notes()
        for entry in graph.source.model.metadata_props:
            if entry.key == KEY:
                adopt(graph, Notes(**vars(State.read(entry.value))))
    notes: Notes = graph.notes
    return notes


def adopt(graph: gs.Graph, notes: Notes) -> None:
    """Let these be the notes of graph."""
    graph.notes, graph.input_values = notes, input_values(graph, notes.values)


def analysis_of(graph: gs.Graph) -> Analysis:
    """Return the analysis of graph, made now if no pass has made it. Raises UsageError where the state that was read is that of
    another network."""
    notes = notes_of(graph)
    if notes.analysis is None:
        notes.dense = None if notes.stage or notes.done else plain_source(graph)
        notes.restore = _prepare(graph)
        notes.analysis = analyze_by_trial(graph, notes.sizes, notes.attention, notes.samples)
        if not notes.done:
            check_groups(notes, notes.analysis)
            notes.groups = {group.name: group.blocks * group.width for group in notes.analysis.groups}
    return notes.analysis


def check_groups(notes: Notes, analysis: Analysis) -> None:
    """Raise UsageError where scores or masks are noted for a network with other groups."""
    groups = [(group.name, group.blocks * group.width) for group in analysis.groups]
    if (notes.scores is not None or notes.keep is not None) and list(notes.groups.items()) != groups:
        raise UsageError(f"what is noted in the model is not for this network; remove its metadata entry '{KEY}'")


def stage_known(graph: gs.Graph) -> Stage:
    """Return the stage of the network that graph was before it was prepared or cut, found out now if it is not known yet."""
    notes = notes_of(graph)
    if notes.stage is None:
        notes.stage = stage_of(notes.dense or plain_source(graph))
    return notes.stage


def asked(notes: Notes) -> dict[str, Any]:
    """Return what an analysis depends on."""
    return {name: getattr(notes, name) for name in ("sizes", "samples", "values", "attention")}


def _prepare(graph: gs.Graph) -> Callable[[], None]:
    """Let nodes read what the analysis can follow; returns what undoes that."""
    graph.shared = separate(graph)
    unfold = fold(graph)

    def restore() -> None:
        unfold()
        unite(graph.shared)

    return restore


def restore(graph: gs.Graph) -> None:
    """Let nodes read what they read before the analysis, which is made again if need be, unless something has been cut."""
    notes = notes_of(graph)
    is_cut = notes.done and notes.keep is not None and not notes.keep.all()
    if notes.restore is not None and not is_cut:
        notes.restore()
        notes.restore, notes.analysis = None, notes.analysis if notes.done else None


def write(graph: gs.Graph, model: onnx.ModelProto) -> None:
    """Put the state of graph into the metadata of model, if any pass has said anything."""
    strip(model)
    state = notes_of(graph).state()
    if state.text() != replace(State(), groups=state.groups).text():
        model.metadata_props.add(key=KEY, value=state.text())


def carried(graph: gs.Graph) -> Notes:
    """Return the notes of graph without what is bound to its nodes."""
    return replace(notes_of(graph), analysis=None, restore=None, cost=None)


def forget(graph: gs.Graph) -> None:
    """Remove the notes of graph."""
    strip(graph.source.model)
    adopt(graph, Notes())


def strip(model: onnx.ModelProto) -> None:
    """Remove the state from the metadata of model."""
    for entry in [entry for entry in model.metadata_props if entry.key == KEY]:
        model.metadata_props.remove(entry)
