"""Measure SynFlow per channel against its exact form: CPU seconds, rank correlation, the widths that both keep, and how far widths
move when scores are disturbed.

    python tools/bench/synflow.py MODEL.onnx ...

Writes synflow.json and synflow.md beside this file, or where --json says. The exact form runs on networks of --exact only: its 100
rounds take up to minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, setting, table, write
from scipy.stats import spearmanr

import onnx_reconvene as rc
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Context, Scores
from onnx_reconvene.saliency.criterion import marginals, unit_scores
from onnx_reconvene.synflow.exact import ExactNetwork
from onnx_reconvene.synflow.rules import channel_network
from onnx_reconvene.synflow.schedule import Keep, iterated

USAGE = "python tools/bench/synflow.py MODEL.onnx ... --exact NAME ..."
DENSITIES = (0.5, 0.25)
REPEATS = 3
TOLERANCE = 0.02
ROUNDING, SLIGHT, DRAWS = 1e-6, 1e-4, 4  # by which scores are disturbed, relative to them; how often


def seconds(run: Callable[[], Scores]) -> tuple[float, Scores]:
    """Return the CPU time of one run, and what it gives."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def exact_scores(analysis: Analysis) -> Callable[[Keep], Scores]:
    """Return what gives the exact scores of the units that stay."""
    network = ExactNetwork(analysis)

    def score(keep: Keep) -> Scores:
        elements = network.elements(keep)
        return unit_scores(analysis, Context(), lambda name, _, shapes: marginals(elements[name], shapes))

    return score


def widths(analysis: Analysis, scores: Scores, density: float) -> Scores:
    """Return how many units each group keeps where this fraction of all stays, those that are taken away last."""
    order = np.argsort(-scores, kind="stable")
    keep = np.zeros(scores.size, bool)
    keep[order[: round(density * scores.size)]] = True
    return np.array([max(1, keep[group.units].sum()) for group in analysis.groups])


def apart(analysis: Analysis, own: Scores, exact: Scores, density: float) -> list[float]:
    """Return how far the fractions that groups keep lie apart, mean and largest, how many groups are more than 2 % and a unit of
    each block apart, and by how many percent of the exact widths all widths differ."""
    units = np.array([group.blocks * group.width for group in analysis.groups])
    blocks = np.array([group.blocks for group in analysis.groups])
    whole = widths(analysis, exact, density)
    found = np.abs(widths(analysis, own, density) - whole)
    beyond = found > np.maximum(blocks, TOLERANCE * units)
    fractions, percent = found / units, 100 * found.sum() / whole.sum()
    return [round(float(fractions.mean()), 4), round(float(fractions.max()), 4), int(beyond.sum()), round(float(percent), 2)]


def disturbed(analysis: Analysis, score: Callable[[Keep], Scores], size: float, seed: int) -> Scores:
    """Return what 100 rounds give where the scores of each unit are, in all rounds, off by a random factor of 1 plus this size."""
    factor = np.exp(size * np.random.default_rng(seed).standard_normal(analysis.width))
    return iterated(analysis, lambda keep: score(keep) * factor)


def once(analysis: Analysis) -> dict[str, Any]:
    """Compare the scores of all units before any is taken away, group by group."""
    whole = np.ones(analysis.width, bool)
    exact = exact_scores(analysis)(whole)
    own = channel_network(analysis).shares(whole)
    wide = [group.units for group in analysis.groups if group.width > 2]
    found = [float(spearmanr(own[units], exact[units]).statistic) for units in wide]
    return {"spearman_mean": round(float(np.mean(found)), 4), "spearman_least": round(min(found), 4)}


def measure(path: Path, exactly: bool) -> dict[str, Any]:
    """Return the figures of one network."""
    analysis = rc.analyze(path)
    context = Context()
    runs = [seconds(lambda: rc.criteria["synflow"].score(analysis, context)) for _ in range(REPEATS)]
    scores = runs[0][1]
    figures: dict[str, Any] = {
        "network": path.stem,
        "groups": len(analysis.groups),
        "units": analysis.width,
        "seconds": round(float(np.median([taken for taken, _ in runs])), 2),
        "averaged": list(channel_network(analysis).averaged),
    }
    if exactly:
        figures |= once(analysis)
        taken, exact = seconds(lambda: rc.criteria["synflow-exact"].score(analysis, context))
        figures["exact_seconds"] = round(taken, 1)
        shares = channel_network(analysis).shares
        draws = [disturbed(analysis, shares, ROUNDING, seed) for seed in range(DRAWS)]
        moved = disturbed(analysis, exact_scores(analysis), SLIGHT, 0)
        for density in DENSITIES:
            figures[f"apart_{density}"] = apart(analysis, scores, exact, density)
            figures[f"exact_moved_{density}"] = apart(analysis, moved, exact, density)
            figures[f"moved_{density}"] = [apart(analysis, draw, scores, density) for draw in draws]
            figures[f"apart_moved_{density}"] = [apart(analysis, draw, exact, density) for draw in draws]
    return figures


