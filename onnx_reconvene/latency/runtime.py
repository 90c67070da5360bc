"""Where latency is measured: a runtime on a processor."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version

from onnx_reconvene.isolated.measure import processor

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Runtime:
    """How onnxruntime runs a network: with so many threads (0: its own choice), on an execution provider."""

    threads: int = 0
    provider: str = CPU

    @property
    def setting(self) -> dict[str, str | int]:
        """What else measurements depend on, and this."""
        return {**machine(), **asdict(self)}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run of a network before and after it was cut; None what was not measured."""

    before: float | None
    predicted: float
    measured: float | None
    threads: int | str
    provider: int | str


@cache
def machine() -> dict[str, str]:
    """Return the version of onnxruntime and the name of the processor."""
    return {"runtime": f"onnxruntime {version('onnxruntime')}", "processor": processor()}


def cache_folder() -> str:
    """Return the folder for what has been measured on this machine; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "onnx-reconvene")
