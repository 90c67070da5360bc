"""Options: from texts of the command line to what `prune` is told, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

from onnx_reconvene.errors import UsageError

if TYPE_CHECKING:
    from onnx_reconvene.api import Options


def options_of(given: Mapping[str, Any]) -> Options:
    """Return the options of a run. Raises UsageError where one cannot be read."""
    from onnx_reconvene.api import Options

    return Options(
        target=given["target"],
        criterion=given["criterion"],
        allocate=given["allocate"],
        round_to=_round_to(given["round_to"]),
        min_width=given["min_width"],
        ignore=given["ignore"],
        only=given["only"],
        keep=dict(_pair(text, "--keep", float) for text in given["keep"]),
        input_shape=input_shapes(given["input_shape"]),
        attention=given["attention"],
        verify=not given["no_verify"],
        seed=given["seed"],
        image=dict(_pair(text, "--image", str) for text in given["image"]),
        **{name: given[name] for name in ("threads", "provider", "latency_table", "allow_uncounted")},
        **{name: given[name] for name in ("keep_file", "from_plan", "steps", "granularity")},
        **{name: given[name] for name in ("aggregate", "rectify", "repair", "data", "samples", "batch_size", "loss", "gradients")},
    )


def check_types(given: Mapping[str, Any]) -> None:
    """Raise UsageError for options of a type that they cannot have."""
    kinds = {
        **dict.fromkeys(WHOLE, "a whole number"),
        **dict.fromkeys(TABLES, "a table by name"),
        **dict.fromkeys(TEXTS, "a text, or several"),
    }
    for name, kind in kinds.items():
        value = given[name]
        if name in WHOLE:
            fits = isinstance(value, Integral) and not isinstance(value, bool)
        else:
            fits = isinstance(value, Mapping) if name in TABLES else all(isinstance(text, str) for text in texts(value))
        if not fits:
            raise UsageError(f"--{name.replace('_', '-')} {value!r}: expected {kind}")
    for name, shape in given["input_shape"].items():
        if not isinstance(shape, Iterable) or not all(isinstance(n, Integral) and int(n) > 0 for n in shape):
            raise UsageError(f"--input-shape {name}: expected sizes of at least 1, not {shape!r}")


WHOLE = ("round_to", "min_width", "steps", "seed", "samples", "batch_size", "threads")
TABLES = ("keep", "input_shape", "image")
TEXTS = ("target", "ignore", "only")


def texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def refuse_idle(given: Mapping[str, Any]) -> None:
    """Raise UsageError for options that nothing in this run looks at."""
    from onnx_reconvene.latency.runtime import CPU
    from onnx_reconvene.saliency import criteria
    from onnx_reconvene.target import parse_targets

    criterion = criteria.get(given["criterion"])
    if given["repair"] == "none" and (given["criterion"] == "auto" or (criterion is not None and not criterion.needs_data)):
        for option in filter(given.get, ("data", "loss", "image")):
            raise UsageError(
                f"--{option}: nothing here looks at data; choose a criterion that does (--criterion list) or a --repair"
            )
    timed = given["allocate"] == "latency" or any(target.kind == "latency" for target in parse_targets(given["target"]))
    if not timed and (given["latency_table"] or given["provider"] != CPU):
        option = "--latency-table" if given["latency_table"] else "--provider"
        raise UsageError(f"{option}: nothing here asks for latency; give --target latency=... or --allocate latency")


def listed(texts: Iterable[str]) -> list[str]:
    """Return the entries of lists separated by commas."""
    return [entry.strip() for text in texts for entry in text.split(",")]


def input_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that options --input-shape give, by name of the input."""
    shapes = dict(_pair(text, "--input-shape", lambda value: tuple(int(n) for n in value.split(","))) for text in texts)
    for name, shape in shapes.items():
        if min(shape) < 1:
            raise UsageError(f"--input-shape {name}: sizes must be at least 1")
    return shapes


def _round_to(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--round-to {text}: give a whole number of at least 1, or auto")
    return int(text)


def _pair(text: str, option: str, read: Callable[[str], Any]) -> tuple[str, Any]:
    name, equals, value = text.rpartition("=")
    try:
        if not equals or not name:
            raise ValueError("no '='")
        return name, read(value)
    except ValueError as error:
        raise UsageError(f"{option} {text}: not of the form NAME=VALUE ({error})") from error
