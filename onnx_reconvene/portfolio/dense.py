"""The network of which a portfolio is made, before any cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from onnx_reconvene import wire
from onnx_reconvene.api import passes_of
from onnx_reconvene.calibration import Calibration
from onnx_reconvene.files import save
from onnx_reconvene.graph import Source, without_weights
from onnx_reconvene.notes import analysis_of, notes_of
from onnx_reconvene.options import Options
from onnx_reconvene.passes import Allocate, Load, Score
from onnx_reconvene.passes.score import check_criterion
from onnx_reconvene.process import workplace
from onnx_reconvene.saliency import Scores
from onnx_reconvene.shapes import Shape


@dataclass(frozen=True)
class Dense:
    """The network before any cut."""

    path: str | None  # where it was read from
    source: Source
    digest: str  # SHA-256 of all of it
    sizes: dict[str, Shape]  # of its inputs
    yardstick: str  # the criterion that all cuts are measured by
    scores: Scores  # [units], by the yardstick


def dense_of(graph: gs.Graph, yardstick: str, cells: Sequence[Options]) -> Dense:
    """Return a network, scored by the yardstick under the options of its cells.

    Raises UsageError where the yardstick or an option of these cannot be, ModelError where the network cannot be analysed.
    """
    check_criterion(yardstick, Calibration(cells[0].data), "--yardstick")
    source = without_weights(graph)
    steps = [step for options in cells for step in passes_of(options)]
    for step in passes_of(replace(cells[0], criterion=yardstick, steps=1)):
        if isinstance(step, Load | Score):
            step.run(graph)
    for step in steps:
        if isinstance(step, Score | Allocate):
            step.requires(graph)
    scores = notes_of(graph).scores
    assert scores is not None
    return Dense(graph.source.path, source, _digest(source), analysis_of(graph).sizes, yardstick, scores)


def _digest(source: Source) -> str:
    digest = hashlib.sha256()
    for part in wire.join(source.model, source.arrays):
        digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def as_file(dense: Dense) -> Iterator[str]:
    """Lend the path of a file that holds the network: its own, or a temporary one where it has none."""
    if dense.path is not None:
        yield dense.path
        return
    with workplace("a sweep of a model that is no file") as folder:
        path = os.path.join(folder, "model.onnx")
        save(dense.source, path)
        yield path
