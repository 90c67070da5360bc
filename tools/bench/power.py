"""How often a verification could not have failed: of outputs alone, and with what is compared inside.

usage: python tools/bench/power.py FOLDER ... [--networks N] [--json FILE]

Of every network in the folders and N random ones, half of the channels are cut. In the pruned network one cut group after the
other is read wrongly (see `onnx_reconvene.probes`), at most so many groups as SAMPLE says. A fault is seen by outputs alone if one
of them changes by more than the tolerance; the verdict says whether it is seen by the verification. Writes power.json and power.md
beside this script, or to FILE and its neighbour.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from common import HERE, setting, table, write

from onnx_reconvene.errors import TargetError, VerificationError
from onnx_reconvene.graph import from_model, load, plain_source
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes import Allocate, Cut, Load, Score, Sequential
from onnx_reconvene.probes import Fault, probes, slip
from onnx_reconvene.process import PROGRAMS
from onnx_reconvene.reference import store
from onnx_reconvene.runtime import options, session
from onnx_reconvene.verify import TOLERANCE, verify

sys.path[:0] = [str(HERE.parent.parent), PROGRAMS]

from compare import Draw, distance  # type: ignore[import-not-found]  # noqa: E402

from tests.generator import Choices, network  # noqa: E402

SAMPLE = 4  # groups of one network


@dataclass(frozen=True)
class Row:
    """A network: how many faults were made and how many of them outputs alone would not have shown, and the verdict."""

    kind: str
    name: str
    faults: int
    hidden: int
    verdict: str


def faulty(model: onnx.ModelProto, fault: Fault) -> onnx.ModelProto:
    """Return a model in which a node of the main graph reads channels wrongly."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    at = next(k for k, node in enumerate(copy.graph.node) if fault.node in node.output)
    node, wrong = copy.graph.node[at], fault.output("wrong")
    node.input[:] = [wrong if name == fault.tensor else name for name in node.input]
    copy.graph.node.insert(at, slip(copy.graph, fault, wrong))
    return copy


def hidden(graph: gs.Graph, folder: str) -> tuple[int, int]:
    """Return how many faults of a pruned network were made, and how many of them its outputs do not show."""
    against = notes_of(graph).reference
    assert against is not None
    after = plain_source(graph)
    faults = probes(against.cutting, against.source.model.graph, after.model.graph).faults
    main = {name for node in after.model.graph.node for name in node.output}
    chosen = [fault for fault in faults if fault.node in main]
    chosen = chosen[:: max(1, len(chosen) // SAMPLE)][:SAMPLE]
    path = store(after, folder, "plain")
    model = onnx.load(path, load_external_data=False)
    values = {name: value.reshape(-1)[0].item() for name, value in against.cutting.graph.input_values.items()}
    sizes = {name: list(shape) for name, shape in against.sizes.items()}

    def outputs(of: onnx.ModelProto) -> list[Any]:
        onnx.save(of, path)
        chosen = options()
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        opened = session(path, chosen)
        return opened.run(None, Draw(0).feeds(opened, sizes, values))

    right = outputs(model)
    unseen = 0
    for fault in chosen:
        wrong = outputs(faulty(model, fault))
        unseen += max(distance(a, b) for a, b in zip(right, wrong, strict=True)) <= TOLERANCE
    return len(chosen), unseen


def measure(kind: str, name: str, graph: gs.Graph) -> Row | None:
    """Return what came of a network; None where nothing is cut or onnxruntime does not run it."""
    with contextlib.suppress(TargetError):
        Sequential(Load(), Score("l2"), Allocate("channels=0.5", round_to=1), Cut()).run(graph)
    against = notes_of(graph).reference
    if against is None:
        return None
    try:
        verdict = verify(graph, against).status
    except VerificationError as error:
        verdict = f"failed: {error}"
    if verdict == "skipped":
        return None
    with tempfile.TemporaryDirectory() as folder:
        faults, unseen = hidden(graph, folder)
    return Row(kind, name, faults, unseen, verdict)


def networks(folders: list[Path], count: int) -> Iterator[tuple[str, str, gs.Graph]]:
    """Yield the kind, name and graph of each network."""
    for folder in folders:
        for path in sorted(folder.glob("*.onnx")):
            yield folder.name, path.stem, load(path)
    for seed in range(count):
        yield "random", str(seed), from_model(network(Choices(seed=seed)))


def summary(rows: list[Row]) -> list[list[object]]:
    """Return the counts of each kind of network."""
    counts = []
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        verdicts = Counter(row.verdict for row in own)
        faults, unseen = sum(row.faults for row in own), sum(row.hidden for row in own)
        blind = sum(row.faults > 0 and row.hidden == row.faults for row in own)
        counts.append([kind, len(own), faults, unseen, blind, verdicts["unproven"], sum(v.startswith("failed") for v in verdicts)])
    return counts


def report(path: Path, where: dict[str, Any], rows: list[Row]) -> None:
    """Write the figures."""
    header = ["networks", "verified", "faults", "not shown by outputs", "networks where none shows", "unproven now", "failed"]
    text = table(header, summary(rows)) + "\n\nWhere outputs alone do not show some fault, or the verdict is no proof:\n\n"
    odd = [row for row in rows if row.hidden or row.verdict not in ("exact", "shape-only")]
    text += table(["", "network", "faults", "not shown", "verdict"], [list(vars(row).values()) for row in odd])
    write(
        path,
        "Power",
        "python tools/bench/power.py FOLDER ... [--networks N]",
        where,
        {"rows": [vars(row) for row in rows]},
        text,
    )


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--networks", type=int, default=0)
    parser.add_argument("--json", type=Path, default=HERE / "power.json")
    given = parser.parse_args()
    where, rows = setting(), []
    for kind, name, graph in networks(given.folders, given.networks):
        row = measure(kind, name, graph)
        if row is not None:
            rows.append(row)
            print(row, flush=True)
    report(given.json, where, rows)


if __name__ == "__main__":
    main()
