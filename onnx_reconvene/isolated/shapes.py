"""Runs a model and says which shapes its outputs have: `python shapes.py JOB.json` prints one JSON object. A program of its own, as
all that runs models."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import onnxruntime as ort
from measure import as_input  # type: ignore[import-not-found]  # another program of this folder, which is where this one starts

DRAWS = [(1.0, False), (1.0, True), (10.0, False), (100.0, True)]  # scale of inputs, and whether all are positive


def draw(kind: str, shape: list[int], scale: float, positive: bool, rng: np.random.Generator) -> Any:
    """Return random numbers for an input of an onnxruntime type; integers are 0 or 1, which are indices into anything."""
    if "float" not in kind and "double" not in kind:
        return as_input(kind, rng.integers(0, 2, shape))
    return as_input(kind, scale * (rng.random(shape) if positive else rng.standard_normal(shape)))


def shapes(job: dict[str, Any]) -> dict[str, list[int]]:
    """Return the shapes of the outputs of a job's model on the random inputs for which they hold most; on those of which some
    output holds nothing only if that is so on all."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, job["threads"]
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    best: dict[str, list[int]] = {}
    failure: Exception | None = None
    for scale, positive in DRAWS:
        rng = np.random.default_rng(0)
        feeds = {i.name: draw(i.type, job["sizes"][i.name], scale, positive, rng) for i in session.get_inputs()}
        try:
            values = dict(zip(job["outputs"], session.run(job["outputs"], feeds), strict=True))
        except Exception as error:  # these inputs may be none that the network takes
            failure = error
            continue
        now = {name: list(np.shape(value)) for name, value in values.items() if isinstance(value, np.ndarray)}
        best = max(now, best, key=_elements)
        if all(map(math.prod, best.values())):
            break
    if not best and failure is not None:
        raise failure
    return best


def _elements(of: dict[str, list[int]]) -> tuple[int, int]:
    sizes = [math.prod(shape) for shape in of.values()]
    return sum(size > 0 for size in sizes), sum(sizes)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(json.dumps(shapes(json.load(file))))
