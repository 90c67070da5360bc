"""Runs a network and its counterpart on the same inputs and says how far apart they are, and which faults would have shown.

A program of its own, so that a model that crashes the native runtime takes nothing else down: it reads a job as JSON from its input
and prints one JSON object.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
from measure import as_input  # type: ignore[import-not-found]  # another program of this folder, which is where this one starts
from numpy.typing import NDArray

ENOUGH = 2  # sizes to compare at
ATTEMPTS = 4  # inputs of which the networks must agree on one: rounding may turn a tie
SCALES = (1.0, 10.0, 0.1, 100.0)  # of inputs that are tried where faults have not shown
TINY = float(np.finfo(np.float32).tiny)
MARGIN = 3  # times the tolerance: what a fault must change to be seen
NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory")  # what onnxruntime says
COMBINATIONS = 8  # of such values, at most
Feeds = dict[str, Any]
Values = Mapping[str, float]  # of inputs of one element
Arrays = dict[str, NDArray[Any]]


class NothingToCompareError(Exception):
    """The original says nothing on such inputs; the text says why."""


class NothingFiniteError(Exception):
    """The outputs of the original hold nothing finite."""


@dataclass(frozen=True)
class Draw:
    """How random inputs are drawn."""

    seed: int
    positive: bool = False
    scale: float = 1.0

    def feeds(self, session: Any, sizes: Mapping[str, list[int]], fixed: Values) -> Feeds:
        """Return values for the inputs of a session: those that are fixed; else integers are 0 or 1, indices into anything."""
        rng = np.random.default_rng(self.seed)
        return {i.name: self._values(i, sizes[i.name], fixed.get(i.name), rng) for i in session.get_inputs()}

    def _values(self, into: Any, shape: list[int], fixed: float | None, rng: np.random.Generator) -> Any:
        if fixed is not None:
            values = np.full(shape, fixed)
        elif "float" in into.type or "double" in into.type:
            values = self.scale * (rng.random(shape) if self.positive else rng.standard_normal(shape))
        else:
            values = rng.integers(0, 100 if "int8" in into.type and self.scale > 1 else 2, shape)
        try:
            return as_input(into.type, values)
        except (AttributeError, TypeError) as error:  # strings and sequences, and bfloat16 where onnxruntime is too old for it
            raise NothingToCompareError(f"no values can be drawn for input '{into.name}', a {into.type}") from error


@dataclass(frozen=True)
class Comparison:
    """How far tensors are apart on some inputs, relative to their largest value, and what the faults change."""

    errors: dict[str, float]
    rounding: dict[str, float]  # how far rounding alone brings those apart that are further apart than the tolerance
    effects: dict[str, float]  # of faults, by group, over what could be seen
    tolerance: float

    @property
    def off(self) -> dict[str, float]:
        """The errors that rounding does not explain."""
        return {name: e for name, e in self.errors.items() if not e <= max(self.tolerance, self.rounding.get(name, 0.0))}

    @property
    def rounded(self) -> dict[str, float]:
        """The errors above the tolerance that rounding explains."""
        return {name: e for name, e in self.errors.items() if e > self.tolerance and name not in self.off}

    @property
    def worst(self) -> tuple[float, str]:
        """The largest error and its tensor: of those that are off, or else of those that rounding need not explain."""
        return max(((e, name) for name, e in (self.off or self.errors).items() if name not in self.rounded), default=(0.0, ""))


def session(path: str, threads: int = 0, level: str = "ORT_ENABLE_BASIC", instead: Arrays | None = None) -> ort.InferenceSession:
    """Return an onnxruntime session that says nothing and changes the graph as little as sensible, with some weights replaced."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (instead or {}).items()}
    for name, value in values.items():
        options.add_initializer(name, value)
    opened = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    opened.instead = values  # which the session reads as long as it lives
    return opened


