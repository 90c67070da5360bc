"""How long an analysis takes: per node, in synthetic networks of growing size; and in total, in every network of a folder.

usage: python tools/bench/scaling.py ZOO_DIR [--json FILE]

Time per node should not grow with the network: the largest is at most 1.5 times the smallest. No network of the folder should take
200 ms. Writes scaling.json and scaling.md beside this script, or to FILE and its neighbour.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from common import HERE, milliseconds, setting, table, write
from onnx import TensorProto, helper, numpy_helper

from onnx_reconvene.analysis import analyze
from onnx_reconvene.graph import from_model, load
from onnx_reconvene.inference import infer
from onnx_reconvene.sizes import input_sizes

NODES = (1_000, 10_000, 50_000)
REPEATS = 5
CHANNELS, SIZE = 8, 4
MOST_GROWTH, MOST_MS = 1.5, 200.0
STAGE = 8  # residual blocks on one set of channels


@dataclass(frozen=True)
class Row:
    """The fastest analysis of one network, in milliseconds, and what of it is shape inference."""

    network: str
    nodes: int
    groups: int
    analysis_ms: float
    shapes_ms: float

    @property
    def labels_ms(self) -> float:
        """The milliseconds that are not shape inference."""
        return self.analysis_ms - self.shapes_ms

    @property
    def us_per_node(self) -> float:
        """The microseconds of an analysis, per node."""
        return 1e3 * self.analysis_ms / self.nodes


class Synthetic:
    """Residual blocks of Conv, BatchNormalization and Relu; a Concat, Split or channel shuffle between stages."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Return the name of a new weight."""
        values = self._random.random(shape, dtype=np.float32)
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def integers(self, *values: int) -> str:
        """Return the name of a new vector of integers."""
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        at = len(self.nodes)
        names = [f"t{at}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{at}", **attributes))
        return names

    def conv(self, x: str, channels: int = CHANNELS) -> str:
        """x[n,c,h,w] -> y[n,8,h,w], normalized"""
        y = self.node("Conv", x, self.weight(CHANNELS, channels, 1, 1))[0]
        return self.node("BatchNormalization", y, *[self.weight(CHANNELS) for _ in range(4)])[0]

    def block(self, x: str) -> str:
        """Two convolutions, and x added."""
        inner = self.node("Relu", self.conv(x))[0]
        return self.node("Relu", *self.node("Add", self.conv(inner), x))[0]

    def concat(self, x: str) -> str:
        """Two branches side by side."""
        return self.conv(self.node("Concat", self.conv(x), self.conv(x), axis=1)[0], 2 * CHANNELS)

    def split(self, x: str) -> str:
        """Two halves of the channels, the second one gating the first."""
        first, second = self.node("Split", self.conv(x), self.integers(CHANNELS // 2, CHANNELS // 2), outputs=2, axis=1)
        return self.conv(self.node("Mul", first, *self.node("Sigmoid", second))[0], CHANNELS // 2)

    def shuffle(self, x: str) -> str:
        """Channels dealt out to two groups and taken from them in turn."""
        dealt = self.node("Reshape", self.conv(x), self.integers(1, 2, CHANNELS // 2, SIZE, SIZE))[0]
        turned = self.node("Transpose", dealt, perm=[0, 2, 1, 3, 4])[0]
        return self.conv(self.node("Reshape", turned, self.integers(1, CHANNELS, SIZE, SIZE))[0])


def synthetic(count: int) -> onnx.ModelProto:
    """Return a network of about count nodes."""
    net, x = Synthetic(), "x"
    x = net.conv(x)
    between = (net.concat, net.split, net.shuffle)
    stages = 0
    while len(net.nodes) < count:
        for _ in range(STAGE):
            x = net.block(x)
        x = between[stages % len(between)](x)
        stages += 1
    net.nodes.append(helper.make_node("Conv", [x, net.weight(CHANNELS, CHANNELS, 1, 1)], ["y"], "last"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, CHANNELS, SIZE, SIZE)) for name in ("x", "y")]
    graph = helper.make_graph(net.nodes, "synthetic", ends[:1], ends[1:], net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(network: str, graph: gs.Graph) -> Row:
    """Time one analysis of graph, and the inference of its shapes alone."""
    return Row(
        network,
        len(graph.nodes),
        len(analyze(graph).groups),
        milliseconds(lambda: analyze(graph)),
        milliseconds(lambda: infer(graph, input_sizes(graph, {}))),
    )


def better(a: Row, b: Row) -> Row:
    """Return the faster figures of two runs over one network."""
    return replace(a, analysis_ms=min(a.analysis_ms, b.analysis_ms), shapes_ms=min(a.shapes_ms, b.shapes_ms))


def grown() -> list[Row]:
    """Measure the synthetic networks in turn, several times over."""
    graphs = {f"synthetic {count}": from_model(synthetic(count)) for count in NODES}
    rows = {name: measure(name, graph) for name, graph in graphs.items()}
    for _ in range(REPEATS - 1):
        rows = {name: better(rows[name], measure(name, graph)) for name, graph in graphs.items()}
    return list(rows.values())


def fastest(source: Path) -> Row:
    """Measure the network at source several times."""
    graph = load(source)
    row = measure(source.stem, graph)
    for _ in range(REPEATS - 1):
        row = better(row, measure(source.stem, graph))
    return row


def growth(per_node: Sequence[float]) -> str:
    """Return the sentence that compares the times per node of the synthetic networks."""
    ratio = max(per_node) / min(per_node)
    verdict = "within" if ratio <= MOST_GROWTH else "over"
    return f"{min(per_node):.1f} to {max(per_node):.1f} us, the largest {ratio:.2f} times the smallest: {verdict} {MOST_GROWTH}"


def shown(rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""
    header = ["network", "nodes", "groups", "analysis ms", "of it shapes", "of it labels", "us per node"]
    return table(
        header,
        [
            [r.network, r.nodes, r.groups, *(f"{ms:.1f}" for ms in (r.analysis_ms, r.shapes_ms, r.labels_ms, r.us_per_node))]
            for r in rows
        ],
    )


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="ZOO_DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", default=HERE / "scaling.json")
    given = parser.parse_args()
    where = setting()
    sizes = grown()
    zoo = sorted((fastest(source) for source in given.folder.glob("*.onnx")), key=lambda row: -row.analysis_ms)
    slow = [row.network for row in zoo if row.analysis_ms >= MOST_MS]
    nearest = ", ".join(f"{row.network} {row.analysis_ms:.0f}" for row in zoo[:5])
    text = "\n\n".join(
        [
            f"Each figure is the best of {REPEATS} alternating runs in one process, after a first one, without garbage collection.",
            f"Time per node, analysis: {growth([r.us_per_node for r in sizes])}.",
            f"Time per node, labels alone: {growth([1e3 * r.labels_ms / r.nodes for r in sizes])}.",
            shown(sizes),
            f"Of {len(zoo)} networks, {len(slow)} take {MOST_MS:.0f} ms or more; nearest to it, in ms: {nearest}.",
            shown(zoo),
        ]
    )
    write(
        given.json,
        "Speed of analysis",
        "python tools/bench/scaling.py ZOO_DIR",
        where,
        {"synthetic": [asdict(row) for row in sizes], "networks": [asdict(row) for row in zoo]},
        text,
    )
    print(text)


if __name__ == "__main__":
    main()
