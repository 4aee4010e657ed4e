"""Records of a TFRecord file, checksums verified.

A record is its length (uint64), a checksum of these eight bytes (uint32), the payload, and a
checksum of the payload, all little-endian. A checksum is a CRC-32C, rotated right by 15 bits, plus
0xa282ead8 (TensorFlow's guide to ``tf.python_io``, "TFRecords Format Details").
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tvm_costmodel.errors import ModelFileError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_BATCH = 4096  # payloads whose checksums are worked out together
_LONGEST = 1 << 26


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


_TABLE = _table()
_TABLE_INTS: list[int] = [int(entry) for entry in _TABLE]


def masked_checksum(content: bytes) -> int:
    """Checksum of one string of bytes, as a TFRecord file stores it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE_INTS[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return _masked(crc ^ 0xFFFFFFFF)


def masked_checksums(contents: Sequence[bytes]) -> np.ndarray:
    """Checksums of many strings at once, uint32; byte by byte, but all strings in step."""
    lengths = np.array([len(content) for content in contents])
    order = np.argsort(-lengths, kind="stable")
    block = np.zeros((len(contents), int(lengths.max(initial=0))), dtype=np.uint8)
    for row, at in enumerate(order):
        block[row, : lengths[at]] = np.frombuffer(contents[int(at)], dtype=np.uint8)
    crc = np.full(len(contents), 0xFFFFFFFF, dtype=np.uint32)
    columns = np.ascontiguousarray(block.T)
    going = np.searchsorted(-lengths[order], -np.arange(len(columns)), side="left")
    for column, count in zip(columns, going, strict=True):
        part = crc[:count]
        crc[:count] = _TABLE[(part ^ column[:count]) & 0xFF] ^ (part >> np.uint32(8))
    checksums = np.empty(len(contents), dtype=np.uint32)
    checksums[order] = crc ^ np.uint32(0xFFFFFFFF)
    turned = (checksums >> np.uint32(15)) | (checksums << np.uint32(17))
    masked: np.ndarray = turned + np.uint32(_MASK)
    return masked


def read_tfrecords(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Payloads of an uncompressed TFRecord file, in order.

    Raises:
        ModelFileError: The file cannot be read, is no TFRecord file, is truncated, or a checksum
            does not fit.
    """
    try:
        with Path(path).open("rb") as stream:
            first, payloads, checksums = 0, [], []
            for payload, checksum in _framed(stream, path):
                payloads.append(payload)
                checksums.append(checksum)
                if len(payloads) == _BATCH:
                    yield from _verified(payloads, checksums, first, path)
                    first, payloads, checksums = first + _BATCH, [], []
            yield from _verified(payloads, checksums, first, path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _framed(stream: BinaryIO, path: str | os.PathLike[str]) -> Iterator[tuple[bytes, int]]:
    number = 0
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _truncated(path, number)
        length, checksum = _HEADER.unpack(header)
        if masked_checksum(header[:8]) != checksum or length > _LONGEST:
            what = "damaged" if number else "no TFRecord file (or a compressed or damaged one)"
            raise ModelFileError(
                f"{path}: {what}: the length of record {number} does not fit its checksum; "
                "download it again"
            )
        payload, footer = stream.read(length), stream.read(_FOOTER.size)
        if len(footer) < _FOOTER.size:
            raise _truncated(path, number)
        yield payload, _FOOTER.unpack(footer)[0]
        number += 1


def _verified(
    payloads: Sequence[bytes], checksums: Sequence[int], first: int, path: str | os.PathLike[str]
) -> Sequence[bytes]:
    wrong = np.flatnonzero(masked_checksums(payloads) != np.array(checksums, dtype=np.uint32))
    if len(wrong):
        raise ModelFileError(
            f"{path}: damaged: record {first + int(wrong[0])} does not fit its checksum; "
            "download it again"
        )
    return payloads


def _truncated(path: str | os.PathLike[str], number: int) -> ModelFileError:
    return ModelFileError(f"{path}: truncated within record {number}; download it again")


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF
