"""Damaged copies of ONNX files: fields of the protobuf message are changed, or bytes of the file; the same seed gives the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Spot = tuple[Message, FieldDescriptor]
NUMBERS = (0, 1, -1, 2, 3, 7, 16, 127, 255, 2**16, 2**28, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, -(2**63))
REALS = (0.0, -1.0, 1.0, 0.5, 1e-30, 3e38, float("inf"), float("nan"))
TEXTS = ("", "x", "y", "/", "ai.onnx", "com.microsoft", "NOTSET", "SAME_UPPER", "constant", "é" * 3, "a" * 3000, "\n\x1b[31m")
SIGNED_32 = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM)
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})
MOST_SPOTS = 3  # changed in one file


def mutated(content: bytes, others: list[bytes], seed: str) -> bytes:
    """Return a damaged copy of a file; others: files whose parts may be put in."""
    rng = random.Random(seed)
    if rng.random() < 0.2:
        return _with_other_bytes(content, rng)
    model, donor = onnx.ModelProto.FromString(content), onnx.ModelProto.FromString(rng.choice(others))
    for _ in range(rng.randint(1, MOST_SPOTS)):
        spots = list(_spots(model))
        message, field = rng.choice(_interesting(spots) if rng.random() < 0.7 else spots)
        _change(message, field, donor, rng)
    content = model.SerializePartialToString()
    return _with_other_bytes(content, rng) if rng.random() < 0.05 else content


def _with_other_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return content with some bytes flipped, left out, put in, or cut off at the end."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        few = rng.choice((1, 1, 2, 4, 16))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[at : at + few]
        elif kind == 3:
            data[at:at] = rng.choice((rng.randbytes(few), b"\xff" * few, bytes(data[at : at + few])))
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def _spots(message: Message) -> Iterator[Spot]:
    """Yield the fields of a message, set or not, and of those in it."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            yield message, field
        elif field.is_repeated:
            yield message, field
            for part in value:
                yield from _spots(part)
        elif message.HasField(field.name):
            yield message, field
            yield from _spots(value)


def _interesting(spots: list[Spot]) -> list[Spot]:
    """Return the fields that are set and do not only describe."""
    return [
        (message, field)
        for message, field in spots
        if field.name != "doc_string" and (len(getattr(message, field.name)) if field.is_repeated else message.HasField(field.name))
    ] or spots


def _change(message: Message, field: FieldDescriptor, donor: onnx.ModelProto, rng: random.Random) -> None:
    value = getattr(message, field.name)
    kind = rng.random()
    if field.is_repeated:
        _change_list(value, field, donor, rng)
    elif kind < 0.15:
        message.ClearField(field.name)
    elif field.message_type is not None:
        if (part := _like(donor, field, rng)) is not None:
            value.CopyFrom(part)
    else:
        setattr(message, field.name, _other(value, field, donor, rng))


def _change_list(values: Any, field: FieldDescriptor, donor: onnx.ModelProto, rng: random.Random) -> None:
    """Remove, repeat, exchange, add or change elements of a repeated field."""
    at = rng.randrange(len(values)) if len(values) else None
    action = rng.choice(("remove", "repeat", "exchange", "add", "change", "change", "empty"))
    kept = list(values)
    if action == "empty":
        kept = [] if rng.random() < 0.3 else kept
    elif action == "add" or at is None:
        part = _like(donor, field, rng) if field.message_type is not None else _other(_blank(field), field, donor, rng)
        kept += [] if part is None else [part]
    elif action == "remove":
        del kept[at]
    elif action == "repeat":
        kept.insert(at, kept[at])
    elif action == "exchange":
        other = rng.randrange(len(kept))
        kept[at], kept[other] = kept[other], kept[at]
    elif field.message_type is None:
        kept[at] = _other(kept[at], field, donor, rng)
    elif (part := _like(donor, field, rng)) is not None:
        kept[at] = part
    copies = [part if field.message_type is None else _copied(part) for part in kept]
    del values[:]
    values.extend(copies)


def _copied(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _like(donor: Message, field: FieldDescriptor, rng: random.Random) -> Message | None:
    """Return some message of the type of field out of donor, None where it holds none."""
    parts = [part for part in _messages(donor) if part.DESCRIPTOR.full_name == field.message_type.full_name]
    return rng.choice(parts) if parts else None


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _messages(part)


def _blank(field: FieldDescriptor) -> Any:
    return {FieldDescriptor.CPPTYPE_STRING: "" if field.type == field.TYPE_STRING else b""}.get(field.cpp_type, 0)


def _other(value: Any, field: FieldDescriptor, donor: onnx.ModelProto, rng: random.Random) -> Any:
    """Return another value for a field of numbers or text."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([entry.number for entry in field.enum_type.values])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(REALS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _with_other_bytes(value or b"x", rng)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _other_text(field, donor, rng)
    near = rng.choice((value + 1, value - 1, 2 * value, -value, value // 2, rng.choice(NUMBERS)))
    return _within(near, field)


def _other_text(field: FieldDescriptor, donor: onnx.ModelProto, rng: random.Random) -> str:
    if field.name == "op_type" and rng.random() < 0.9:
        return rng.choice(OPERATORS)
    names = [name for node in donor.graph.node for name in [*node.input, *node.output, node.name]]
    return rng.choice([*names, *TEXTS]) if rng.random() < 0.8 else rng.choice(TEXTS)


def _within(value: int, field: FieldDescriptor) -> int:
    """Return a value that fits the type of field: its low bits, as a reader of protobuf would take it."""
    signed = field.cpp_type in (*SIGNED_32, FieldDescriptor.CPPTYPE_INT64)
    bits = 32 if field.cpp_type in (*SIGNED_32, FieldDescriptor.CPPTYPE_UINT32) else 64
    value &= 2**bits - 1
    return value - 2**bits if signed and value >> (bits - 1) else value


Mutator = Callable[[bytes, list[bytes], str], bytes]
