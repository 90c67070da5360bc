"""Sessions of onnxruntime in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_reconvene.threads import allowed

if TYPE_CHECKING:
    import onnxruntime as ort


def options(threads: int = 0, severity: int = 4) -> ort.SessionOptions:
    """Return session options with so many threads (0: as many as are allowed) that log nothing below a severity."""
    import onnxruntime as ort

    chosen = ort.SessionOptions()
    chosen.log_severity_level = severity
    chosen.intra_op_num_threads = threads or allowed()
    return chosen


def session(model: str | bytes, chosen: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """Return a session of a model on the CPU, given by path or serialized; onnxruntime sends no telemetry."""
    import onnxruntime as ort

    ort.disable_telemetry_events()
    return ort.InferenceSession(model, chosen or options(), providers=["CPUExecutionProvider"])
