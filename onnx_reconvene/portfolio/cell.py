"""One cell of a sweep: a cut of the network under options of its own, and what came of it."""

from __future__ import annotations

import gc
import itertools
import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene import __version__
from onnx_reconvene.api import run
from onnx_reconvene.bridges import open_model
from onnx_reconvene.errors import ReconveneError, UsageError
from onnx_reconvene.options import LATENCY, Options
from onnx_reconvene.process import workplace
from onnx_reconvene.stage import Stage
from onnx_reconvene.target import parse_target, parse_targets

Target = str | Sequence[str]  # one, or several that all hold


@dataclass(frozen=True)
class Cell:
    """A cut to be made: the name that its files bear, and its options."""

    name: str
    options: Options

    @property
    def target(self) -> str:
        """What is asked, as it is written on the command line."""
        return "+".join(self.options.target)

    @property
    def measures(self) -> bool:
        """Whether it times the network while it is cut, which others at work would disturb."""
        return LATENCY in (self.options.allocate, *(target.kind for target in parse_targets(self.options.target)))

    def network(self, folder: pathlib.Path) -> pathlib.Path:
        """Return where in folder the cut is written."""
        return folder / f"{self.name}.onnx"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its report (as JSON types) and which units stayed, or the exit status and the line with which a run of
    its own would have ended."""

    report: dict[str, Any] | None
    keep: NDArray[np.bool_] | None  # [units]
    status: int = 0
    reason: str | None = None


def product(
    stem: str, base: Options, stage: Stage, targets: Sequence[Target], criteria: Sequence[str], allocate: Sequence[str]
) -> list[Cell]:
    """Return a cell for each target, criterion and allocator, each once; stage: that of the network, which says what is automatic.
    Raises UsageError where a list is empty or a target cannot be read."""
    if base.from_plan is not None or base.granularity != "channel":
        raise UsageError("sweep: removes channels as its targets ask, so it goes with neither --from-plan nor --granularity weight")
    base.check_values()
    for option, values in (("--targets", targets), ("--criteria", criteria), ("--allocate", allocate)):
        if isinstance(values, str) or not values or not all(values):
            raise UsageError(f"{option}: give a list of at least one")
    cells = {}
    asked = [(target,) if isinstance(target, str) else tuple(target) for target in targets]
    for text in itertools.chain.from_iterable(asked):
        parse_target(text)
    for target, criterion, allocator in itertools.product(asked, criteria, allocate):
        options = replace(base, target=target, criterion=criterion, allocate=allocator).for_stage(stage)
        kept = "+".join(target).replace("=", "-").replace("%", "pct")
        name = re.sub(r"[^\w.+-]", "_", f"{stem}.{kept}.{options.criterion}.{options.allocate}")
        cells[name] = Cell(name, options)
    return list(cells.values())


def cut(source: str, cell: Cell, folder: pathlib.Path) -> Outcome:
    """Cut the network in the file source and write the result to folder."""
    try:
        graph, back = open_model(source)
        result = run(graph, back, cell.options, os.fspath(cell.network(folder)))
    except ReconveneError as error:
        return Outcome(None, None, error.exit_status, " ".join(str(error).split()))
    finally:
        gc.collect()  # graphs are full of cycles, and the next cell wants the room
    return Outcome(result.report.json(), np.concatenate([np.empty(0, bool), *result.plan.keep.values()]))


def cut_away(files: dict[str, bytes], cell: Cell, version: str) -> tuple[Outcome, dict[str, bytes]]:
    """Cut the network in files (by name, the model first) on a machine that shares no disk with the one that asks; return the
    outcome and the files to be written, the model last. version: that of the package over there."""
    if version != __version__:
        return Outcome(None, None, UsageError.exit_status, f"the worker has version {__version__}, not {version}"), {}
    with workplace("a cut on a worker") as folder:
        source, written = pathlib.Path(folder, "in"), pathlib.Path(folder, "out")
        for place in (source, written):
            place.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)
        outcome = cut(os.fspath(source / next(iter(files))), cell, written)
        return outcome, {
            path.name: path.read_bytes() for path in sorted(written.iterdir(), key=lambda path: path.suffix == ".onnx")
        }
