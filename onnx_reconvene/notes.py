"""What passes find out about a graph, carried from one to the next.

On a graph the notes are an attribute. A ModelProto carries what can be written down (scores, masks) in its metadata, under one key
that `Emit` removes; so passes can be run one by one, in other processes too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Rounding
from onnx_reconvene.cost import CostModel
from onnx_reconvene.errors import UsageError
from onnx_reconvene.fold import fold
from onnx_reconvene.groups import Analysis
from onnx_reconvene.latency.runtime import Timing
from onnx_reconvene.rectify import Rectified
from onnx_reconvene.reference import Reference
from onnx_reconvene.saliency.criterion import Context
from onnx_reconvene.sharing import separate, unite
from onnx_reconvene.stage import Stage
from onnx_reconvene.target import Target
from onnx_reconvene.trial import analyze_by_trial
from onnx_reconvene.values import input_values
from onnx_reconvene.verify import Verdict

KEY = "onnx_reconvene.notes"
PER_UNIT = ("scores", "keep")


@dataclass
class Notes:
    """Filled in pass by pass; None where no pass has said anything yet."""

    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    samples: Mapping[str, Sequence[int]] = field(default_factory=dict)  # sizes of samples
    values: Mapping[str, float] = field(default_factory=dict)  # of inputs
    attention: str = "heads"
    restore: Callable[[], None] | None = None  # lets nodes read what they read before the analysis
    analysis: Analysis | None = None
    criterion: str | None = None
    scores: NDArray[np.float64] | None = None
    dense_scores: NDArray[np.float64] | None = None  # those of the first Score, before units were marked to go
    context: Context | None = None  # what the criterion was given
    data: dict[str, Any] | None = None  # what the criterion saw, see `Objective.summary`
    allocate: str | None = None
    targets: tuple[Target, ...] = ()
    cost: CostModel | None = None
    keep: NDArray[np.bool_] | None = None
    sensitivity: NDArray[np.float64] | None = None  # [groups]
    rounding: Rounding | None = None  # of widths, and what it costs
    left: dict[str, float] | None = None  # of each kind of cost, where single weights were set to zero
    timing: Timing | None = None  # of one run, if a target or an allocator asks for it
    done: bool = False  # the cut has been made: analysis and keep speak of the network before it
    reference: Reference | None = None
    verdict: Verdict | None = None
    stage: Stage | None = None  # of the network before the cut
    rectified: Rectified | None = None
    repaired: dict[str, Any] | None = None  # what a repair did, see `Repaired`
    written: dict[str, Any] = field(default_factory=dict)  # as read from metadata, by group


def notes_of(graph: gs.Graph) -> Notes:
    """Return the notes of graph, empty ones at first."""
    if not hasattr(graph, "notes"):
        graph.notes = Notes(written=_read(graph.source.model))
        graph.notes.done = bool(graph.notes.written.get("done"))
        graph.notes.criterion, graph.notes.allocate = (graph.notes.written.get(k) for k in ("criterion", "allocate"))
    notes: Notes = graph.notes
    return notes


def analysis_of(graph: gs.Graph) -> Analysis:
    """Return the analysis of graph, made now if no pass has made it; written scores and masks are read against it."""
    notes = notes_of(graph)
    if notes.analysis is None:
        graph.input_values = input_values(graph, notes.values)
        notes.restore = _prepare(graph)
        notes.analysis = analyze_by_trial(graph, notes.sizes, notes.attention, notes.samples)
        if not notes.done:
            apply(notes, notes.analysis)
    return notes.analysis


def _prepare(graph: gs.Graph) -> Callable[[], None]:
    """Let nodes read what the analysis can follow; returns what undoes that."""
    graph.shared = separate(graph)
    unfold = fold(graph)

    def restore() -> None:
        unfold()
        unite(graph.shared)

    return restore


def restore(graph: gs.Graph) -> None:
    """Let nodes read what they read before the analysis, unless something has been cut."""
    notes = notes_of(graph)
    is_cut = notes.done and notes.keep is not None and not notes.keep.all()
    if notes.restore is not None and not is_cut:
        notes.restore()


def apply(notes: Notes, analysis: Analysis) -> None:
    """Turn scores and masks that were written by group into arrays over the units of analysis."""
    for kind in PER_UNIT:
        by_group = notes.written.get(kind)
        if by_group is not None:
            if {g.name: g.blocks * g.width for g in analysis.groups} != {name: len(values) for name, values in by_group.items()}:
                raise UsageError(f"the {kind} noted in the model are not for this network; remove its metadata entry '{KEY}'")
            values = [x for group in analysis.groups for x in by_group[group.name]]
            setattr(notes, kind, np.asarray(values, float if kind == "scores" else bool))


def write(graph: gs.Graph, model: onnx.ModelProto) -> None:
    """Put the notes of graph that can be written down into the metadata of model."""
    notes = notes_of(graph)
    text = {"criterion": notes.criterion, "allocate": notes.allocate, "done": notes.done}
    found = {kind: getattr(notes, kind) for kind in PER_UNIT if getattr(notes, kind) is not None}
    if notes.analysis is not None and found:
        groups = notes.analysis.groups
        by_group = {k: {g.name: values[g.units].tolist() for g in groups} for k, values in found.items()}
        strip(model)
        model.metadata_props.add(key=KEY, value=json.dumps({**text, **by_group}))


def forget(graph: gs.Graph) -> None:
    """Remove the notes of graph."""
    strip(graph.source.model)
    graph.notes = Notes()


def strip(model: onnx.ModelProto) -> None:
    """Remove the notes from the metadata of model."""
    for entry in [entry for entry in model.metadata_props if entry.key == KEY]:
        model.metadata_props.remove(entry)


def _read(model: onnx.ModelProto) -> dict[str, Any]:
    for entry in model.metadata_props:
        if entry.key == KEY:
            try:
                found: dict[str, Any] = json.loads(entry.value)
                for kind in PER_UNIT:
                    for values in dict(found.get(kind, {})).values():
                        np.asarray(values, float).reshape(len(values))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise UsageError(f"the metadata entry '{KEY}' is damaged ({error}); remove it") from error
            return found
    return {}
