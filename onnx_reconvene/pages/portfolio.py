"""The page and the plot of a portfolio: what each cut keeps against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from onnx_reconvene.pages import layout
from onnx_reconvene.pages.charts import INK, MARKERS, SERIES, drawing, svg
from onnx_reconvene.portfolio.row import COSTS, Row, remarks, table

KEPT = (
    "Score kept: the share of the sum of its criterion's scores that belongs to the units that stay (scores below 0 count as 0). "
    "{} kept is the same for one criterion, so rows can be compared by it; a row is Pareto-optimal in a cost where no other keeps "
    "as much of it for less, or more for as little."
)


def markdown(rows: Sequence[Row], yardstick: str) -> str:
    """Return the portfolio as a Markdown table."""
    head, *lines = table(rows, yardstick)
    linked = [(f"[{name}]({quote(name)}.onnx)", *cells) for name, *cells in lines]
    ruled = [head, ("---", *["---:"] * (len(head) - 2), "---"), *linked]
    listed = "".join(f"- {line}\n" for line in remarks(rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in ruled) + f"\n{KEPT.format(yardstick)}\n" + (listed and f"\n{listed}")


def page(rows: Sequence[Row], yardstick: str, network: str, plotted: str) -> str:
    """Return the portfolio as an HTML page; plotted is its plot, network what it was made of."""
    head, *lines = table(rows, yardstick)
    cells = [(_linked(name), *(f"<b>{cell}</b>" if line[-1] else cell for cell in line)) for name, *line in lines]
    said = remarks(rows)
    return layout.page(
        f"Portfolio of {network}",
        plotted,
        layout.section("Cuts", layout.table(head, cells, range(1, len(head) - 1)), layout.text(KEPT.format(yardstick))),
        *([layout.section("Remarks", *map(layout.text, said))] if said else []),
    )


def _linked(name: str) -> str:
    return f'<a href="{quote(name)}.onnx">{escape(name)}</a> (<a href="{quote(name)}.json">report</a>)'


def plot(rows: Sequence[Row], yardstick: str) -> str:
    """Return, as SVG, what each row keeps of the yardstick against the share of each cost that is left, and the Pareto fronts."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    costs = [cost for cost in COSTS if any(row.kept(cost) is not None for row in rows)]
    criteria = list(dict.fromkeys(row.criterion for row in rows))
    allocators = list(dict.fromkeys(row.allocate for row in rows))
    with drawing():
        figure = Figure(figsize=(4.2 * max(1, len(costs)), 3.6), layout="constrained")
        for place, cost in enumerate(costs):
            axes = figure.add_subplot(1, len(costs), place + 1)
            front = sorted((row.kept(cost), row.yardstick_kept) for row in rows if cost in row.pareto)
            axes.plot(*zip(*front, strict=True), color=INK, linewidth=0.8, drawstyle="steps-post", label="Pareto front")
            for row in rows:
                if row.kept(cost) is not None:
                    series, marker = criteria.index(row.criterion), allocators.index(row.allocate)
                    axes.plot(
                        row.kept(cost),
                        row.yardstick_kept,
                        color=SERIES[series % len(SERIES)],
                        marker=MARKERS[marker % len(MARKERS)],
                        linestyle="none",
                        label=f"{row.criterion}, {row.allocate}",
                    )
            axes.set(xlabel=f"{COSTS[cost]} kept", ylabel=f"{yardstick} kept" if not place else "")
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if costs:
            entries = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
            figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
        return svg(figure, f"{yardstick} kept against costs")
