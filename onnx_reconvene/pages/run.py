"""The page of one run: what became of the network, of its groups, and what had to stay."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from onnx_reconvene.inspection import by_reason
from onnx_reconvene.pages import layout
from onnx_reconvene.pages.charts import FAINT, SERIES, drawing, svg
from onnx_reconvene.report import GroupReport, Report, data_lines, rectify_line, size_rows, verify_line

ROW, LONGEST = 0.2, 40  # inches for one group; characters of its name
MANY_NAMES = 3


def page(report: Report) -> str:
    """Return the report as an HTML page."""
    return layout.page(
        f"{report.input or 'A network'}, pruned",
        *([layout.text(f"Written to {report.output}.")] if report.output else []),
        layout.section("Before and after", _sizes(report)),
        layout.section("How", _how(report)),
        layout.section("Verification", layout.text(verify_line(report.verify))),
        layout.section("Groups", *_groups(report.groups)),
        layout.section("Channels that stay", _frozen(report)),
        layout.section("Seconds", layout.table(list(report.seconds), [[f"{s:.2f}" for s in report.seconds.values()]])),
    )


def _sizes(report: Report) -> str:
    head, *rows = size_rows(report.before, report.after)
    return layout.table(head, rows, (1, 2, 3))


def _how(report: Report) -> str:
    kept = "" if report.score_kept is None else f"{report.score_kept:.1%} of the scores are kept"
    rows = [
        ("criterion", report.criterion, kept),
        ("allocation", report.allocate, f"seed {report.seed}"),
        ("network", report.stage, ", ".join(f"{name}: {'x'.join(map(str, n))}" for name, n in report.input_shapes.items())),
        ("weights", report.rectify.mode, rectify_line(report.rectify)),
        *(("data", "", line) for line in (data_lines(report.data) if report.data else [])),
    ]
    return layout.table(("", "", ""), [[escape(cell) for cell in row] for row in rows])


def _groups(groups: Sequence[GroupReport]) -> list[str]:
    if not groups:
        return [layout.text("No channel can be removed.")]
    head = ("group", "width", "kept", "share", "sensitivity", "weights")
    rows = [
        (
            escape(g.name),
            f"{g.width:,}",
            f"{g.kept:,}",
            f"{g.kept / g.width:.1%}",
            _felt(g),
            str(len({name for name, _ in g.sites})),
        )
        for g in groups
    ]
    return [
        _chart(groups),
        f"<details><summary>As a table</summary>{layout.table(head, rows, range(1, 6))}</details>",
    ]


def _felt(group: GroupReport) -> str:
    return "-" if group.sensitivity is None else f"{group.sensitivity:.3g}"


def _chart(groups: Sequence[GroupReport]) -> str:
    """Return, as SVG, which share of the width of each group is kept, and beside it the sensitivities where there are any."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    felt = [group.sensitivity for group in groups]
    known = any(value is not None for value in felt)
    places = range(len(groups))
    with drawing():
        figure = Figure(figsize=(9, 1 + ROW * len(groups)), layout="constrained")
        axes = figure.subplots(1, 2 if known else 1, sharey=True, squeeze=False, width_ratios=(3, 1) if known else (1,))[0]
        whole = axes[0].barh(places, [1.0] * len(groups), color=FAINT)
        axes[0].barh(places, [group.kept / group.width for group in groups], height=0.5, color=SERIES[0])
        axes[0].bar_label(whole, [f"{group.kept:,} of {group.width:,}" for group in groups], padding=4, size=7)
        axes[0].set(xlabel="units kept", xlim=(0, 1.15), xticks=(0, 0.25, 0.5, 0.75, 1), ylim=(len(groups) - 0.4, -0.6))
        axes[0].xaxis.set_major_formatter(PercentFormatter(1))
        axes[0].set_yticks(places, [_shortened(group.name) for group in groups], size=7)
        if known:
            axes[1].barh(places, [value or 0 for value in felt], height=0.5, color=SERIES[1])
            axes[1].set(xlabel="sensitivity")
        for each in axes:
            each.grid(visible=False, axis="y")
        return svg(figure, "share of the width of each group that is kept")


def _shortened(name: str) -> str:
    half = LONGEST // 2 - 1
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def _frozen(report: Report) -> str:
    rows = []
    for reason, entries in by_reason(report.frozen):
        names = ", ".join(entry.tensor for entry in entries[:MANY_NAMES]) + (", …" if len(entries) > MANY_NAMES else "")
        rows.append((f"{sum(entry.channels for entry in entries):,}", escape(reason), escape(names)))
    return layout.table(("channels", "because", "at"), rows, (0,)) if rows else layout.text("None: no channel is frozen.")
