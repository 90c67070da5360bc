"""New values for the weights that a cut has touched, so that what is left of a layer works as a layer of its width."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.graph import Source
from onnx_reconvene.initializers import Initializer
from onnx_reconvene.parameters import Parameter, is_float, parameters
from onnx_reconvene.stage import INITIALIZED, Stage

MODES = ("none", "rescale", "reinit", "auto")


@dataclass(frozen=True)
class Rectified:
    """What was done to the weights that a cut touched ("none", "rescale" or "reinit"), why, and to how many tensors."""

    mode: str
    why: str
    tensors: int = 0


def decide(asked: str, stage: Stage) -> tuple[str, str]:
    """Return the mode that is meant by the one that was asked for, and why."""
    if asked != "auto":
        return asked, "asked for"
    known = "untrained" if stage.name == INITIALIZED else "taken for trained"
    return "reinit" if stage.name == INITIALIZED else "none", f"{known}: {stage.why}"


def rectified(before: Source, after: Source, mode: str, stage: Stage, seed: int) -> dict[str, NDArray[Any]]:
    """Return new values, by name, for the parameters of layers that differ in shape or fans before and after a cut.

    reinit: drawn anew from the initializer of the stage at the new fans; where none is known, a weight is normal with its own
    deviation times sqrt(old / new number of inputs), and vectors stay. In front of a BatchNormalization, which takes any scale
    away, fans and inputs count as before the cut: all that larger weights would change there is that they learn more slowly.
    rescale: weights times that factor, which keeps the variance of what layers return. The random numbers of a tensor follow from
    seed and its name alone. Constants stay.
    """
    old = {(p.name, p.node.output[0], p.part): p for p in parameters(before)}
    pairs = ((old.get((p.name, p.node.output[0], p.part)), p) for p in parameters(after))
    touched = [(was, now) for was, now in pairs if was is not None and _is_touched(was, now)]
    return dict(_rescaled(touched) if mode == "rescale" else _drawn(touched, stage.initializers, seed)) if mode != "none" else {}


def _is_touched(was: Parameter, now: Parameter) -> bool:
    changed = was.values.shape != now.values.shape or was.fans != now.fans
    return changed and is_float(was.values) and bool((was.values != was.values.flat[0]).any())


def _factor(was: Parameter, now: Parameter) -> float:
    """Return what keeps the variance of the outputs of a layer with fewer inputs."""
    return math.sqrt(was.reads / now.reads) if now.reads else 1.0


def _rescaled(touched: list[tuple[Parameter, Parameter]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for was, now in touched:
        if now.part == "weight" and was.reads != now.reads:
            yield now.name, (now.values.astype(np.float64) * _factor(was, now)).astype(now.values.dtype)


def _drawn(
    touched: list[tuple[Parameter, Parameter]], initializers: Mapping[str, Initializer], seed: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    for was, now in touched:
        scale = was if now.scale_free else now
        initializer = initializers.get(now.name)
        if initializer is None:
            if now.part != "weight":
                continue
            initializer = Initializer("", "normal", (float(np.std(was.values, dtype=np.float64)) * _factor(was, scale)) ** 2, None)
        rng = np.random.default_rng([seed, zlib.crc32(now.name.encode())])
        yield now.name, initializer.draw(now.values.shape, scale.fans, rng).astype(now.values.dtype)
