"""Mutated ONNX models that still parse: fields of the protocol buffer changed, dropped, doubled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

NUMBERS = (-1, 0, 1, 2, 3, 7, 16, 1 << 20, (1 << 31) - 1)
LARGE = (-(1 << 62), 1 << 40, (1 << 63) - 1)
FLOATS = (0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5)
TEXTS = (
    "", "x", "y", "w", "c", "Conv", "Loop", "If", "MatMul", "Gemm", "ai.onnx.ml", "com.own", "axis",
    "pads", "shape", "../../etc/hosts", "location", "a" * 2000, "SAME_UPPER", "Reshape", "Softmax",
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The model with a few fields changed."""
    model = ModelProto.FromString(content)
    for _ in range(rng.randint(1, 3)):
        message, field = rng.choice(list(_fields(model)))
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            _change_message(message, field, rng)
        elif field.is_repeated:
            _change_list(getattr(message, field.name), field, rng)
        elif rng.random() < 0.15:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _odd(field, rng))
    return model.SerializeToString()


def _fields(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Every field that is set, of a message and of those within it."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in value if field.is_repeated else [value]:
                yield from _fields(part)


def _change_message(message: Any, field: FieldDescriptor, rng: random.Random) -> None:
    if not field.is_repeated:
        message.ClearField(field.name)
        return
    parts = getattr(message, field.name)
    at = rng.randrange(len(parts))
    if rng.random() < 0.5:
        del parts[at]
    else:
        parts.add().CopyFrom(parts[at])


def _change_list(values: Any, field: FieldDescriptor, rng: random.Random) -> None:
    at = rng.randrange(len(values))
    action = rng.randrange(4)
    if action == 0:
        del values[at]
    elif action == 1:
        values.append(_odd(field, rng))
    else:
        values[at] = _odd(field, rng)


def _odd(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        text = rng.choice(TEXTS)
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice((1, 2, 3, 6, 7, 8))
    wide = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
    number = rng.choice(NUMBERS + (LARGE if wide else ()))
    return abs(number) if field.type == FieldDescriptor.TYPE_UINT64 else number
