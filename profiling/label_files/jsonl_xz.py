"""Label files: JSON Lines, compressed as ``.jsonl.xz``, whose first line is a header."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.bounded_reading import (
    MAX_LINE_BYTES,
    parse_json,
    parse_object,
    read_line,
    unpack_xz,
)
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.devices import name_by_processor
from tvm_costmodel.profiling.store.serialization import dumps


@dataclass(frozen=True)
class LineFormat:
    """A kind of label file.

    Attributes:
        name: ``format`` in its header.
        version: ``version`` in its header; another one is refused.
        what: What messages call the file.
        required: What its header holds.
    """

    name: str
    version: int
    what: str
    required: tuple[str, ...]

    def write(self, path: str | Path, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes a header and the lines after it, atomically; equal lines give equal bytes.

        Raises:
            StoreError: The file cannot be written.
        """
        text = "".join(dumps(line) + "\n" for line in lines)
        packed = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
        try:
            write_atomically(path, packed)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error}; free space or choose another path"
            ) from error

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yields the header, checked, then every further line.

        A device that an older version named by instruction set gets its processor's name.

        Raises:
            StoreError: The file is missing, foreign, damaged or of another version, or holds
                labels of several processors under one name.
        """
        if not path.exists():
            raise StoreError(
                f"{path} does not exist; give a .db store or an exported .jsonl.xz file"
            )
        try:
            with unpack_xz(path) as stream:
                header = parse_json(read_line(stream) or "{}")
                if not isinstance(header, dict) or header.get("format") != self.name:
                    raise StoreError(
                        f"{path} is not a {self.what} file of this package (no such header)"
                    )
                if header.get("version") != self.version:
                    raise StoreError(
                        f"{path} has {self.what} format {header.get('version')}, this version "
                        f"reads {self.version}; export the store again with this version"
                    )
                if absent := [name for name in self.required if name not in header]:
                    raise StoreError(
                        f"{path} is damaged: its header lacks {', '.join(absent)}; export it again"
                    )
                yield _named_by_processor(header, path)
                while text := read_line(stream):
                    yield parse_object(text, MAX_LINE_BYTES)
        except (lzma.LZMAError, EOFError, ValueError) as error:
            raise StoreError(
                f"{path} is damaged or not an .xz {self.what} file: {error}"
            ) from error


def _named_by_processor(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """The header with its device named by the processor of its environments."""
    device, environments = header.get("device"), header.get("environments")
    if not isinstance(device, str) or not isinstance(environments, dict):
        return header  # which its reader refuses
    facts = [f.get("cpu") for f in environments.values() if isinstance(f, dict)]
    names = sorted({name_by_processor(device, cpu) for cpu in facts if isinstance(cpu, dict)})
    if len(names) > 1:
        raise StoreError(
            f"{path} holds labels of several processors under one name ({', '.join(names)}): "
            "export each device's labels from the store that they are of"
        )
    return header | {"device": names[0] if names else device}
