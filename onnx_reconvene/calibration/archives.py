"""Arrays of samples, cut into chunks: mapped ones, and members of .npz archives, which are read row by row."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError

Array = NDArray[Any]
Chunks = Callable[[int], Iterator[dict[str, Array]]]


def array_chunks(arrays: Mapping[str, Array], name: str) -> Chunks:
    """Return a function that yields arrays some rows at a time."""
    lengths = {key: array.shape[0] if array.ndim else 0 for key, array in arrays.items()}
    _check(lengths, name)

    def chunks(size: int) -> Iterator[dict[str, Array]]:
        for start in range(0, min(lengths.values()), size):
            yield {key: array[start : start + size] for key, array in arrays.items()}

    return chunks


def npz_chunks(path: str) -> Chunks:
    """Return a function that yields the members of an .npz archive some rows at a time; none is ever held whole."""
    name = f"--data {path}"
    with zipfile.ZipFile(path) as archive:
        keys = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        lengths = {}
        for key in keys:
            with archive.open(f"{key}.npy") as file:
                lengths[key] = _Rows(file, f"{name}: '{key}'").count
    _check(lengths, name)

    def chunks(size: int) -> Iterator[dict[str, Array]]:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            files = {key: stack.enter_context(archive.open(f"{key}.npy")) for key in keys}
            rows = {key: _Rows(file, f"{name}: '{key}'") for key, file in files.items()}
            for start in range(0, lengths[keys[0]], size):
                yield {key: own.read(min(size, own.count - start)) for key, own in rows.items()}

    return chunks


def _check(lengths: Mapping[str, int], name: str) -> None:
    if not lengths or 0 in lengths.values():
        raise UsageError(f"{name}: holds no samples")
    if len(set(lengths.values())) > 1:
        raise UsageError(f"{name}: as many samples of each are wanted, not {dict(lengths)}")


class _Rows:
    """An .npy file, opened for reading its rows one after the other."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, self._dtype = header(file)
        if fortran and len(shape) > 1:
            raise UsageError(f"{name} lies in Fortran order; save it with numpy.ascontiguousarray")
        if self._dtype.hasobject:
            raise UsageError(f"{name} holds Python objects, not numbers")
        self._file, self._row = file, tuple(shape[1:])
        self.count = int(shape[0]) if shape else 0

    def read(self, count: int) -> Array:
        """Return the next rows, [count, ...]."""
        data = self._file.read(count * math.prod(self._row) * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype).reshape(count, *self._row)
