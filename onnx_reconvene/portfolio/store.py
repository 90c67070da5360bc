"""The folder of a portfolio: the cuts and their reports, which tell what has been done."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from onnx_reconvene import __version__
from onnx_reconvene.allocate import allocators
from onnx_reconvene.calibration.data import files_of
from onnx_reconvene.errors import UsageError
from onnx_reconvene.files import check_writable, remove, write_whole
from onnx_reconvene.options import Options
from onnx_reconvene.portfolio.cell import Cell, Outcome
from onnx_reconvene.portfolio.dense import Dense
from onnx_reconvene.report import score_kept
from onnx_reconvene.saliency import criteria

Report = dict[str, Any]  # as JSON types
SECTION = "sweep"  # of a report: what the cut depends on, and what only a sweep finds out


@dataclass(frozen=True)
class Store:
    """A folder with the cuts of one network. The report of a cell is written last: where it is, the cut is whole."""

    folder: Path
    dense: Dense
    files: dict[str, str]  # what options of all cells name that is in files, and the SHA-256 of what is in these

    def make(self) -> None:
        """Make the folder. Raises UsageError where it cannot be made or written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be made a folder: {error.strerror or error}") from error
        check_writable(self.folder / "portfolio.json")

    def report(self, cell: Cell) -> Report | None:
        """Return the report of cell, None where it has not been cut, or not under these options."""
        try:
            report: Report = json.loads(self._report(cell).read_bytes())
            done = cell.network(self.folder).is_file() and report[SECTION]["key"] == self._key(cell)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return report if done else None

    def clear(self, cell: Cell) -> None:
        """Make way for cell: its report goes, then the cut under other options, and what an interrupted run left half written."""
        self._report(cell).unlink(missing_ok=True)
        remove(cell.network(self.folder))
        for path in self.folder.glob(f"{glob.escape(cell.name)}.*.part"):
            path.unlink(missing_ok=True)

    def enter(self, cell: Cell, outcome: Outcome) -> None:
        """Write the report of a cell whose cut is in its place."""
        assert outcome.report is not None
        assert outcome.keep is not None
        found = {"key": self._key(cell), "yardstick_kept": score_kept(self.dense.scores, outcome.keep), "threads": None}
        self._write(
            cell, outcome.report | {"input": self.dense.path, "output": os.fspath(cell.network(self.folder)), SECTION: found}
        )

    def is_timed(self, cell: Cell, threads: int) -> bool:
        """Return True if the cut of cell has been timed with that many threads."""
        report = self.report(cell)
        return report is not None and report[SECTION]["threads"] == threads

    def enter_times(self, cell: Cell, before: float, after: float, threads: int) -> None:
        """Add what one run of the network took before and after the cut, in milliseconds, to the report of cell."""
        report = self.report(cell)
        assert report is not None
        report["before"]["latency_ms"], report["after"]["latency_ms"] = before, after
        report[SECTION]["threads"] = threads
        self._write(cell, report)

    def _report(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"

    def _write(self, cell: Cell, report: Report) -> None:
        write_whole(os.fspath(self._report(cell)), (json.dumps(report, indent=1) + "\n").encode())

    def _key(self, cell: Cell) -> Report:
        """Return what the cut of cell depends on, as JSON types."""
        dense = {"network": self.dense.digest, "yardstick": self.dense.yardstick}
        names = {cell.options.criterion, self.dense.yardstick} & criteria.keys()
        functions = [part for name in sorted(names) for part in (criteria[name].score, criteria[name].elements)]
        code = [code_of(function) for function in (*functions, allocators.get(cell.options.allocate))]
        return {"version": __version__, **dense, "files": self.files, "options": as_json(cell.options), "code": code}


def code_of(function: Any) -> str | None:
    """Return the SHA-256 of what a function that a user has registered does, None for those of this package."""
    code = getattr(function, "__code__", None)
    if code is None or function.__module__.startswith("onnx_reconvene."):
        return None
    return hashlib.sha256(_told(code).encode()).hexdigest()


def _told(code: CodeType) -> str:
    """Return the instructions of a function and of those in it, wherever they stand."""
    constants = [_told(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants))


def as_json(options: Options) -> Report:
    """Return options as JSON types. Raises UsageError where one is none."""
    try:
        content: Report = json.loads(json.dumps(vars(options), default=os.fspath))
    except TypeError as error:
        raise UsageError(f"sweep: data and loss have to be named by text, as cells are cut in other processes ({error})") from error
    return content


def files_in(options: Options) -> dict[str, str]:
    """Return what options name that is in files, and the SHA-256 of what is in these. Raises UsageError where options are not all
    JSON, or data come from code that fails."""
    given = {option: value for option, value in as_json(options).items() if isinstance(value, str)}
    files = {name: [name] for name in given.values() if os.path.isfile(name)}
    if "data" in given:
        files[given["data"]] = files_of(given["data"], options.samples)
    return {name: _digest(paths) for name, paths in files.items()}


def _digest(paths: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(2**20), b""):
                digest.update(part)
    return digest.hexdigest()
