"""The latency of one network: predicted for any widths, measured for those that matter, both by way of a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.axes import Widths
from onnx_reconvene.errors import UsageError
from onnx_reconvene.graph import Source, every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.inference import element_types
from onnx_reconvene.latency.kernels import Kernel, Work
from onnx_reconvene.latency.measure import Job
from onnx_reconvene.latency.model import LatencyModel
from onnx_reconvene.latency.runtime import Runtime, Timing
from onnx_reconvene.latency.table import Table, cached, read_table

SMALL = 64  # elements
Build = Callable[[Widths], Source]  # the network cut to these widths, whichever units go


class Clock:
    """Milliseconds of one run of a network at given widths.

    What is measured is kept in the cache of the user, kernels and whole networks alike, and not measured again: with the same
    cache, the same command finds the same widths. Whole networks run in turn with the uncut one, and are told by the ratio to it,
    so that a machine that is busy now and then disturbs little.
    """

    def __init__(self, analysis: Analysis, build: Build, runtime: Runtime, table: Table | None = None) -> None:
        """Measure what the cache lacks; or, given the table of a device, take all from there and measure nothing.

        Raises UsageError where the table of a device lacks something.
        """
        self.analysis, self.runtime, self._build = analysis, runtime, build
        self.table = cached(runtime.setting) if table is None else table
        self.may_measure = table is None
        self._network = _digest(analysis)
        self.model = LatencyModel(Work(analysis), self._times)
        self.dense = self.measured(self.model.dense)
        predicted = self.model(self.model.dense)  # 0 where nothing is computed
        self.model.scale = self.dense / predicted if self.dense and predicted else 1.0

    def measured(self, widths: Widths) -> float | None:
        """Return the measured milliseconds of the whole network at these widths, None where that is not known."""
        known = self.table.values.get(self._key(widths))
        return self.measure(widths) if known is None and self.may_measure else known

    def measure(self, widths: Widths) -> float:
        """Return the measured milliseconds of the whole network at these widths, measured now if they are not known."""
        dense, key = self._key(self.model.dense), self._key(widths)
        if key not in self.table.values:
            networks = {k: (self._build(w), self.analysis.sizes) for k, w in ((dense, self.model.dense), (key, widths))}
            found = Job(networks=networks).run(self.runtime)
            unit = self.table.values.setdefault(dense, found[dense]) / found[dense]
            self.table.add({key: found[key] * unit})
        return self.table.values[key]

    def timing(self, widths: Widths) -> Timing:
        """Return what there is to say of the latency at these widths."""
        setting = self.table.setting
        return Timing(self.dense, self.model(widths), self.measured(widths), setting["threads"], setting["provider"])

    def _times(self, kernels: Sequence[Kernel]) -> Mapping[Kernel, float]:
        missing = [kernel for kernel in kernels if str(kernel) not in self.table.values]
        if missing and not self.may_measure:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UsageError(
                f"--latency-table has no '{missing[0]}'{more}; measure a job that --latency-job writes for this network"
            )
        if missing:
            self.table.add(Job(kernels=missing).run(self.runtime))
        return {kernel: self.table.values[str(kernel)] for kernel in kernels}

    def _key(self, widths: Widths) -> str:
        cut = "" if np.array_equal(widths, self.model.dense) else " cut to " + _short(widths.tolist())
        return f"network {self._network}{cut}"


def clock(analysis: Analysis, build: Build, runtime: Runtime, table: str | None = None) -> Clock:
    """Return the clock of a network; table: the file of one that was measured on a device."""
    return Clock(analysis, build, runtime, None if table is None else read_table(table))


def job_for(analysis: Analysis, build: Build) -> Job:
    """Return what has to be measured on a device for the clock of a network."""
    found: list[Kernel] = []

    def collect(kernels: Sequence[Kernel]) -> Mapping[Kernel, float]:
        found.extend(kernels)
        return dict.fromkeys(kernels, 1.0)

    model = LatencyModel(Work(analysis), collect)
    return Job(found, {f"network {_digest(analysis)}": (build(model.dense), analysis.sizes)})


def _digest(analysis: Analysis) -> str:
    """Return what tells networks apart whose latency may differ: operators, settings, which tensors they read and make, of what
    type and shape, small whole numbers (so often does a loop run), and groups, but no weights."""
    shapes, types = analysis.shapes, element_types(analysis.graph, analysis.sizes)
    places: dict[str, int] = {}

    def told(tensor: gs.Tensor) -> list[str]:
        value, place = analysis.integers.get(tensor), places.setdefault(tensor.name, len(places))
        number = "" if value is None or value.dtype.kind not in "iub" or value.size > SMALL else str(value.tolist())
        return [str(place), str(types.get(tensor.name)), str(shapes.get(tensor.name)), number]

    nodes = [
        [
            node.op,
            [repr(setting) for setting in sorted(node.attrs.items(), key=str) if isinstance(setting[1], int | float | str | list)],
            [told(t) for t in (*node.inputs, *node.outputs)],
        ]
        for node in every_node(analysis.graph)
    ]
    opsets = [(of.domain, of.version) for of in analysis.graph.source.model.opset_import]
    return _short([opsets, nodes, [(group.name, group.width) for group in analysis.groups]])


def _short(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
