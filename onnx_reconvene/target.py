"""Targets: what is to be kept, of what, as the user writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx_reconvene.cost import CostModel
from onnx_reconvene.errors import UsageError

SCALES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

SECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3}  # in milliseconds
UNITS = {"size": BYTES | SCALES, "memory": BYTES | SCALES, "latency": SECONDS}


@dataclass(frozen=True)
class Target:
    """An upper bound on one kind of cost: a fraction of what the network costs now, or an absolute number."""

    kind: str
    value: float
    relative: bool

    def bound(self, before: float) -> float:
        """Return the largest cost allowed, given the cost before."""
        return before * self.value if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.kind}={self.value:.6g}"


@dataclass(frozen=True)
class Rounding:
    """What rounding of widths costs: how much of a target is left unused, as a share of what the network cost before."""

    step: int  # channels of which widths are multiples, at most
    target: str
    unused: float


def parse_targets(texts: str | Sequence[str]) -> tuple[Target, ...]:
    """Read one target or several."""
    return tuple(parse_target(text) for text in ((texts,) if isinstance(texts, str) else texts))


def parse_target(text: str) -> Target:
    """Read KIND=VALUE, VALUE being what is kept: 0.5, 50%, 1/16 (of what there is) or 2.5M, 300M, 2MB, 8ms (absolute)."""
    kind, _, value = (part.strip().lower() for part in text.partition("="))
    if kind not in CostModel.KINDS:
        raise UsageError(f"--target {text}: unknown kind '{kind}'; one of {', '.join(CostModel.KINDS)}")
    try:
        target = _relative(kind, value) or _absolute(kind, value)
    except (ZeroDivisionError, OverflowError):
        target = None
    if target is None or not math.isfinite(target.value):
        raise UsageError(f"--target {text}: '{value}' is no fraction (0.5), percent (50%), ratio (1/16) or amount (2.5M, 2MB, 8ms)")
    if target.value <= 0 or (target.relative and target.value > 1):
        raise UsageError(f"--target {text}: what is kept must be above 0 and, as a fraction, at most 1")
    return target


def _relative(kind: str, value: str) -> Target | None:
    ratio = re.fullmatch(r"(\d*\.?\d+)/(\d*\.?\d+)", value)
    if ratio:
        return Target(kind, float(Fraction(ratio[1]) / Fraction(ratio[2])), True)
    if re.fullmatch(r"\d*\.?\d+%", value):
        return Target(kind, float(value[:-1]) / 100, True)
    if re.fullmatch(r"\d*\.?\d*(e-?\d+)?", value) and re.match(r"\d|\.\d", value) and float(value) <= 1:
        return Target(kind, float(value), True)
    return None


def _absolute(kind: str, value: str) -> Target | None:
    match = re.fullmatch(r"(\d*\.?\d+(?:e\d+)?)\s*([a-z]*)", value)
    unit = match[2] if match else ""
    scales = UNITS.get(kind, SCALES)
    return Target(kind, float(match[1]) * scales[unit], False) if match and unit in scales else None
