"""The boundary between models of strangers and the program: whatever else than its own errors is raised behind it becomes one.

Which one is decided by a second opinion: where the ONNX checker or onnxruntime refuses the model, too, the model is invalid;
else the program has a defect.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import onnx

from onnx_reconvene import wire
from onnx_reconvene.errors import DefectError, ModelError, ReconveneError, described
from onnx_reconvene.process import isolated, workplace


@contextmanager
def boundary(stage: str, *models: Any) -> Iterator[None]:
    """Turn what is raised in a stage of pruning into a ModelError where one of models is invalid, else into a DefectError.

    models: paths, ModelProtos, or graphs of `graph.load`.
    """
    try:
        yield
    except ReconveneError:
        raise
    except MemoryError as error:
        raise ModelError(f"{_name(models[0])}: out of memory ({stage})") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{_name(models[0])}: not a valid ONNX model: text in it is not UTF-8 ({error.reason})") from error
    except Exception as error:
        for model in models:
            if reason := _refusal(model):
                raise ModelError(f"{_name(model)}: not a valid ONNX model: {reason}") from error
        raise DefectError(f"internal error ({stage}), please report it: {described(error)}") from error


def _name(model: Any) -> str:
    path = model if isinstance(model, str | os.PathLike) else getattr(getattr(model, "source", None), "path", None)
    return "the model" if path is None else os.fspath(path)


def _refusal(model: Any) -> str:
    """Return why model is not valid, "" if nothing is known to be wrong with it."""
    with suppress(Exception), workplace("the check of a model that fails") as folder:  # as it is over 2 GB, or the disk is full
        path = _name(model)
        if path == "the model":
            path = os.path.join(folder, "model.onnx")
            with open(path, "wb") as file:
                file.writelines(_content(model))
        return refusal(path)
    return ""


def refusal(path: str) -> str:
    """Return why the ONNX checker or onnxruntime refuses the model at path, "" if they do not, or take too long."""
    try:
        done = isolated("validate.py", path)
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode < 0:
        return f"the ONNX checker or onnxruntime crashes on it ({signal.Signals(-done.returncode).name})"
    return done.stdout.strip()


def _content(model: Any) -> Iterator[bytes | memoryview]:
    """Yield the parts of a file that holds a ModelProto, or a graph as it was read."""
    if isinstance(model, onnx.ModelProto):
        yield model.SerializeToString()
    else:
        source = model.source
        yield from wire.join(source.model if source.form is None else source.form.original, source.arrays)
