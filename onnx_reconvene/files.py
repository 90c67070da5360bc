"""Files on disk, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper

from onnx_reconvene import wire
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.graph import Source
from onnx_reconvene.homes import fill
from onnx_reconvene.process import held

PROTOBUF_LIMIT = 2**31 - 1  # bytes in one message


Output = str | os.PathLike[str] | IO[bytes]  # a path, or a binary file that is open


def save(bare: Source, path: Output) -> None:
    """Write a model to path so that the file there is whole, old or new, whatever happens; or to a file that is open already.

    A model over 2 GB keeps its weights beside it, in a file of another name for other weights: what is at path refers to a whole
    one, old or new. That of the old model goes. Raises UsageError where path cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        _send(bare, path)
        return
    old, new = _data_of(path), None
    with together() as outputs:
        if _is_one_message(bare):
            with replacing(os.fspath(path)) as file:
                file.writelines(wire.join(bare.model, bare.arrays))
        else:
            new = _save_apart(bare, path)
        outputs.after.append(lambda: _discard(old - {new}))


def _send(bare: Source, file: IO[bytes]) -> None:
    if not _is_one_message(bare):
        raise UsageError("the output: a network over 2 GB keeps its weights in a second file; name a file to write")
    try:
        file.writelines(wire.join(bare.model, bare.arrays))
        file.flush()
    except OSError as error:
        raise UsageError(f"the output: cannot be written: {error.strerror or error}") from error


def _is_one_message(bare: Source) -> bool:
    size: int = sum(array.nbytes for array in bare.arrays.values()) + bare.model.ByteSize() + 2**20
    return size <= PROTOBUF_LIMIT


def remove(path: str | os.PathLike[str]) -> None:
    """Remove the model at path, if there is one, and what `save` has put beside it; of a link the link alone."""
    old = set() if os.path.islink(path) else _data_of(path)
    pathlib.Path(path).unlink(missing_ok=True)
    _discard(old)


def _discard(files: Iterable[pathlib.Path]) -> None:
    """Remove files that nothing refers to any more, as far as that can be done."""
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()


def _save_apart(bare: Source, path: str | os.PathLike[str]) -> pathlib.Path:
    """Write a model to path, its weights beside it, and return where these are."""
    target = pathlib.Path(os.path.realpath(path))
    digest = hashlib.sha256()
    for array in bare.arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    data = target.with_name(f"{target.name}.{digest.hexdigest()[:12]}.data")
    with replacing(os.fspath(data)) as file:
        write_data(bare, file, data.name)
    write_whole(os.fspath(path), bare.model.SerializeToString())
    return data


def _data_of(path: str | os.PathLike[str]) -> set[pathlib.Path]:
    """Return the files that `save` has put beside the model at path and that no other model there refers to."""
    target = pathlib.Path(os.path.realpath(path))
    beside = set(target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 12}.data"))
    if not beside:
        return set()
    others = [model for model in target.parent.glob("*.onnx") if os.path.realpath(model) != os.fspath(target)]
    names = _locations(target).difference(*map(_locations, others))
    return {data for data in beside if data.name in names}


def _locations(path: pathlib.Path) -> set[str]:
    """Return what the model at path calls its external data; nothing where it is no model."""
    try:
        model = onnx.ModelProto.FromString(wire.split(os.fspath(path))[0])
    except (OSError, ModelError, DecodeError):
        return set()
    tensors = external_data_helper._get_all_tensors(model)
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def write_data(bare: Source, file: IO[bytes], location: str | None = None) -> None:
    """Write the arrays of a model to file and let its initializers refer to them there, as ONNX external data; Constant nodes hold
    their own."""
    fill(bare.model.graph, bare.arrays)
    for tensor in bare.model.graph.initializer:
        if tensor.name in bare.arrays:
            data = np.ascontiguousarray(bare.arrays[tensor.name])
            offset = file.seek(-file.tell() % 4096, os.SEEK_CUR)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": location or os.path.basename(file.name), "offset": offset, "length": data.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(data.data)


