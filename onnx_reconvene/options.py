"""Options of the command line: from texts to what `prune` is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
        **{name: given[name] for name in ("threads", "provider", "latency_table")},
        **{name: given[name] for name in ("keep_file", "from_plan", "steps", "granularity")},
        **{name: given[name] for name in ("aggregate", "rectify", "repair", "data", "samples", "batch_size", "loss", "gradients")},
    )


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
