"""Reads and writes an ONNX file without copying its weights.

A protobuf message is a flat run of fields, so one walk over ModelProto, GraphProto and its initializers finds where each large
`raw_data` lies. The rest, a few hundred kilobytes at most, is parsed as usual; the weights stay in the mapped file.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from onnx_reconvene.errors import ModelError

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # field numbers in onnx.proto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
LONGEST_VARINT = 10  # bytes
MAPPED_FROM = 4096  # bytes; smaller tensors are parsed with the rest
Buffer = mmap.mmap | bytes


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and where it, and for BYTES its content, lies."""

    number: int
    start: int
    content: int
    end: int


def _varint(buffer: Buffer, at: int) -> tuple[int, int]:
    value = 0
    for index in range(LONGEST_VARINT):
        byte = buffer[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise IndexError(f"a number of more than {LONGEST_VARINT} bytes at offset {at}")


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(buffer: Buffer, at: int, end: int) -> Iterator[Field]:
    while at < end:
        tag, content = _varint(buffer, at)
        wire = tag & 7
        if wire == BYTES:
            size, content = _varint(buffer, content)
            after = content + size
        elif wire == VARINT:
            _, after = _varint(buffer, content)
        elif wire in (FIXED32, FIXED64):
            after = content + (4 if wire == FIXED32 else 8)
        else:
            raise IndexError(f"wire type {wire}")
        if after > end:
            raise IndexError(f"a field of {after - content} bytes at offset {at} runs past the end")
        yield Field(tag >> 3 if wire == BYTES else 0, at, content, after)
        at = after


def _message(number: int, parts: list[bytes]) -> bytes:
    content = b"".join(parts)
    return _head(number, len(content)) + content


def _map(path: str) -> Buffer:
    """Return what is in the regular file at path. Raises OSError for all else, without waiting for a pipe that nobody writes to."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        os.close(descriptor)


def mapped(path: str, offset: int, length: int | None) -> NDArray[np.uint8]:
    """Return length bytes (None: all) of the file at path from offset on, mapped.

    Raises OSError where it cannot be read, ValueError where it holds fewer.
    """
    buffer = _map(path)
    length = len(buffer) - offset if length is None else length
    if length < 0 or offset + length > len(buffer):
        raise ValueError(f"{os.path.basename(path)} has {len(buffer)} bytes, not {length} from {offset} on")
    return np.frombuffer(buffer, np.uint8, length, offset) if length else np.empty(0, np.uint8)


def split(path: str) -> tuple[bytes, dict[int, NDArray[np.uint8]]]:
    """Return the model at path without the raw data of its large initializers, and these, mapped, by initializer index.

    Raises ModelError when the file is empty, truncated or no protobuf message.
    """
    try:
        buffer = _map(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not buffer:
        raise ModelError(f"{path}: the file is empty")
    weights: dict[int, NDArray[np.uint8]] = {}
    index = itertools.count()
    try:
        parts = [
            _graph(buffer, field, index, weights) if field.number == GRAPH else buffer[field.start : field.end]
            for field in _fields(buffer, 0, len(buffer))
        ]
    except IndexError as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one ({error})") from error
    return b"".join(parts), weights


def _graph(buffer: Buffer, graph: Field, index: Iterator[int], weights: dict[int, NDArray[np.uint8]]) -> bytes:
    parts = []
    for field in _fields(buffer, graph.content, graph.end):
        if field.number == INITIALIZER:
            parts.append(_tensor(buffer, field, next(index), weights))
        else:
            parts.append(buffer[field.start : field.end])
    return _message(GRAPH, parts)


def _tensor(buffer: Buffer, tensor: Field, index: int, weights: dict[int, NDArray[np.uint8]]) -> bytes:
    fields = list(_fields(buffer, tensor.content, tensor.end))
    raw = next((field for field in reversed(fields) if field.number == RAW_DATA), None)  # of several, the last counts
    if raw is not None and raw.end - raw.content >= MAPPED_FROM:
        weights[index] = np.frombuffer(buffer, np.uint8, raw.end - raw.content, raw.content)
        fields = [field for field in fields if field.number != RAW_DATA]
    return _message(INITIALIZER, [buffer[field.start : field.end] for field in fields])


def join(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """Yield the parts of a file that holds model, the data of its initializers taken from weights by name."""
    graph, rest = onnx.GraphProto(), onnx.ModelProto()
    rest.CopyFrom(model)
    initializers = list(rest.graph.initializer)
    graph.CopyFrom(rest.graph)
    del graph.initializer[:]
    parts: list[bytes | memoryview] = [graph.SerializeToString()]
    for tensor in initializers:
        stub = tensor.SerializeToString()
        data = np.ascontiguousarray(weights[tensor.name]) if tensor.name in weights else None
        raw = b"" if data is None else _head(RAW_DATA, data.nbytes)
        parts += [_head(INITIALIZER, len(stub) + len(raw) + (0 if data is None else data.nbytes)), stub, raw]
        if data is not None:
            parts.append(data.reshape(-1).view(np.uint8).data)
    rest.ClearField("graph")
    yield rest.SerializeToString()
    yield _head(GRAPH, sum(len(part) for part in parts))
    yield from parts


def _head(number: int, size: int) -> bytes:
    return _encode(number << 3 | BYTES) + _encode(size)


def copy_fields(source: Message, target: Message, but: str) -> None:
    """Copy all fields of a protobuf message but one."""
    for descriptor, value in source.ListFields():
        if descriptor.name == but:
            continue
        if descriptor.is_repeated:
            target.ClearField(descriptor.name)
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)
