"""Plots as SVG, the same bytes for the same data: no date, no random names, no settings of the user's.

Colours that have to fit the page are CSS variables, which the SVG defines for light and dark; so it can stand alone too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from onnx_reconvene.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = ("#4c8edb", "#e2852e", "#41a868", "#d65f5f", "#9779cf", "#9c8468", "#d274ae", "#7d8791")  # clear on white and black
MARKERS = "osD^vPX*"
INK, FAINT = "#010203", "#040506"  # stand for CSS variables
VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"}
COLOURS = """svg { --ink: #1d2329; --faint: #d5d9de; --paper: #ffffff; background: var(--paper); max-width: 100%; }
@media (prefers-color-scheme: dark) { svg { --ink: #e3e6ea; --faint: #3c434b; --paper: #15181c; } }"""
SETTINGS = {
    "svg.hashsalt": "onnx-reconvene",
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of nodes are no formulas
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": FAINT,
}


def check_plots(wanted_by: str, otherwise: str = "") -> None:
    """Raise UsageError where plots cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"{wanted_by} draws with matplotlib, which is missing: pip install 'onnx-reconvene[plot]'{otherwise}")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw with our own settings of matplotlib, whatever those of the user are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def svg(figure: Figure, title: str) -> str:
    """Return figure as an SVG element that may stand in a page or alone; title says what it shows to those who cannot see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", text)  # of groups; they would recur in a page of several plots
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    head, rest = text.split(">", 1)
    return f'{head} role="img" aria-label="{escape(title)}">\n<style>{COLOURS}</style>{rest}'
