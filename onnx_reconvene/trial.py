"""The analysis of a network; where layers are of a shape that nothing tells, the network is run to see it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnx_reconvene.analysis import analyze
from onnx_reconvene.graph import plain_source
from onnx_reconvene.groups import Analysis
from onnx_reconvene.process import isolated, workplace
from onnx_reconvene.reference import store
from onnx_reconvene.shapes import Shape
from onnx_reconvene.threads import allowed
from onnx_reconvene.values import with_values

PURPOSE = "a run to see the shapes of layers"


def analyze_by_trial(
    graph: gs.Graph,
    sizes: Mapping[str, Sequence[int]] | None = None,
    attention: str = "heads",
    samples: Mapping[str, Sequence[int]] | None = None,
) -> Analysis:
    """Return what `analyze` does, after a run of the network on random inputs where some layers could not be counted otherwise."""
    analysis = analyze(graph, sizes, attention, samples=samples)
    outputs = [t.name for node in graph.nodes for t in node.outputs if t.name]
    unknown = [name for name in outputs if name not in analysis.shapes or name in analysis.flow.assumed]
    if not analysis.flow.uncounted or not unknown:
        return analysis
    read = shapes_in_a_run(graph, analysis.sizes, unknown)
    return replace(analyze(graph, analysis.sizes, attention, read, accept=True), origins=analysis.origins)


def shapes_in_a_run(graph: gs.Graph, sizes: Mapping[str, Sequence[int]], names: Iterable[str]) -> dict[str, Shape]:
    """Return the shapes of tensors in a run on random inputs of these sizes; none where onnxruntime does not run the network."""
    source, names = with_values(plain_source(graph), graph.input_values), list(names)
    outputs = {value.name for value in source.model.graph.output}
    for name in names:
        if name not in outputs:
            source.model.graph.output.add(name=name)
    with workplace(PURPOSE) as folder:
        job = {"model": store(source, folder, "network"), "sizes": sizes, "outputs": names, "threads": allowed()}
        path = os.path.join(folder, "job.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(job, file)
        try:
            done = isolated("shapes.py", path)
        except subprocess.TimeoutExpired:
            return {}
    answer = json.loads(done.stdout) if done.returncode == 0 else {}
    return {name: tuple(shape) for name, shape in answer.items()}