def main() -> None:
    """Measure all and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--exact", nargs="*", default=[], metavar="NAME", help="networks to compare with the exact form")
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "synflow.json")
    parser.add_argument("--times", action="store_true", help="measure times alone; the other figures stay as they are")
    given = parser.parse_args()
    where, figures = setting("scipy"), []
    held = {f["network"]: f for f in json.loads(given.json.read_text())["networks"]} if given.times else {}
    for path in given.models:
        figures.append(held.get(path.stem, {}) | measure(path, path.stem in given.exact))
        print(figures[-1], flush=True)
        write(given.json, "SynFlow", USAGE, where, {"networks": figures}, text(figures))


def chance(figures: dict[str, Any], density: float) -> list[Any]:
    """Return the row on how far widths move when scores are disturbed."""
    own, exact = figures[f"moved_{density}"], figures[f"apart_moved_{density}"]
    cells = [[round(float(np.mean([x[0] for x in found])), 4), " ".join(str(x[2]) for x in found)] for found in (own, exact)]
    return [figures["network"], density, *cells[0], *cells[1], *(figures[f"exact_moved_{density}"][k] for k in (0, 2))]


def together(compared: list[dict[str, Any]], density: float) -> str:
    """Return in words how many groups of all networks are beyond, per channel and exact but disturbed, both from the exact form."""
    beyond, moved = (sum(f[f"{what}_{density}"][2] for f in compared) for what in ("apart", "exact_moved"))
    drawn = zip(*(f[f"apart_moved_{density}"] for f in compared), strict=True)
    draws = " ".join(str(sum(draw[2] for draw in networks)) for networks in drawn)
    return (
        f"Beyond at {density}, of {sum(f['groups'] for f in compared)} groups: {beyond} per channel, {draws} in its"
        f" disturbed draws; {moved} of the exact form's own, where it is disturbed."
    )


def text(figures: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    own = [[f["network"], f["groups"], f["units"], f["seconds"], len(f["averaged"])] for f in figures]
    compared = [f for f in figures if "exact_seconds" in f]
    rows = [
        [
            f["network"],
            f["groups"],
            f["spearman_mean"],
            f["spearman_least"],
            *(x for d in DENSITIES for x in f[f"apart_{d}"]),
            f["exact_seconds"],
        ]
        for f in compared
    ]
    columns = [f"{what} at {d}" for d in DENSITIES for what in ("mean", "largest", "beyond", "% of widths")]
    return "\n\n".join(
        [
            "Against the exact form: rank correlation of one round's scores within groups, mean and least; how far the fractions"
            " that groups keep lie apart after 100 rounds, where a half and a quarter of all units stay, how many groups lie"
            " more than 2 % and more than a unit of each block apart, and the sum of all differences of widths in percent of the"
            " sum of the exact form's; its seconds, of CPU time as all here.",
            table(["network", "groups", "Spearman, mean", "least", *columns, "exact CPU s"], rows),
            "What of that is chance: how far widths move where the scores of units are off by a random part of themselves, those"
            f" per channel by {ROUNDING:g}, in {DRAWS} draws, from those undisturbed and from the exact form's; the exact form's by"
            f" {SLIGHT:g}, from its own. Which of two almost equal units goes first changes the scores of others.",
            table(
                [
                    "network",
                    "density",
                    "from own, mean",
                    "beyond in each draw",
                    "from exact, mean",
                    "beyond in each draw",
                    "exact from own, mean",
                    "beyond",
                ],
                [chance(f, d) for f in compared for d in DENSITIES],
            ),
            *(together(compared, d) for d in DENSITIES),
            f"CPU seconds of 100 rounds per channel, median of {REPEATS}, and how many nodes are averaged over for want of a rule:",
            table(["network", "groups", "units", "seconds", "averaged"], own),
        ]
    )


if __name__ == "__main__":
    main()
