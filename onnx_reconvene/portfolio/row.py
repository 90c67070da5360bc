"""The table of a portfolio: a row for each cell, and which rows nothing beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_reconvene.portfolio.cell import Cell
from onnx_reconvene.report import Size

COSTS = {"macs": "MACs", "params": "parameters", "latency_ms": "latency"}  # fields of Size, and what they are called


@dataclass(frozen=True)
class Row:
    """One cut of a portfolio. Shares are of what the network before the cut has."""

    name: str
    target: str
    criterion: str
    allocate: str
    status: int  # 0, or the exit status of a run that fails so
    reason: str | None = None  # why it failed, or was not measured
    file: str | None = None  # in the folder of the portfolio
    report: str | None = None  # likewise
    before: Size | None = None
    after: Size | None = None
    score_kept: float | None = None  # of its own criterion's scores; not to be compared over criteria
    yardstick_kept: float | None = None  # of the scores of one criterion, the same for all rows
    pareto: tuple[str, ...] = ()  # the costs, of COSTS, at which no row keeps more of the yardstick for as little

    def kept(self, cost: str) -> float | None:
        """Return the share of a cost, one of COSTS, that is left; None where it is not known."""
        before, after = getattr(self.before, cost, None), getattr(self.after, cost, None)
        return after / before if before and after is not None else None

    @classmethod
    def failed(cls, cell: Cell, status: int, reason: str | None) -> Row:
        """Return the row of a cell that could not be cut."""
        return cls(cell.name, cell.target, cell.options.criterion, cell.options.allocate, status, reason)

    @classmethod
    def of(cls, cell: Cell, report: dict[str, Any], reason: str | None = None) -> Row:
        """Return the row of a cell, given its report as it is stored."""
        return cls(
            **vars(cls.failed(cell, 0, reason))
            | {
                "file": f"{cell.name}.onnx",
                "report": f"{cell.name}.json",
                "before": Size(**report["before"]),
                "after": Size(**report["after"]),
                "score_kept": report["score_kept"],
                "yardstick_kept": report["sweep"]["yardstick_kept"],
            }
        )


def with_fronts(rows: Sequence[Row]) -> list[Row]:
    """Return rows with the costs at which each is Pareto-optimal: none costs at most as much and keeps at least as much of the
    yardstick, and less or more of one of them."""
    return [replace(row, pareto=tuple(cost for cost in COSTS if _undominated(row, rows, cost))) for row in rows]


def _undominated(row: Row, rows: Iterable[Row], cost: str) -> bool:
    own = _place(row, cost)
    others = (place for other in rows if (place := _place(other, cost)) is not None)
    return own is not None and not any(place != own and place[0] <= own[0] and place[1] >= own[1] for place in others)


def _place(row: Row, cost: str) -> tuple[float, float] | None:
    share, kept = row.kept(cost), row.yardstick_kept
    return None if share is None or kept is None else (share, kept)


def table(rows: Sequence[Row], yardstick: str) -> list[tuple[str, ...]]:
    """Return the rows that were cut as text under a head: the name first, what is known of costs, scores, the Pareto fronts."""
    costs = [cost for cost in COSTS if any(row.kept(cost) is not None for row in rows)]
    lines = [("network", *(COSTS[cost] for cost in costs), "score kept", f"{yardstick} kept", "Pareto-optimal in")]
    for row in (row for row in rows if row.after):
        shares = (f"{_amount(row, cost)} ({_share(row.kept(cost))})" for cost in costs)
        kept = _share(row.score_kept), _share(row.yardstick_kept)
        lines.append((row.name, *shares, *kept, ", ".join(COSTS[cost] for cost in row.pareto)))
    return lines


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row that could not be cut or timed."""
    return [f"{row.name}: {row.reason}" for row in rows if row.reason]


def _amount(row: Row, cost: str) -> str:
    value = getattr(row.after, cost)
    if value is None:
        return "-"
    if cost == "latency_ms":
        return f"{value:.2f} ms"
    scale, unit = next(
        (scale, unit) for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if value >= scale or scale == 1
    )
    return f"{value / scale:.3g} {unit}".strip()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