def distance(a: Any, b: Any) -> float:
    """Return the largest difference over the largest value; for integers the share that differs."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind != "f":
        return float(np.mean(a != b)) if a.size else 0.0
    difference, largest = (float(np.abs(x).max(initial=0)) for x in (a - b, a))
    if not np.isfinite(difference + largest):
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference, largest = np.abs(a - b)[~same].max(initial=0), np.abs(a[np.isfinite(a)]).max(initial=0)
    return float(difference) / max(float(largest), TINY) if np.isfinite(difference) else float("inf")


def is_finite_somewhere(output: Any) -> bool:
    """Return True if an output holds anything but NaN and infinity."""
    values = np.asarray(output)
    return bool(np.isfinite(values).any()) if values.dtype.kind == "f" else values.size > 0


class Pair:
    """The two networks of a job. Tensors inside are compared where they are finite in the original and of the shape expected."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job, self.threads, self.tolerance = job, job["threads"], job["tolerance"]
        self.probes: dict[str, dict[str, Any]] = job["probes"]
        self.faults: dict[str, list[list[str]]] = job["faults"]
        try:
            self.original = session(job["original"], self.threads)
        except Exception as error:
            raise NothingToCompareError(f"onnxruntime does not load the original: {error}") from error
        self.written: Any = session(job["written"], self.threads) if job["compare_written"] else None
        self.pruned = self._probed()
        self.outputs = [output.name for output in self.original.get_outputs() if output.name not in self.probes]
        self._noisy: Any = None

    def expected(self, feeds: Feeds, by: Any = None) -> Arrays:
        """Return what the original computes, the probes at the positions that stay."""
        names = [*self.outputs, *self.probes]
        arrays = zip(names, (by or self.original).run(names, feeds), strict=True)
        return {name: stays for name, array in arrays if (stays := self._staying(name, array)) is not None}

    def _staying(self, name: str, array: Any) -> Any:
        for axis, (size, stays) in self.probes.get(name, {}).items():
            if np.shape(array)[int(axis)] != size:
                return None  # at other sizes than those analysed the axis holds more than channels
            array = np.take(array, stays, int(axis))
        return array

    def _probed(self) -> Any:
        """Return a session of the pruned network with probes and faults; None where onnxruntime does not load these."""
        try:
            return session(self.job["pruned"], self.threads)
        except Exception:
            self._open_written()
            return None

    def _open_written(self) -> None:
        self.written = self.written or session(self.job["written"], self.threads)

    def actual(self, feeds: Feeds) -> Arrays:
        """Return what the pruned network computes and what comes of faults in it, or its outputs alone where faults cannot be."""
        names = [*self.outputs, *self.probes, *(fault for pairs in self.faults.values() for fault, _ in pairs)]
        arrays: Arrays = {}
        try:
            arrays = dict(zip(names, self.pruned.run(names, feeds), strict=True)) if self.pruned else {}
        except Exception:  # the network itself may run: at sizes at which an axis holds more than channels
            self._open_written()
        written = self.written.run(self.outputs, feeds) if self.written else ()
        return arrays | dict(zip(self.outputs, written, strict=False))

    def compare(self, sizes: Mapping[str, list[int]], draw: Draw, fixed: Values) -> Comparison:
        """Return how far the networks are apart on inputs. Raises NothingToCompareError where the original fails, and
        NothingFiniteError where its outputs have the shapes of the others but hold nothing finite."""
        try:
            feeds = draw.feeds(self.original, sizes, fixed)
            expected = self.expected(feeds)
        except NothingToCompareError:
            raise
        except Exception as error:  # of memory, too
            raise NothingToCompareError(f"onnxruntime does not run the original: {error}") from error
        actual = self.actual(feeds)
        alike = all(np.shape(expected[name]) == np.shape(actual[name]) for name in self.outputs)
        if alike and not any(is_finite_somewhere(expected[name]) for name in self.outputs):
            raise NothingFiniteError("the outputs of the original hold nothing finite on any inputs that were tried")
        errors = {name: self._apart(name, expected[name], actual[name]) for name in expected if name in actual}
        off = [name for name, error in errors.items() if not error <= self.tolerance]
        rounding = self._rounding(feeds, expected, off) if off else {}
        return Comparison(errors, rounding, self._effects(actual, rounding), self.tolerance)

    def _effects(self, arrays: Arrays, rounding: Mapping[str, float]) -> dict[str, float]:
        """Return what each fault changes, over what could be seen; nothing where no faults were made."""

        def effect(fault: str, probe: str) -> float:
            return float(self._apart(probe, arrays[probe], arrays[fault]) / max(self.tolerance, rounding.get(probe, 0.0)))

        return {group: max(effect(*pair) for pair in pairs) for group, pairs in self.faults.items() if pairs[0][0] in arrays}

    def _apart(self, name: str, a: Any, b: Any) -> float:
        apart = distance(a, b)
        if name in self.probes and apart == float("inf") and np.shape(a) == np.shape(b):
            finite = np.isfinite(a)
            return distance(a[finite], b[finite])
        return apart

    def _rounding(self, feeds: Feeds, expected: Arrays, names: Sequence[str]) -> dict[str, float]:
        """Return how far apart rounding brings tensors of the original: by inputs and weights that are rounded otherwise."""
        from noise import noisy, perturbed  # type: ignore[import-not-found]  # takes time, and few networks need it

        if self._noisy is None:
            self._noisy = session(self.job["original"], self.threads, "ORT_DISABLE_ALL", noisy(self.job["original"]))
        apart = dict.fromkeys(names, 0.0)
        for seed in range(ATTEMPTS):
            rng = np.random.default_rng(seed)
            other = self.expected({name: perturbed(array, rng) for name, array in feeds.items()}, self._noisy)
            apart = {name: max(most, self._apart(name, expected[name], other[name])) for name, most in apart.items()}
        return {name: most for name, most in apart.items() if np.isfinite(most)}


