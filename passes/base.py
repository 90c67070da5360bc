"""What a pass is: a small object called with a model that returns a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_graphsurgeon as gs

from onnx_reconvene.boundary import boundary
from onnx_reconvene.bridges import is_file, open_model
from onnx_reconvene.errors import UsageError
from onnx_reconvene.notes import Notes, adopt, analysis_of, asked, check_groups, notes_of
from onnx_reconvene.reference import Reference, reference
from onnx_reconvene.state import State
from onnx_reconvene.verify import Verdict


@dataclass(frozen=True)
class PassResult:
    """The model after a pass, of the type the pass was called with (a ModelProto for what is read), whether the pass changed it
    (what it hands on to other passes counts), and what has been done up to here."""

    model: Any
    modified: bool
    state: State

    @property
    def verdict(self) -> Verdict | None:
        """What Verify has found, None where it has not been run."""
        return self.state.verdict

    def __repr__(self) -> str:
        return f"PassResult({type(self.model).__name__}, modified={self.modified}, state={self.state!r})"


class Pass:
    """One step over a model. Subclasses say what they require, do and ensure; `call` works on a graph in place."""

    stage: ClassVar[str] = "run"  # of pruning: what its time counts for, and what a defect names

    def requires(self, graph: gs.Graph) -> None:
        """Raise UsageError where graph is not ready for this pass."""

    def call(self, graph: gs.Graph) -> bool:
        """Run on graph, in place; return whether anything changed."""
        raise NotImplementedError

    def ensures(self, graph: gs.Graph) -> None:
        """Raise an error where the pass has not kept its promise."""

    def run(self, graph: gs.Graph) -> bool:
        """Check, call and check again."""
        with boundary(self.stage, graph):
            self.requires(graph)
            modified = self.call(graph)
            self.ensures(graph)
        return modified

    def __call__(self, model: Any) -> PassResult:
        """Run on a model of any kind (see `bridges.open_model`) and give back the same kind, a ModelProto for what is read."""
        graph, back = open_model(model, in_place=True)
        modified = self.run(graph)
        return PassResult(back(graph) if modified or is_file(model) else model, modified, notes_of(graph).state())

    def to_ir(self) -> Any:
        """Return this pass as a pass of onnx_ir."""
        from onnx_reconvene.bridges.onnx_ir import IrPass

        return IrPass(self)


@dataclass(frozen=True)
class Sequential(Pass):
    """Passes in a row, as one pass; the model is converted once, not before each."""

    passes: tuple[Pass, ...]

    def __init__(self, *passes: Pass) -> None:
        object.__setattr__(self, "passes", passes)

    def call(self, graph: gs.Graph) -> bool:
        """Run each pass on what the one before left."""
        modified = [step.run(graph) for step in self.passes]
        return any(modified)


def needed(graph: gs.Graph, what: str, step: str, run_first: str) -> Notes:
    """Return the notes of graph; raise UsageError where no pass has noted `what`, or where the cut has been made already."""
    notes = notes_of(graph)
    if notes.done:
        raise UsageError(f"{step}: this network has been cut already; start from the original or from the written model")
    if what and getattr(notes, what) is None:
        raise UsageError(f"{step} needs {what}: run {run_first} first")
    return notes


def reference_of(graph: gs.Graph, step: str, original: Any = None) -> Reference | None:
    """Return the network before the cut, as noted by Cut or else from `original`; None where nothing was removed.

    Raises UsageError where no cut has been made, or where nobody knows what was before.
    """
    notes = notes_of(graph)
    if not notes.done:
        raise UsageError(f"{step} needs a cut network: run Cut first")
    if notes.reference is None and original is not None:
        before, _ = open_model(original)
        adopt(before, Notes(**asked(notes)))
        analysis = analysis_of(before)
        check_groups(notes, analysis)
        assert notes.keep is not None
        notes.reference, notes.dense = reference(analysis, notes.keep), before.notes.dense
    if notes.reference is None and (notes.keep is None or not notes.keep.all()):
        raise UsageError(f"{step} needs the network before the cut: {step}(original=...)")
    return notes.reference
