"""Files on disk, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO

import numpy as np
from onnx import TensorProto

from onnx_reconvene import wire
from onnx_reconvene.errors import UsageError
from onnx_reconvene.graph import Source

PROTOBUF_LIMIT = 2**31 - 1  # bytes in one message


def save(bare: Source, path: str | os.PathLike[str]) -> None:
    """Write a model to path so that the file there is whole, old or new, whatever happens.

    A model over 2 GB keeps its weights beside it, in a file of another name for other weights: what is at path refers to a whole
    one, old or new. Raises UsageError where path cannot be written.
    """
    name = os.fspath(path)
    if sum(array.nbytes for array in bare.arrays.values()) + bare.model.ByteSize() + 2**20 <= PROTOBUF_LIMIT:
        with replacing(name) as file:
            file.writelines(wire.join(bare.model, bare.arrays))
        return
    digest = hashlib.sha256()
    for array in bare.arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    location = f"{os.path.basename(name)}.{digest.hexdigest()[:12]}.data"
    with replacing(os.path.join(os.path.dirname(name), location)) as file:
        write_data(bare, file, location)
    write_whole(name, bare.model.SerializeToString())
    for old in pathlib.Path(os.path.dirname(name) or ".").glob(f"{glob.escape(os.path.basename(name))}.{'[0-9a-f]' * 12}.data"):
        if old.name != location:
            old.unlink()


def write_data(bare: Source, file: IO[bytes], location: str | None = None) -> None:
    """Write the arrays of a model to file and let its initializers refer to them there, as ONNX external data."""
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


def check_spares(path: str | os.PathLike[str], source: Source) -> None:
    """Raise UsageError where writing path would take away external data that a network was read from."""
    if os.path.realpath(path) in source.external:
        raise UsageError(f"{os.fspath(path)}: holds weights of the network that is read; name another file to write")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise UsageError where path cannot be written, before any work is done for it."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise UsageError(f"{os.fspath(path)}: is a folder; name a file to write")
    if not os.path.isdir(folder):
        raise UsageError(f"{os.fspath(path)}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK) or (os.path.exists(target) and not os.access(target, os.W_OK)):
        raise UsageError(f"{os.fspath(path)}: cannot be written: permission denied")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Yield a file to write that takes the place of the one at path in the end, whole. Raises UsageError where it cannot."""
    target = os.path.realpath(path)
    beside = f"{target}.{secrets.token_hex(4)}.part"
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(beside, os.stat(target).st_mode & 0o777)
        os.replace(beside, target)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)
