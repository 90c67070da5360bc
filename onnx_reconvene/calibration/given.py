"""What is asked of a calibration. Imports nothing that takes time: every run reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from onnx_reconvene.errors import UsageError

SOURCES = "FILE.npz, a folder of images or package.module:function"  # of samples


@dataclass(frozen=True)
class Calibration:
    """What criteria that look at data are given.

    data: see `data.Data`; samples: how many are used at most; batch_size: of how many at a time, 0 for what fits; loss: see
    `losses.choose`; gradients: who computes these, "ort" or "torch"; image: how images are prepared, see `images.preparation`.
    """

    data: Any = field(default=None, repr=False)  # it may be large
    samples: int = 128
    batch_size: int = 0
    loss: Any = None
    gradients: str = "ort"
    image: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise UsageError where an option makes no sense."""
        if self.samples < 1 or self.batch_size < 0:
            raise UsageError("--samples must be at least 1, --batch-size at least 1 (or left out)")
        if self.gradients != "ort":
            from onnx_reconvene.calibration.backend import backend

            backend(self.gradients)


@dataclass(frozen=True)
class Place:
    """An input or output of a node of the graph, and the axis of its channels."""

    node: gs.Node
    is_input: bool
    index: int
    channels: int  # the axis

    @property
    def tensor(self) -> str:
        """The name of the tensor there."""
        return str(self._variable.name)

    @property
    def stored(self) -> bool:
        """Whether it is a weight."""
        return isinstance(self._variable, gs.Constant)

    @property
    def _variable(self) -> gs.Tensor:
        return (self.node.inputs if self.is_input else self.node.outputs)[self.index]
