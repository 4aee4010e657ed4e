"""A library that another program built, as an executable of this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from tvm.relax.vm_build import VMExecutable


class BuiltLibrary(VMExecutable):
    """An executable from a library's file, which may be gone afterwards.

    Args:
        path: The library, for this machine.
        compiled: Gives the same executable compiled in this program, which alone can be exported.
    """

    def __init__(self, path: Path, compiled: Callable[[], VMExecutable]) -> None:
        super().__init__(tvm.runtime.load_module(str(path)))
        self._compiled = compiled

    def export_library(self, file_name: str, **options: Any) -> Any:
        """As that of TVM's executables, whose arguments it takes."""
        return self._compiled().export_library(file_name, **options)