def closest(pair: Pair, sizes: Mapping[str, list[int]], fixed: Values) -> Comparison:
    """Return the first comparison in which the networks agree, else that in which they are closest; on inputs of both signs or,
    where nothing is finite on these, of none below zero."""
    for positive in (False, True):
        compared: list[Comparison] = []
        for seed in range(pair.job["seed"], pair.job["seed"] + ATTEMPTS):
            try:
                compared.append(pair.compare(sizes, Draw(seed, positive), fixed))
            except NothingFiniteError as error:
                last = error
                break
            if not compared[-1].off:
                return compared[-1]
        if compared:
            return min(compared, key=lambda one: max(one.errors.values()))
    raise last


def combinations(job: Mapping[str, Any]) -> list[Values]:
    """Return the combinations of values to try of inputs that have given ones or choose branches."""
    names, values = list(job["values"]), list(job["values"].values())
    return [dict(zip(names, one, strict=True)) for one in itertools.islice(itertools.product(*values), COMBINATIONS)]


def further(seed: int) -> Iterator[Draw]:
    """Yield more inputs, to be tried where faults have not shown."""
    for positive in (False, True):
        for scale in SCALES:
            yield Draw(seed + ATTEMPTS, positive, scale)


class Trial:
    """Comparisons of the two networks of a job."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.compared: list[Comparison] = []
        self.blind = set(pair.faults)  # groups of which no fault has shown
        self.why: Exception | None = None  # the first inputs said nothing

    def attempt(self, compare: Callable[[], Comparison]) -> bool:
        """Add a comparison; return False where the original fails or is nowhere finite."""
        try:
            self.compared.append(compare())
        except (NothingToCompareError, NothingFiniteError) as error:
            self.why = self.why or error
            return False
        self.blind -= {group for group, effect in self.compared[-1].effects.items() if effect >= MARGIN}
        return True

    def summary(self) -> dict[str, Any]:
        """Return what they have shown."""
        off = [one for one in self.compared if one.off]
        error, name = max(one.worst for one in off or self.compared)
        rounded = {name: e for one in self.compared for name, e in one.rounded.items()}
        return {"max_rel_err": error, "tensor": name, "off": bool(off), "rounded": rounded, "blind": sorted(self.blind)}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Compare the models of job at the first of its sizes that say anything, and on more inputs where faults have not shown."""
    trial, usable = Trial(Pair(job)), []
    for sizes in job["sizes"]:
        usable += [(sizes, fixed) for fixed in combinations(job) if trial.attempt(partial(closest, trial.pair, sizes, fixed))]
        if len({str(sizes) for sizes, _ in usable}) == ENOUGH:
            break
    if not usable:
        assert trial.why is not None
        raise trial.why
    for draw, (sizes, fixed) in itertools.product(further(job["seed"]), usable):
        if not trial.blind or any(one.off for one in trial.compared):
            break
        trial.attempt(partial(trial.pair.compare, sizes, draw, fixed))
    return trial.summary()


def fate(job: dict[str, Any]) -> dict[str, str]:
    """Return why a model does not load or run, by stage; nothing where it does at one of the sizes of job."""
    try:
        opened = session(job["model"], job["threads"])
    except Exception as error:
        return {"load": str(error)}
    fates = (_run_of(opened, job, sizes, fixed) for sizes in job["sizes"] for fixed in combinations(job))
    first = next(fates)
    return first if all([first, *fates]) else {}


def _run_of(opened: Any, job: Mapping[str, Any], sizes: Mapping[str, list[int]], fixed: Values) -> dict[str, str]:
    try:
        opened.run(None, Draw(job["seed"]).feeds(opened, sizes, fixed))
    except NothingToCompareError as error:
        return {"draw": str(error)}
    except Exception as error:
        return {"run": str(error)}
    return {}


def main() -> None:
    """Do the job that the standard input describes and print what comes of it."""
    job = json.load(sys.stdin)
    try:
        answer = fate(job) if "model" in job else run(job)
    except NothingToCompareError as error:
        answer = {"skipped": f"{error}"}
    except NothingFiniteError as error:
        answer = {"unproven": f"{error}"}
    except Exception as error:
        lacks_memory = isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)
        answer = {"memory" if lacks_memory else "failed": f"{error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
