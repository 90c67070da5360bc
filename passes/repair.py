"""Repair: what stays of a trained network takes over, as far as it can, what the removed channels did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.calibration import Calibration
from onnx_reconvene.calibration.given import SOURCES
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.flow import weight_constant
from onnx_reconvene.graph import every_tensor, plain_source
from onnx_reconvene.notes import notes_of
from onnx_reconvene.passes.base import Pass, reference_of
from onnx_reconvene.process import workplace

MODES = ("bn", "lstsq")
BATCH = 32


@dataclass(frozen=True)
class Repair(Pass):
    """Repair a trained network that was cut, on calibration data. Notes what was done.

    mode: "bn" recalibrates BatchNormalizations and corrects biases; "lstsq" also fits the weights of layers that lost inputs to
    what they returned before. Run it after Verify, which proves the cut with the weights it had. original: the network before the
    cut, for a model that does not come straight from Cut.
    """

    stage: ClassVar[str] = "repair"

    mode: str = "lstsq"
    calibration: Calibration = field(default_factory=Calibration)
    seed: int = 0
    original: Any = None

    def check(self) -> None:
        """Raise UsageError where an option makes no sense."""
        if self.mode not in MODES:
            raise UsageError(f"--repair {self.mode}: not one of none, {', '.join(MODES)}")
        if self.calibration.data is None:
            raise UsageError(f"--repair {self.mode} needs data: give --data {SOURCES}")
        self.calibration.check()

    def requires(self, graph: gs.Graph) -> None:
        """The cut has been made, the network before it is known, and there are data."""
        self.check()
        reference_of(graph, "Repair", self.original)
        rectified = notes_of(graph).rectified
        if rectified is not None and rectified.mode == "reinit" and rectified.tensors:
            raise UsageError(f"--repair {self.mode}: the weights were drawn anew, so nothing is left to repair; add --rectify none")

    def call(self, graph: gs.Graph) -> bool:
        """Give parameters new values of the same shapes and types."""
        from onnx_reconvene.calibration.data import Data, inputs_of
        from onnx_reconvene.repair import Repair as Repairing

        notes, reference = notes_of(graph), reference_of(graph, "Repair", self.original)
        if reference is None:
            return False
        calibration = self.calibration
        inputs = inputs_of(graph, reference.sizes)
        data = Data(calibration.data, inputs, calibration.image)
        fixed = {i.shape[0] for i in inputs if i.shape} - {None}
        size = int(min(n for n in fixed if n is not None)) if fixed else calibration.batch_size or BATCH

        def batches() -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
            for batch in data.batches(size, calibration.samples):
                count = len(batch[inputs[0].name])
                if not fixed or count == size:
                    yield count, {i.name: i.feed(batch[i.name]) for i in inputs} | graph.input_values

        with workplace("repair") as folder:
            repairing = Repairing(reference, plain_source(graph), batches, self.mode, self.seed, folder)
            if not repairing.done.samples:
                raise data.too_few(size)
            repairing.run()
        tensors = every_tensor(graph)
        for name, array in repairing.values.items():
            constant = weight_constant(tensors[name])
            assert constant is not None
            if not np.isfinite(array).all():
                raise ModelError(f"--repair {self.mode}: '{name}' is no longer finite; are the data scaled as for training?")
            constant.values = array
        notes.repaired = asdict(repairing.done)
        return bool(repairing.values)
