"""What can be removed from a network and what cannot, told in one screen."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence

import numpy as np

from onnx_reconvene.cost import CostModel, Counting
from onnx_reconvene.groups import Analysis, Frozen, Group
from onnx_reconvene.sizes import size_line

SHOWN_GROUPS, SHOWN_REASONS = 12, 7
LEGEND = (
    "width: in how many steps a group can be cut; each takes a channel (a head, one channel of every block) from all its layers",
    "MACs: share of the layers that make these channels; exact: whether what is left computes as if the channels were zero",
)


def inspection(analysis: Analysis, everything: bool = False) -> str:
    """Return what can be removed from a network and what is frozen and why, as tables for a terminal.

    Unless everything is asked for, only the groups with most multiply-accumulates and the most frequent reasons are shown, about
    one screen.
    """
    cost = CostModel(analysis)
    macs = cost.macs_by_node(cost.dense)
    total = sum(macs.values()) or 1.0
    share = {group.name: sum(macs.get(output, 0.0) for output in group.outputs) / total for group in analysis.groups}
    groups = sorted(wide(analysis), key=lambda group: -share[group.name])
    rows = [
        (_named(analysis, g), str(g.width), str(len(g.layers)), f"{share[g.name]:.1%}", "no" if g.inexact else "yes")
        for g in groups
    ]
    reasons = by_reason([*analysis.frozen, *_single(analysis)])
    frozen = [(str(sum(entry.channels for entry in own)), _and_more(own), reason) for reason, own in reasons]
    return "\n".join(
        [
            *_totals(analysis, cost),
            "",
            *_table(("group (its first layer)", "width", "layers", "MACs", "exact"), rows, everything or SHOWN_GROUPS, (1, 2, 3)),
            "",
            *_table(("stay", "at", "because"), frozen, everything or SHOWN_REASONS, (0,)),
            "",
            *LEGEND,
            *_inexact(groups),
            "",
        ]
    )


def _single(analysis: Analysis) -> list[Frozen]:
    """Return the channels that have to stay because nothing of their group would."""
    single = [group for group in analysis.groups if group.width == 1]
    return [Frozen(group.name, group.channels, "it is the only unit of its group") for group in single]


def _totals(analysis: Analysis, cost: CostModel) -> list[str]:
    layers = [layer for layer in analysis.layers if layer.stored]
    units = np.concatenate([np.empty(0, np.int64), *(analysis.units(layer.out) for layer in layers)])
    removable = np.append([group.width > 1 for group in analysis.groups], False)[np.append(analysis.group_of_unit, -1)]
    few = np.ones_like(cost.dense)
    left = {kind: cost(kind, few) / (cost(kind, cost.dense) or 1.0) for kind in ("macs", "params")}
    n = len(wide(analysis))
    groups = f"{n} group{'' if n == 1 else 's'}"
    return [
        *size_line(analysis.sizes, analysis.origins),
        f"{cost('macs', cost.dense):,.0f} MACs, {cost('params', cost.dense):,.0f} parameters; "
        f"with one unit left of each group {left['macs']:.1%} of the MACs and {left['params']:.1%} of the parameters",
        f"{removable[units].sum():,} of {units.size:,} output channels of layers can go, in {groups} of channels that go together",
        *Counting.of(analysis).lines(),
    ]


def wide(analysis: Analysis) -> list[Group]:
    """Return the groups of several units: the only unit of a group has to stay."""
    return [group for group in analysis.groups if group.width > 1]


def _named(analysis: Analysis, group: Group) -> str:
    """Return the name of a group, or of the first weight in it where that is the path of a module and the other a number. Either
    is what options take."""
    weights = [layer.weight for layer in analysis.layers if layer.stored and layer.node in group.outputs]
    path = next((name for name in weights if name.count(".") > 1), group.name)
    return path if re.fullmatch(r"node_\w+?_\d+", group.name) else group.name


def by_reason(frozen: Sequence[Frozen]) -> list[tuple[str, list[Frozen]]]:
    """Return what is frozen by reason, those that differ in names alone taken together; most channels first."""
    alike: dict[str, list[Frozen]] = {}
    for entry in frozen:
        alike.setdefault(re.sub(r"'[^']*'", "", entry.reason), []).append(entry)

    def told(own: list[Frozen]) -> str:
        others = len({entry.reason for entry in own}) - 1
        return own[0].reason + (f" ({others} more like it)" if others else "")

    return sorted(((told(own), own) for own in alike.values()), key=lambda item: -sum(entry.channels for entry in item[1]))


def _and_more(entries: list[Frozen]) -> str:
    return entries[0].tensor + (f" and {len(entries) - 1} more" if len(entries) > 1 else "")


def _inexact(groups: list[Group]) -> list[str]:
    what = Counter(group.inexact for group in groups if group.inexact)
    if not what:
        return []
    others = f" and {len(what) - 1} more" if len(what) > 1 else ""
    return [f"not exact: {next(iter(what))}{others}; without some of the channels it makes another result of the others"]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], shown: int, right: tuple[int, ...]) -> list[str]:
    """Return rows under head as lines that fit the terminal; long names lose their middle. shown: how many, True for all."""
    if not rows:
        return ["no channel can go" if head[0].startswith("group") else "nothing is frozen"]
    shown = len(rows) if shown is True else shown
    columns = shutil.get_terminal_size((120, 24)).columns
    cells = [tuple(_shortened(cell, max(24, columns // 3)) for cell in row[:-1]) + row[-1:] for row in [head, *rows[:shown]]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    room = max(30, columns - sum(widths[:-1]) - 2 * len(widths[:-1]))
    lines = []
    for row in cells:
        row = (*row[:-1], _names_shortened(row[-1], room))
        placed = [cell.rjust(w) if k in right else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(placed).rstrip())
    return [*lines, *([f"... and {len(rows) - shown} more (-v shows all)"] if len(rows) > shown else [])]


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room // 3]}...{text[-(room - room // 3 - 3) :]}"


def _names_shortened(text: str, room: int) -> str:
    """Shorten the names in text, not its words."""
    over = len(text) - room
    if over <= 0:
        return text
    return re.sub(r"'([^']*)'", lambda found: f"'{_shortened(found[1], max(12, len(found[1]) - over))}'", text)
