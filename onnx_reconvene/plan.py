"""Plans: which units of each group stay, as a file that can be read, edited and applied again; and files of fractions to keep."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError
from onnx_reconvene.files import write_whole
from onnx_reconvene.groups import Analysis, Group

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSION = 1
NAMES = ("criterion", "allocate", "attention", "rectify")  # settings that are text
Mask = NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class Plan:
    """What was decided: the units that go, and all that what is done to the weights afterwards depends on."""

    settings: Mapping[str, Any]  # criterion, allocate, seed, ...
    keep: Mapping[str, Mask]  # by group, [blocks * width]

    def __repr__(self) -> str:
        units, kept = (sum(int(count(mask)) for mask in self.keep.values()) for count in (np.size, np.sum))
        return f"Plan({len(self.keep)} groups, {kept} of {units} units kept, {dict(self.settings)})"

    @classmethod
    def of(cls, analysis: Analysis, keep: Mask, settings: Mapping[str, Any]) -> Plan:
        """Return the plan that keeps these units."""
        return cls(settings, {group.name: keep[group.units] for group in analysis.groups})

    def masks(self, analysis: Analysis) -> Mask:
        """Return which units stay, [units]. Raises UsageError where the plan is not for this network."""
        names = {group.name for group in analysis.groups}
        for name in [*(self.keep.keys() - names), *(names - self.keep.keys())]:
            where = "the network has no such group" if name in self.keep else "the plan does not name it"
            raise UsageError(f"plan: group '{name}': {where}; it was made for another network")
        for group in analysis.groups:
            _check(group, self.keep[group.name])
        return np.concatenate([np.empty(0, bool), *(self.keep[group.name] for group in analysis.groups)])


def _check(group: Group, keep: Mask) -> None:
    if keep.size != group.blocks * group.width:
        raise UsageError(f"plan: group '{group.name}' has {group.blocks * group.width} units, the plan says {keep.size}")
    each = keep.reshape(group.blocks, group.width).sum(1)
    if (each != each[0]).any() or not each[0]:
        raise UsageError(f"plan: group '{group.name}' must keep a unit, and as many in each of its {group.blocks} blocks")


def write_plan(plan: Plan, path: str) -> None:
    """Write a plan as JSON: of each group how many units it has and which go."""
    groups = [
        {"name": name, "units": keep.size, "kept": int(keep.sum()), "gone": _ranges(keep)} for name, keep in plan.keep.items()
    ]
    text = json.dumps({"version": VERSION, **plan.settings}, indent=1)[:-2]
    rows = ",\n  ".join(json.dumps(group) for group in groups)
    write_whole(path, f'{text},\n "groups": [\n  {rows}\n ]\n}}\n'.encode())


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan. Raises UsageError where the file is none."""
    found = _read(path, "--from-plan")
    if found.get("version") != VERSION or not isinstance(found.get("groups"), list):
        raise UsageError(f"--from-plan {path}: not a plan of version {VERSION}; --plan writes one")
    try:
        keep = {str(row["name"]): _mask(int(row["units"]), str(row["gone"])) for row in found["groups"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"a group lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"--from-plan {path}: {reason}; each group has a name, units and which are gone, like '0-3,7'") from error
    settings = {key: value for key, value in found.items() if key not in ("version", "groups")}
    _check_settings(settings, f"--from-plan {path}")
    return Plan(settings, keep)


def _check_settings(settings: Mapping[str, Any], name: str) -> None:
    for key, value in settings.items():
        if key == "seed" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UsageError(f"{name}: seed: expected a whole number of at least 0, not {value!r}")
        if key in NAMES and not isinstance(value, str):
            raise UsageError(f"{name}: {key}: expected a name, not {value!r}")


def plan_of(plan: str | os.PathLike[str] | Plan) -> Plan:
    """Return a plan, read if its path is given."""
    return plan if isinstance(plan, Plan) else read_plan(plan)


def read_fractions(path: str | os.PathLike[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Read fractions to keep from TOML or JSON, by name of a group and by shell pattern: a plan, or a table PATTERN = FRACTION."""
    found = _read(path, "--keep-file")
    if isinstance(found.get("groups"), list):
        plan = read_plan(path)
        return {name: float(keep.mean()) for name, keep in plan.keep.items()}, {}
    for pattern, fraction in found.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise UsageError(f"--keep-file {path}: '{pattern}': expected a fraction above 0 and at most 1, not {fraction!r}")
    return {}, {pattern: float(fraction) for pattern, fraction in found.items()}


def _read(path: str | os.PathLike[str], option: str) -> dict[str, Any]:
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        found = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option} {path}: neither TOML (.toml) nor JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{option} {path}: expected a table, not {type(found).__name__}")
    return found


def _ranges(keep: Mask) -> str:
    """Return which units go, like '0-3,7'."""
    gone = np.flatnonzero(~keep)
    runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1) if gone.size else []
    return ",".join(f"{run[0]}-{run[-1]}" if run.size > 1 else str(run[0]) for run in runs)


def _mask(units: int, gone: str) -> Mask:
    keep = np.ones(units, bool)
    for part in filter(None, (text.strip() for text in gone.split(","))):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if not 0 <= start <= end < units:
            raise ValueError(f"units {part} are not within 0-{units - 1}")
        keep[start : end + 1] = False
    return keep
