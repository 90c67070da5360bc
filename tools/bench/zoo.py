"""Prune every network in a folder: is the result right, how small is it, how long does it take?

usage: python tools/bench/zoo.py ZOO_DIR [--json FILE]

Writes zoo.json and zoo.md beside this script, or to FILE and its neighbour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import HERE, PRUNED, command, milliseconds, setting, table, write

from onnx_reconvene.analysis import analyze
from onnx_reconvene.graph import load
from onnx_reconvene.isolated.measure import draw, session
from onnx_reconvene.latency.runtime import CPU

REPEATS = 5
CONVOLUTIONAL = frozenset(
    """
    alexnet vgg11_bn resnet18 resnet18__dynamo resnet50_224 resnet50__bn resnext50_32x4d densenet121 densenet121__dynamo
    googlenet squeezenet1_1 mobilenet_v2_224 mobilenet_v2__bn mobilenet_v2__dynamo mobilenet_v3_small shufflenet_v2_x1_0
    shufflenet_v2_x1_0__dynamo efficientnet_b0 efficientnet_b0__dynamo regnet_x_400mf resnetv2_50 seresnet50 repvgg_a0
    res2net50_26w_4s hrnet_w18_small ghostnet_100 mobilenetv4_conv_small deeplabv3_mobilenet_v3_large
    lraspp_mobilenet_v3_large unet_transpose unet_transpose__dynamo yolo_c2f yolo_c2f__bn espcn dcgan_g dscnn_kws
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Row:
    """What became of one network; all but model, exit and error only if the command succeeded."""

    model: str
    exit: int
    error: str | None = None
    verify: str | None = None
    max_rel_err: float | None = None
    macs_kept: float | None = None
    params_kept: float | None = None
    alike: str | None = None  # "yes", or how running the written model differs from running the original
    analysis_ms: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


def measure(source: Path, folder: Path) -> Row:
    """Prune the network at source to folder and look at what came of it."""
    target, report = folder / "pruned.onnx", folder / "report.json"
    done = subprocess.run(command(source, target, "--report", str(report)), capture_output=True, text=True, check=False)
    if done.returncode:
        return Row(source.stem, done.returncode, (done.stderr.strip().splitlines() or ["no message"])[-1])
    found = json.loads(report.read_text(encoding="utf-8"))
    before, after, verdict = found["before"], found["after"], found["verify"]
    return Row(
        source.stem,
        done.returncode,
        None,
        verdict["status"],
        verdict["max_rel_err"],
        kept(before["macs"], after["macs"]),
        kept(before["params"], after["params"]),
        alike(source, target, found["input_shapes"]),
        round(analysis_ms(source), 2),
        {stage: round(value, 4) for stage, value in found["seconds"].items()},
    )


def kept(before: int, after: int) -> float | None:
    """Return the share that is kept, None of nothing: weights made by nodes are no parameters."""
    return round(after / before, 4) if before else None


def analysis_ms(source: Path) -> float:
    """Return the milliseconds an analysis of the loaded network takes, shapes included: the best of five, warm."""
    graph = load(source)
    analyze(graph)
    return min(milliseconds(lambda: analyze(graph)) for _ in range(REPEATS))


def alike(original: Path, pruned: Path, sizes: Mapping[str, Sequence[int]]) -> str:
    """Return "yes" if onnxruntime runs both with the same names of inputs and outputs and the same shapes of outputs."""
    try:
        old, new = surface(original, sizes), surface(pruned, sizes)
    except Exception as error:  # onnxruntime has an exception class for each of its errors
        return f"{error}".strip().splitlines()[0]
    return "yes" if old == new else f"{old} became {new}"


def surface(model: Path, sizes: Mapping[str, Sequence[int]]) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Run the model on random inputs; return the names of its inputs, and the shapes of its outputs by name."""
    runner = session(str(model), 0, CPU)
    rng = np.random.default_rng(0)
    feeds = {i.name: draw(i.type, list(sizes[i.name]), rng) for i in runner.get_inputs()}
    shapes = [np.shape(value) for value in runner.run(None, feeds)]
    return list(feeds), dict(zip((o.name for o in runner.get_outputs()), shapes, strict=True))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return counts, medians and worst values over rows."""
    done = [row for row in rows if row.exit == 0]
    macs = [row.macs_kept for row in done if row.macs_kept is not None]
    params = [row.params_kept for row in done if row.params_kept is not None]
    analysis = [row.analysis_ms for row in done if row.analysis_ms is not None]
    return {
        "networks": len(rows),
        "exit 0": len(done),
        "verified exact": sum(row.verify == "exact" for row in done),
        "run alike": sum(row.alike == "yes" for row in done),
        "largest relative error": max((row.max_rel_err for row in done if row.max_rel_err is not None), default=None),
        "MACs kept, median": round(median(macs), 4) if macs else None,
        "MACs kept, most": max(macs, default=None),
        "params kept, median": round(median(params), 4) if params else None,
        "analysis ms, median": round(median(analysis), 2) if analysis else None,
        "analysis ms, most": max(analysis, default=None),
        "seconds, median": round(median(row.seconds["total"] for row in done), 3) if done else None,
    }


def study(sources: Iterable[Path], parts: Mapping[str, frozenset[str] | None], path: Path, title: str, usage: str) -> None:
    """Measure the networks at sources, write the figures to path; parts names sets of networks to sum up, None being all."""
    where = setting()
    rows = []
    for source in sorted(sources):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(source, Path(folder)))
        print(rows[-1].model, rows[-1].exit, rows[-1].error or rows[-1].verify, flush=True)
    sums = {part: summary([row for row in rows if names is None or row.model in names]) for part, names in parts.items()}
    text = f"{PRUNED}\n\n{medians(sums)}\n\n{networks(rows)}"
    write(path, title, usage, where, {"summary": sums, "networks": [asdict(row) for row in rows]}, text)


def medians(sums: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the summaries as Markdown, one column each."""
    keys = next(iter(sums.values()))
    return table(["", *sums], [[key, *(one[key] for one in sums.values())] for key in keys])


def networks(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown; seconds are those of the command after its imports."""
    stages = next((list(row.seconds) for row in rows if row.seconds), [])
    header = ["network", "exit", "verification", "error", "MACs kept", "params kept", "runs alike", "analysis ms"]
    return table(
        header + [f"{stage} s" for stage in stages],
        [
            [
                *(row.model, row.exit, row.error or row.verify, None if row.max_rel_err is None else f"{row.max_rel_err:.1e}"),
                *(row.macs_kept, row.params_kept, row.alike, row.analysis_ms),
                *(row.seconds.get(stage) for stage in stages),
            ]
            for row in rows
        ],
    )


def main() -> None:
    """Run the study over the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="ZOO_DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "zoo.json")
    given = parser.parse_args()
    parts = {"convolutional": CONVOLUTIONAL, "all": None}
    study(given.folder.glob("*.onnx"), parts, given.json, "Zoo", "python tools/bench/zoo.py ZOO_DIR")


if __name__ == "__main__":
    main()
