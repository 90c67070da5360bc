"""What passes hand on from one to the next, as one typed value that can be written down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.calibration.given import Calibration
from onnx_reconvene.errors import UsageError
from onnx_reconvene.kinds import shortened
from onnx_reconvene.rectify import Rectified
from onnx_reconvene.target import Target
from onnx_reconvene.verify import Verdict

KEY = "onnx_reconvene.state"  # of the metadata of a ModelProto and an onnx_ir.Model


@dataclass
class State:
    """What has been asked and done so far, in the order of the passes that say so; None where none has yet."""

    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # Load
    attention: str = "heads"
    samples: Mapping[str, Sequence[int]] = field(default_factory=dict)  # sizes of inputs in the data
    values: Mapping[str, float] = field(default_factory=dict)  # of inputs of a single number
    groups: Mapping[str, int] = field(default_factory=dict)  # the units of each, by name; arrays [units] go group by group
    criterion: str | None = None  # Score
    aggregate: str = "sum"
    seed: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    scores: NDArray[np.float64] | None = None  # [units]
    allocate: str | None = None  # Allocate, Replay
    targets: tuple[Target, ...] = ()
    keep: NDArray[np.bool_] | None = None  # [units]
    done: bool = False  # Cut, Sparsify: all of the above speaks of the network before
    verdict: Verdict | None = None  # Verify
    rectified: Rectified | None = None  # Rectify
    repaired: dict[str, Any] | None = None  # Repair: what it did, see `Repaired`

    def __repr__(self) -> str:
        said = [f"{of.name}={_short(getattr(self, of.name))}" for of in fields(State) if getattr(self, of.name) is not None]
        return f"State({', '.join(said)})"

    def text(self) -> str:
        """Return the state as JSON. Data and losses that are no text are left out."""
        written = {of.name: getattr(self, of.name) for of in fields(State)}
        calibration = self.calibration
        written["calibration"] = replace(
            calibration, data=_named(calibration.data), loss=_named(calibration.loss), image=dict(calibration.image)
        )
        return json.dumps({name: value for name, value in written.items() if value is not None}, default=_as_json)

    @classmethod
    def read(cls, text: str) -> State:
        """Return the state that JSON describes. Raises UsageError where it describes none."""
        try:
            written = json.loads(text)
            state = cls(**{name: READ[name](value) for name, value in written.items()})
            for array in (state.scores, state.keep):
                if array is not None and array.shape != (sum(state.groups.values()),):
                    raise ValueError(f"{array.shape} values for {sum(state.groups.values())} units")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise UsageError(f"the metadata entry '{KEY}' is damaged ({type(error).__name__}: {error}); remove it") from error
        return state


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<{value.size} units>"
    return shortened(value)


def _named(value: Any) -> str | None:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else asdict(value)


def _of(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"{value!r} is no {kind.__name__}"[:80])
        return value

    return read


def _table(of: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: of(entry) for name, entry in value.items()}


READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("attention", "criterion", "aggregate", "allocate"), _of(str)),
    **dict.fromkeys(("sizes", "samples"), _table(lambda shape: tuple(map(_of(int), shape)))),
    "values": _table(float),
    "groups": _table(_of(int)),
    "seed": _of(int),
    "calibration": lambda value: Calibration(**value),
    "scores": lambda value: np.asarray(_of(list)(value), np.float64),
    "targets": lambda value: tuple(Target(**target) for target in value),
    "keep": lambda value: np.asarray([_of(bool)(unit) for unit in _of(list)(value)], bool),
    "done": _of(bool),
    "verdict": lambda value: Verdict(**value),
    "rectified": lambda value: Rectified(**value),
    "repaired": _of(dict),
}
