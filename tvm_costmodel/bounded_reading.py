"""Reading what others wrote within bounds: JSON of bounded size and depth, bounded unpacking.

Every file or stored blob whose content is not trusted is read through these functions, so that a
small file cannot unfold into more memory than the machine has and deep nesting cannot exhaust the
stack. They raise ValueError, which each reader turns into an error that names its file.
"""

from __future__ import annotations

import io
import json
import lzma
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_DEPTH = 64
"""Deepest nesting of lists and objects in any JSON."""
MAX_SMALL_BYTES = 16 << 20
"""Largest card, description of a device or other JSON that a person could read."""
MAX_JSON_BYTES = 4 << 30
"""Largest JSON of a model, whose weights are part of the text."""
MAX_LINE_BYTES = 64 << 20
"""Longest line of a label file: one network with its kernels."""
MAX_LABELS_BYTES = 2 << 30
"""Largest label file, unpacked."""
MAX_BLOB_BYTES = 64 << 20
"""Largest blob of a store, unpacked: the graph of one network."""
MAX_RATIO, RATIO_FREE_BYTES = 200, 8 << 20
"""Most bytes that a packed byte gives, beyond a first few MiB; graphs of networks give 10 to 40."""

_BRACKETS = b'"[]{}'
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))


def parse_json(text: str | bytes, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parses JSON of bounded size and depth.

    Args:
        text: The JSON.
        max_bytes: Its largest length.

    Raises:
        ValueError: No JSON, too long, or nested deeper than `MAX_DEPTH`.
    """
    if len(text) > max_bytes:
        raise ValueError(f"{len(text)} bytes of JSON, at most {max_bytes} are read")
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    depth = _depth(content)
    if depth > MAX_DEPTH:
        raise ValueError(f"nested {depth} deep, at most {MAX_DEPTH} is read")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"nested too deeply, at most {MAX_DEPTH} is read") from None


def parse_object(text: str | bytes, max_bytes: int = MAX_SMALL_BYTES) -> dict[str, Any]:
    """Parses a JSON object; arguments and errors as `parse_json`, and ValueError for the rest."""
    value = parse_json(text, max_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def read_small(path: Path, max_bytes: int = MAX_SMALL_BYTES) -> str:
    """Reads a text file that has to be small.

    Raises:
        ValueError: It is larger than ``max_bytes`` or no UTF-8.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"larger than {max_bytes >> 20} MiB, the most that is read")
    return content.decode("utf-8")


def unpack_zlib(blob: object, max_bytes: int = MAX_BLOB_BYTES) -> bytes:
    """Unpacks a zlib blob.

    Raises:
        ValueError: No bytes, damaged, or larger than ``max_bytes`` when unpacked.
    """
    if not isinstance(blob, bytes):
        raise ValueError(f"expected packed bytes, got {type(blob).__name__}")
    max_bytes = min(max_bytes, RATIO_FREE_BYTES + MAX_RATIO * len(blob))
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(blob, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from None
    if len(content) > max_bytes:
        raise ValueError(f"unpacks to more than {max_bytes >> 20} MiB, the most that is read")
    if not unpacker.eof:
        raise ValueError("truncated")
    return content


def unpack_xz(path: Path, max_bytes: int = MAX_LABELS_BYTES) -> BinaryIO:
    """Opens an ``.xz`` file for reading; reading past ``max_bytes`` raises ValueError.

    Raises:
        OSError: It cannot be read.
    """
    most = min(max_bytes, RATIO_FREE_BYTES + MAX_RATIO * path.stat().st_size)
    return io.BufferedReader(_BoundedXz(path, most), 1 << 20)


def read_line(stream: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> str:
    """The next line of a stream, empty at its end.

    Raises:
        ValueError: The line is longer than ``max_bytes`` or no UTF-8.
    """
    line = stream.readline(max_bytes + 1)
    if len(line) > max_bytes:
        raise ValueError(f"a line is longer than {max_bytes >> 20} MiB, the most that is read")
    return line.decode("utf-8")


def require_types(record: Mapping[str, Any], types: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuses a record whose fields have other types; absent fields are not looked at.

    Raises:
        ValueError: Names the first field, its value and the type that it should have.
    """
    for name, expected in types.items():
        if name not in record:
            continue
        value = record[name]
        kinds = expected if isinstance(expected, tuple) else (expected,)
        is_wrong_bool = isinstance(value, bool) and bool not in kinds
        if not isinstance(value, kinds) or is_wrong_bool:
            listed = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{name} is {_short(value)}, not {listed}")


def require_sizes(
    description: Mapping[str, Any], weights: Path, apart: Collection[str] = ()
) -> None:
    """Refuses a network that is described as larger than its weights, before it is made.

    Args:
        description: JSON values from which the network is made.
        weights: Its weights; other files than safetensors are not looked at.
        apart: Fields that are no sizes.

    Raises:
        ValueError: An integer is negative, or larger than every extent and the number of tensors.
    """
    if weights.suffix != ".safetensors":
        return
    with weights.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = parse_object(stream.read(min(length, MAX_SMALL_BYTES + 1)))
    shapes = [entry.get("shape", ()) for entry in header.values()]
    largest = max(len(shapes), *(extent for shape in shapes for extent in shape))
    waiting = [description]
    while waiting:
        for name, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            elif type(value) is int and name not in apart and not 0 <= value <= largest:
                raise ValueError(
                    f"{name} is {value}, and no extent of its weights is over {largest}"
                )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _depth(content: bytes) -> int:
    """The deepest nesting outside of strings."""
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return 0
    if b"\\" in content:
        content = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = content.translate(None, _OTHERS)
    outside = np.frombuffer(b"".join(brackets.split(b'"')[::2]), dtype=np.uint8)
    opening = (outside == ord("[")) | (outside == ord("{"))
    step = np.where(opening, 1, -1).astype(np.int32)
    return int(np.cumsum(step).max(initial=0))


class _BoundedXz(io.RawIOBase):
    """An ``.xz`` stream that stops with ValueError once too much has been unpacked."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__()
        self._file = lzma.open(path, "rb", format=lzma.FORMAT_XZ)  # noqa: SIM115  # see close
        self._left, self._max = max_bytes, max_bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer, as `io.RawIOBase.readinto`."""
        chunk = self._file.read(min(len(buffer), self._left + 1))
        self._left -= len(chunk)
        if self._left < 0:
            raise ValueError(f"unpacks to more than {self._max >> 20} MiB, the most that is read")
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
