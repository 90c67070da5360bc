"""Arrays of samples, cut into chunks: mapped ones, and members of .npz archives, which are read row by row."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.errors import UsageError

Array = NDArray[Any]
Chunks = Callable[[int], Iterator[dict[str, Array]]]


def array_chunks(arrays: Mapping[str, Array], name: str, axes: Mapping[str, int]) -> Chunks:
    """Return a function that yields arrays some samples at a time; axes says where samples lie on other axes than the first."""
    lengths = {key: _size(array.shape, axes.get(key, 0)) for key, array in arrays.items()}
    _check(lengths, name)

    def chunks(size: int) -> Iterator[dict[str, Array]]:
        for start in range(0, min(lengths.values()), size):
            rows = slice(start, start + size)
            yield {key: array[(*[slice(None)] * axes.get(key, 0), rows)] for key, array in arrays.items()}

    return chunks


def npz_chunks(path: str, axes: Mapping[str, int]) -> Chunks:
    """Return a function that yields the members of an .npz archive some samples at a time; axes as for arrays. No member is ever
    held whole whose samples lie on the first axis."""
    name = f"--data {path}"
    with zipfile.ZipFile(path) as archive:
        keys = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        lengths = {}
        for key in keys:
            with archive.open(f"{key}.npy") as file:
                lengths[key] = _Rows(file, f"{name}: '{key}'", axes.get(key, 0)).count
    _check(lengths, name)

    def chunks(size: int) -> Iterator[dict[str, Array]]:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            files = {key: stack.enter_context(archive.open(f"{key}.npy")) for key in keys}
            rows = {key: _Rows(file, f"{name}: '{key}'", axes.get(key, 0)) for key, file in files.items()}
            for start in range(0, lengths[keys[0]], size):
                yield {key: own.read(min(size, own.count - start)) for key, own in rows.items()}

    return chunks


def _size(shape: Sequence[int], axis: int) -> int:
    return int(shape[axis]) if axis < len(shape) else 0


def _check(lengths: Mapping[str, int], name: str) -> None:
    if not lengths or 0 in lengths.values():
        raise UsageError(f"{name}: holds no samples")
    if len(set(lengths.values())) > 1:
        raise UsageError(f"{name}: as many samples of each are wanted, not {dict(lengths)}")


class _Rows:
    """An .npy file, opened for reading its rows one after the other, or what lies along another axis."""

    def __init__(self, file: IO[bytes], name: str, axis: int) -> None:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, self._dtype = header(file)
        if fortran and len(shape) > 1:
            raise UsageError(f"{name} lies in Fortran order; save it with numpy.ascontiguousarray")
        if self._dtype.hasobject:
            raise UsageError(f"{name} holds Python objects, not numbers")
        self._file, self._shape, self._axis = file, tuple(shape), axis
        self._rest: Array | None = None  # if it has to be held whole
        self.count = _size(shape, axis)

    def read(self, count: int) -> Array:
        """Return the next rows."""
        if not self._axis:
            return self._values(count, *self._shape[1:])
        rest = self._values(*self._shape) if self._rest is None else self._rest
        rows, self._rest = np.split(rest, [count], self._axis)
        return rows

    def _values(self, *shape: int) -> Array:
        return np.frombuffer(self._file.read(math.prod(shape) * self._dtype.itemsize), self._dtype).reshape(shape)
