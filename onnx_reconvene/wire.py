"""Reads and writes an ONNX file without copying its weights.

A protobuf message is a flat run of fields, so one walk over ModelProto, GraphProto, its initializers and its large nodes finds
where each large `raw_data` lies. The rest, a few hundred kilobytes at most, is parsed as usual; weights stay in the mapped file.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from onnx_reconvene.errors import ModelError

GRAPH, INITIALIZER, NODE, ATTRIBUTE, TENSOR, RAW_DATA = 7, 5, 1, 5, 5, 9  # field numbers in onnx.proto
PATHS = {INITIALIZER: (RAW_DATA,), NODE: (ATTRIBUTE, TENSOR, RAW_DATA)}  # where data lie in the fields of a graph
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
LONGEST_VARINT = 10  # bytes
MAPPED_FROM = 4096  # bytes; smaller tensors are parsed with the rest
Buffer = mmap.mmap | bytes
Weights = dict[tuple[int, int], NDArray[np.uint8]]  # by the number and the index of a field of a graph


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


def split(path: str) -> tuple[bytes, Weights]:
    """Return the model at path without the raw data of its large initializers and of nodes with one large tensor, and these data,
    mapped.

    Raises ModelError when the file is empty, truncated or no protobuf message.
    """
    try:
        buffer = _map(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not buffer:
        raise ModelError(f"{path}: the file is empty")
    weights: Weights = {}
    index = {number: itertools.count() for number in PATHS}
    try:
        parts = [
            _graph(buffer, field, index, weights) if field.number == GRAPH else buffer[field.start : field.end]
            for field in _fields(buffer, 0, len(buffer))
        ]
    except IndexError as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one ({error})") from error
    return b"".join(parts), weights


def _graph(buffer: Buffer, graph: Field, index: Mapping[int, Iterator[int]], weights: Weights) -> bytes:
    parts = []
    for field in _fields(buffer, graph.content, graph.end):
        path, data = PATHS.get(field.number, ()), None
        number = next(index[field.number]) if path else 0
        if path and field.end - field.start >= MAPPED_FROM:
            part, data = _bare(buffer, field, path)
            parts.append(part)
        else:
            parts.append(buffer[field.start : field.end])
        if data is not None:
            weights[field.number, number] = data
    return _message(GRAPH, parts)


def _bare(buffer: Buffer, field: Field, path: Sequence[int]) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return a field without the large data that lie in it at the end of path, and these, None where there are none."""
    fields = list(_fields(buffer, field.content, field.end))
    inner = [part for part in fields if part.number == path[0]]
    if len(path) == 1 and inner and inner[-1].end - inner[-1].content >= MAPPED_FROM:  # of several, the last counts
        data = np.frombuffer(buffer, np.uint8, inner[-1].end - inner[-1].content, inner[-1].content)
        return _message(field.number, [buffer[part.start : part.end] for part in fields if part not in inner]), data
    if len(path) == 1 or len(inner) != 1:
        return buffer[field.start : field.end], None
    bare, raw = _bare(buffer, inner[0], path[1:])
    return _message(field.number, [bare if part is inner[0] else buffer[part.start : part.end] for part in fields]), raw


def join(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """Yield the parts of a file that holds model, the data of its initializers and Constant nodes taken from weights by name."""
    graph, rest = onnx.GraphProto(), onnx.ModelProto()
    graph.CopyFrom(model.graph)
    del graph.node[:], graph.initializer[:]
    rest.CopyFrom(model)
    rest.ClearField("graph")
    parts: list[bytes | memoryview] = [graph.SerializeToString()]
    for node in model.graph.node:
        constant = node.op_type == "Constant" and node.output[0] in weights
        stubs = _stubs_of_constant(node) if constant else [(NODE, node.SerializeToString())]
        parts += _around(stubs, weights[node.output[0]] if constant else None)
    for tensor in model.graph.initializer:
        parts += _around([(INITIALIZER, tensor.SerializeToString())], weights.get(tensor.name))
    yield rest.SerializeToString()
    yield _head(GRAPH, sum(len(part) for part in parts))
    yield from parts


def _stubs_of_constant(node: onnx.NodeProto) -> list[tuple[int, bytes]]:
    """Return the messages in which the data of a Constant node lie, innermost first, each with its number and without the next."""
    bare, attribute = onnx.NodeProto(), onnx.AttributeProto()
    bare.CopyFrom(node)
    bare.ClearField("attribute")
    attribute.CopyFrom(node.attribute[0])
    attribute.ClearField("t")
    messages = ((TENSOR, node.attribute[0].t), (ATTRIBUTE, attribute), (NODE, bare))
    return [(number, message.SerializeToString()) for number, message in messages]


def _around(stubs: Sequence[tuple[int, bytes]], array: NDArray[Any] | None) -> list[bytes | memoryview]:
    """Return the parts of a field: messages, innermost first, around the data of array, if any."""
    parts: list[bytes | memoryview] = []
    if array is not None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        parts = [_head(RAW_DATA, len(data)), data]
    for number, stub in stubs:
        parts = [_head(number, len(stub) + sum(map(len, parts))), stub, *parts]
    return parts


def _head(number: int, size: int) -> bytes:
    return _encode(number << 3 | BYTES) + _encode(size)


def copy_fields(source: Message, target: Message, *but: str) -> None:
    """Copy all fields of a protobuf message but those named."""
    for descriptor, value in source.ListFields():
        if descriptor.name in but:
            continue
        if descriptor.is_repeated:
            target.ClearField(descriptor.name)
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)
