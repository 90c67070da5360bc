"""Tables of measurements: numbers by key, in a file that says where they were measured."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx_reconvene.errors import UsageError
from onnx_reconvene.files import write_whole
from onnx_reconvene.latency.runtime import cache_folder

VERSION = 1
Setting = Mapping[str, str | int]


@dataclass
class Table:
    """Milliseconds (or what else was measured) by key, all measured in one setting; path is None where they are kept nowhere."""

    setting: Setting
    values: dict[str, float]
    path: str | None = None

    def add(self, values: Mapping[str, float]) -> None:
        """Enter values, in the file too: beside those that others have entered there meanwhile. A file that cannot be written
        is left as it is."""
        self.values |= values
        if self.path is None:
            return
        with contextlib.suppress(OSError, UsageError, ValueError):
            there = _read(self.path)["values"] if os.path.exists(self.path) else {}
            self.values = {**there, **self.values}
        with contextlib.suppress(OSError, UsageError):
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            content = {"version": VERSION, "setting": dict(self.setting), "values": self.values}
            write_whole(self.path, (json.dumps(content, indent=1) + "\n").encode())


def cached(setting: Setting) -> Table:
    """Return the table of this user for a setting: empty where there is none yet, or a damaged one."""
    digest = hashlib.sha256(json.dumps(dict(setting), sort_keys=True).encode()).hexdigest()
    path = os.path.join(cache_folder(), f"{digest[:16]}.json")
    try:
        content = _read(path)
        return Table(setting, content["values"] if content["setting"] == dict(setting) else {}, path)
    except (OSError, ValueError):
        return Table(setting, {}, path)


def read_table(path: str) -> Table:
    """Return the table that was measured on a device. Raises UsageError where the file is none."""
    try:
        content = _read(path)
        if not {"threads", "provider"} <= content["setting"].keys():
            raise ValueError("it does not say with which threads and provider")
    except OSError as error:
        raise UsageError(f"--latency-table {path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--latency-table {path}: not a table as tools/measure_device.py writes it ({error})") from error
    return Table(content["setting"], content["values"])


def _read(path: str) -> dict[str, Any]:
    """Return the content of a table; raises OSError or ValueError."""
    with open(path, encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"it is not of version {VERSION}")
    values = content.get("values")
    if not isinstance(content.get("setting"), dict) or not isinstance(values, dict):
        raise ValueError("it has no setting or no values")
    if not all(isinstance(value, int | float) and 0 < value < float("inf") for value in values.values()):
        raise ValueError("some value is no time")
    return content
