"""Cuts random networks, as `tests/test_random_networks.py` does, for as long as one likes; run from anywhere.

The first failure is shrunk, printed as ONNX text and ends the run with status 1. What was done is written to `fuzz.json` beside
this file.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import onnx

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.generator import Choices, network  # noqa: E402
from tests.generator.networks import reads  # noqa: E402
from tests.oracle import draw_feeds, run  # noqa: E402
from tests.test_random_networks import check  # noqa: E402

CHUNK = 50
PATIENCE = 30  # seconds to shrink a failure
Fails = Callable[[onnx.ModelProto], bool]


@dataclass
class Tally:
    """What came of some networks."""

    networks: int = 0
    cuts: int = 0
    exact: int = 0
    units_removed: int = 0
    operators: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: dict[int, str] = field(default_factory=dict)  # seed -> what went wrong

    def add(self, other: Tally) -> None:
        """Add what came of other networks."""
        self.networks += other.networks
        self.cuts += other.cuts
        self.exact += other.exact
        self.units_removed += other.units_removed
        self.operators += other.operators
        self.failures |= other.failures


def check_seeds(seeds: range) -> Tally:
    """Check the networks of these seeds."""
    tally = Tally()
    for seed in seeds:
        model = network(Choices(seed=seed))
        tally.networks += 1
        tally.operators.update(node.op_type for node in model.graph.node)
        try:
            found = check(model, seed)
        except Exception as error:
            tally.failures[seed] = describe(error)
            continue
        tally.cuts += found.removed > 0
        tally.exact += found.removed > 0 and found.exact
        tally.units_removed += found.removed
    return tally


def describe(error: Exception) -> str:
    """Return the kind and first line of error."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def kind(failure: str) -> str:
    """Return what two failures of one cause have in common: their text without names and numbers."""
    return re.sub(r"'[^']*'|[-+.\d]+(e[-+]\d+)?", "_", failure)[:60]


def failing_as(seed: int, wanted: str) -> Fails:
    """Return a test of whether a valid model fails in the same way."""

    def fails(model: onnx.ModelProto) -> bool:
        try:
            check(model, seed)
        except Exception as error:
            return kind(describe(error)) == wanted and runs(model)
        return False

    return fails


def runs(model: onnx.ModelProto) -> bool:
    """Return True if model itself is valid."""
    try:
        onnx.checker.check_model(model, full_check=True)
        sizes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
        for feeds in draw_feeds(model, sizes, np.random.default_rng(0)):
            run(model, feeds)
    except Exception:
        return False
    return True


def shrunk(seed: int, failure: str) -> onnx.ModelProto:
    """Return a small network that fails as that of seed does."""
    fails = failing_as(seed, kind(failure))
    first = Choices(seed=seed)
    if not fails(network(first)):
        return network(Choices(seed=seed))
    until = time.monotonic() + PATIENCE
    model = network(Choices(with_smaller(with_fewer(first.made, fails, until), fails, until)))
    while (bypassed := next((m for m in shorter(model) if size(m) < size(model) and fails(m)), None)) is not None:
        model = bypassed
    return model


def with_fewer(choices: list[int], fails: Fails, until: float) -> list[int]:
    """Leave out what can be left out of choices."""
    for few in (64, 32, 16, 8, 4, 2, 1):
        at = len(choices) - few
        while at >= 0 and time.monotonic() < until:
            fewer = choices[:at] + choices[at + few :]
            choices = fewer if fails(network(Choices(fewer))) else choices
            at -= few
    return choices


def with_smaller(choices: list[int], fails: Fails, until: float) -> list[int]:
    """Make the numbers in choices as small as possible."""
    for at, choice in enumerate(choices):
        for less in sorted({0, choice // 2, choice - 1}):
            smaller = [*choices[:at], less, *choices[at + 1 :]]
            if 0 <= less < choice and time.monotonic() < until and fails(network(Choices(smaller))):
                choices = smaller
                break
    return choices


def size(model: onnx.ModelProto) -> int:
    """Return how many nodes and outputs model has."""
    return len(model.graph.node) + len(model.graph.output)


def shorter(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield models with one output less, or with one node bypassed: its output is one of its inputs."""
    for at in range(len(model.graph.output)) if len(model.graph.output) > 1 else ():
        smaller = copied(model)
        del smaller.graph.output[at]
        yield without_dead_ends(smaller)
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name and name not in weights:
                yield without_dead_ends(renamed(model, node.output[0], name))


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def renamed(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """Return model with `new` wherever `old` is read."""
    copy = copied(model)
    for node in copy.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    return copy


def without_dead_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove from model, in place, nodes, weights and inputs that no output needs."""
    needed = {value.name for value in model.graph.output}
    for node in reversed(list(model.graph.node)):
        if needed.intersection(node.output):
            needed.update(reads(node))
        else:
            model.graph.node.remove(node)
    for values in (model.graph.initializer, model.graph.input):
        for value in [v for v in values if v.name not in needed]:
            values.remove(value)
    return model


def fuzz(seeds: Iterator[range], seconds: float, jobs: int, keep_going: bool) -> Tally:
    """Check networks until seeds or time run out, or one fails."""
    tally, start, told = Tally(), time.monotonic(), 0.0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running: set[Future[Tally]] = set()
        while True:
            passed = time.monotonic() - start
            while len(running) < 2 * jobs and passed < seconds and (keep_going or not tally.failures):
                chunk = next(seeds, None)
                if chunk is None:
                    break
                running.add(pool.submit(check_seeds, chunk))
            if not running:
                return tally
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                tally.add(future.result())
            if passed - told >= 5:
                told = passed
                print(f"{tally.networks} networks, {tally.cuts} cut, {tally.networks / passed:.0f}/s", file=sys.stderr, flush=True)


def chunks(seed: int, count: int) -> Iterator[range]:
    """Yield count seeds from seed on, some at a time."""
    for first in range(seed, seed + count, CHUNK):
        yield range(first, min(first + CHUNK, seed + count))


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10**9, help="networks")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep-going", action="store_true", help="collect all failures, one of each kind is shown")
    given = parser.parse_args()
    start = time.monotonic()
    tally = fuzz(chunks(given.seed, given.count), given.seconds, given.jobs, given.keep_going)
    write(given.seed, tally, time.monotonic() - start)
    print(f"{tally.networks} networks, {tally.cuts} cut ({tally.exact} exact), {len(tally.failures)} failures")
    for seed, failure in {kind(f): (s, f) for s, f in sorted(tally.failures.items(), reverse=True)}.values():
        print(f"\nseed {seed}: {failure}\n{onnx.printer.to_text(shrunk(seed, failure))}")
    return int(bool(tally.failures))


def write(seed: int, tally: Tally, seconds: float) -> None:
    """Write what was done beside this file."""
    content = {
        "seed": seed,
        "networks": tally.networks,
        "cuts": tally.cuts,
        "exact": tally.exact,
        "units_removed": tally.units_removed,
        "seconds": round(seconds, 1),
        "operators": dict(tally.operators.most_common()),
        "failures": {str(s): f for s, f in sorted(tally.failures.items())},
    }
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
