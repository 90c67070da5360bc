"""Runs two models on the same inputs and says how far their outputs are apart. A program of its own, so that a model that
crashes the native runtime takes nothing else down: `python compare.py JOB.json` prints one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from measure import as_input  # type: ignore[import-not-found]  # another program of this folder, which is where this one starts

ENOUGH = 2  # sizes to compare at


class NothingToCompareError(Exception):
    """The original says nothing on such inputs; the text says why."""


def session(path: str, threads: int = 0) -> ort.InferenceSession:
    """Return an onnxruntime session that says nothing and changes the graph as little as sensible."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def draw(into: Any, shape: list[int], rng: np.random.Generator, positive: bool) -> Any:
    """Return random values for an input of a session; integers are 0 or 1, which are indices into anything."""
    real = "float" in into.type or "double" in into.type
    values = (rng.random(shape) if positive else rng.standard_normal(shape)) if real else rng.integers(0, 2, shape)
    try:
        return as_input(into.type, values)
    except (AttributeError, TypeError) as error:  # strings and sequences, and bfloat16 where onnxruntime is too old for it
        raise NothingToCompareError(f"no values can be drawn for input '{into.name}', a {into.type}") from error


def distance(a: Any, b: Any) -> float:
    """Return the largest difference over the largest value; for integers the share that differs."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind != "f":
        return float(np.mean(a != b)) if a.size else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    finite = a[np.isfinite(a)]
    difference = np.abs(a - b)[~same].max()
    return (
        float(difference / max(np.abs(finite).max(initial=0.0), np.finfo(np.float32).tiny))
        if np.isfinite(difference)
        else float("inf")
    )


def is_finite_somewhere(output: Any) -> bool:
    """Tell whether an output holds anything but NaN and infinity."""
    values = np.asarray(output)
    return bool(np.isfinite(values).any()) if values.dtype.kind == "f" else values.size > 0


def furthest(
    original: Any, pruned: Any, sizes: dict[str, list[int]], seed: int, positive: bool = False
) -> tuple[float, str] | None:
    """Return how far the outputs are apart on inputs drawn from seed, and the output where it is furthest; None where they have the
    same shapes, but those of the original hold nothing finite, to which anything might be compared."""
    rng = np.random.default_rng(seed)
    try:
        feeds = {i.name: draw(i, sizes[i.name], rng, positive) for i in original.get_inputs()}
        expected = original.run(None, feeds)
    except NothingToCompareError:
        raise
    except Exception as error:  # of memory, too
        raise NothingToCompareError(f"onnxruntime does not run the original: {error}") from error
    found = pruned.run(None, feeds)
    alike = all(np.shape(a) == np.shape(b) for a, b in zip(expected, found, strict=True))
    if alike and not any(map(is_finite_somewhere, expected)):
        return None
    names = [output.name for output in original.get_outputs()]
    return max((distance(a, b), name) for name, a, b in zip(names, expected, found, strict=True))


def closest(original: Any, pruned: Any, sizes: dict[str, list[int]], seeds: Sequence[int]) -> tuple[float, str]:
    """Return what `furthest` does for the seed that brings the outputs closest, on inputs of both signs or, where nothing is finite
    on these, of none below zero."""
    for positive in (False, True):
        found = [furthest(original, pruned, sizes, seed, positive) for seed in seeds]
        if compared := [one for one in found if one is not None]:
            return min(compared)
    raise NothingToCompareError("the outputs of the original hold nothing finite on any inputs that were tried")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Compare the models of job at each of its sizes; where the original fails or is nowhere finite, that size says nothing."""
    try:
        original = session(job["original"], job["threads"])
    except Exception as error:
        return {"skipped": f"onnxruntime does not load the original: {error}"}
    pruned = session(job["pruned"], job["threads"])
    worst, where, compared, skipped = 0.0, "", 0, ""
    for sizes in job["sizes"]:
        if compared == ENOUGH:
            break
        try:
            apart, output = closest(original, pruned, sizes, range(job["seed"], job["seed"] + job["attempts"]))
        except NothingToCompareError as error:
            skipped = skipped or str(error)  # at the sizes that were asked for
            continue
        compared += 1
        if apart > worst or not where:
            worst, where = apart, output
    return {"max_rel_err": worst, "output": where} if compared else {"skipped": skipped}


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    try:
        answer = run(job)
    except Exception as error:
        answer = {"failed": f"{error}"}
    print(json.dumps(answer))
