"""Reads and writes an ONNX file without copying its weights.

A protobuf message is a flat run of fields, so one walk over ModelProto, GraphProto and its initializers finds where each large
`raw_data` lies. The rest, a few hundred kilobytes at most, is parsed as usual; the weights stay in the mapped file.
"""

from __future__ import annotations

import itertools
import mmap
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
MAPPED_FROM = 4096  # bytes; smaller tensors are parsed with the rest


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and where it, and for BYTES its content, lies."""

    number: int
    start: int
    content: int
    end: int


def _varint(buffer: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(buffer: mmap.mmap, at: int, end: int) -> Iterator[Field]:
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


def split(path: str) -> tuple[bytes, dict[int, NDArray[np.uint8]]]:
    """Return the model at path without the raw data of its large initializers, and these, mapped, by initializer index.

    Raises ModelError when the file is empty, truncated or no protobuf message.
    """
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            raise ModelError(f"{path}: the file is empty")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
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


def _graph(buffer: mmap.mmap, graph: Field, index: Iterator[int], weights: dict[int, NDArray[np.uint8]]) -> bytes:
    parts = []
    for field in _fields(buffer, graph.content, graph.end):
        if field.number == INITIALIZER:
            parts.append(_tensor(buffer, field, next(index), weights))
        else:
            parts.append(buffer[field.start : field.end])
    return _message(GRAPH, parts)


def _tensor(buffer: mmap.mmap, tensor: Field, index: int, weights: dict[int, NDArray[np.uint8]]) -> bytes:
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