def write_whole(path: str, content: bytes) -> None:
    """Replace the file at path by content: written beside it, synced, renamed."""
    with replacing(path) as file:
        file.write(content)


def check_spares(path: Output, source: Source) -> None:
    """Raise UsageError where writing path would take away external data that a network was read from."""
    if isinstance(path, str | os.PathLike) and os.path.realpath(path) in source.external:
        raise UsageError(f"{os.fspath(path)}: holds weights of the network that is read; name another file to write")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise UsageError where path cannot be written, before any work is done for it."""
    _check_kind(path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise UsageError(f"{os.fspath(path)}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK) or (os.path.exists(target) and not os.access(target, os.W_OK)):
        raise UsageError(f"{os.fspath(path)}: cannot be written: permission denied")


def _check_kind(path: str | os.PathLike[str]) -> None:
    """Raise UsageError where there is something else than a file at path, such as a device: it would be replaced."""
    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)}: is a folder; name a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{os.fspath(path)}: is no regular file; name another to write")


def check_apart(source: str, outputs: Mapping[str, str | None], read: Iterable[str | None]) -> None:
    """Raise UsageError where a file cannot be written, or two would be one; outputs: by option, the first of which may be source;
    read: what other options name."""
    taken = {os.path.realpath(path) for path in read if path is not None}
    for option, path in outputs.items():
        if path is not None:
            check_writable(path)
            if os.path.realpath(path) in taken:
                raise UsageError(f"{option} {path}: is a file that is read, or another one to write; give it a file of its own")
            taken.add(os.path.realpath(path))
        taken.add(os.path.realpath(source))


@dataclass
class Outputs:
    """Files that have been written beside their places, and what is to be done once they stand there."""

    stack: contextlib.ExitStack
    moves: list[tuple[str, str]] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


_outputs: ContextVar[Outputs | None] = ContextVar("outputs", default=None)


@contextlib.contextmanager
def together() -> Iterator[Outputs]:
    """Let all files that are written meanwhile take their places in the end: all of them, or none where anything goes wrong."""
    outer = _outputs.get()
    if outer is not None:
        yield outer
        return
    with contextlib.ExitStack() as stack:
        outputs = Outputs(stack)
        token = _outputs.set(outputs)
        try:
            yield outputs
        finally:
            _outputs.reset(token)
        _move(outputs.moves)
    for action in outputs.after:
        action()


def _move(moves: Iterable[tuple[str, str]]) -> None:
    """Move files into place, each old one replaced at once; where one cannot be moved, those go that are new."""
    new: list[str] = []
    try:
        for beside, target in moves:
            known = os.path.exists(target)
            with _writing(target):
                os.replace(beside, target)
            new += [] if known else [target]
    except BaseException:
        _discard(map(pathlib.Path, new))
        raise


@contextlib.contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Yield a file to write that takes the place of the one at path in the end, whole. Raises UsageError where it cannot."""
    _check_kind(path)
    target = os.path.realpath(path)
    _sweep(target)
    with together() as outputs, _writing(path):
        beside = pathlib.Path(f"{target}.{secrets.token_hex(4)}.part")
        file = outputs.stack.enter_context(beside.open("xb"))
        outputs.stack.callback(beside.unlink, missing_ok=True)
        outputs.stack.enter_context(held(os.fspath(beside)))
        yield file
        file.flush()
        os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(beside, os.stat(target).st_mode & 0o777)
        outputs.moves.append((os.fspath(beside), target))


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _sweep(target: str) -> None:
    """Remove what processes that were killed have left half written beside target."""
    for beside in glob.glob(f"{glob.escape(target)}.{'[0-9a-f]' * 8}.part"):
        with contextlib.suppress(OSError), held(beside):
            os.unlink(beside)
