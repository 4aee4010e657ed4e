"""Loads the native extension, where ``pip install`` could build it."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.errors import MissingDependencyError
from tvm_costmodel.frontends.graph_arrays import ARRAY_FIELDS, WALK_VERSION, GraphArrays

logger = logging.getLogger(__name__)

LIBRARY = Path(__file__).resolve().parents[2] / "_native.so"


def native_available() -> bool:
    """Whether the native walk was built, loads, and knows the installed TVM.

    Otherwise `tvm_costmodel.frontends.relax.walk` is used, about 20 times slower.
    """
    return _load()[0] is not None


def unavailable_because() -> str:
    """Why the native walk cannot be used; empty where it can."""
    return _load()[1]


def walk(function: Any, inputs: int) -> GraphArrays:
    """The native counterpart of `tvm_costmodel.frontends.relax.walk.walk`.

    Raises:
        MissingDependencyError: The extension is not there or does not fit the installed TVM.
    """
    columns = dict(_extension().walk_relax(function, inputs).items())
    arrays = {name: np.from_dlpack(columns[name]) for name in ARRAY_FIELDS}
    return GraphArrays(
        strings=columns["strings"].split("\0")[:-1],
        names=columns["names"].split("\0")[:-1],
        **arrays,
    )


def check_field(type_key: str, field: str) -> None:
    """Makes sure that the installed TVM has a type with such a field.

    Raises:
        AttributeError: It has not; the message names what is missing.
        MissingDependencyError: The extension is not there.
    """
    _extension().check_field(type_key, field)


def _extension() -> Any:
    extension, why_not = _load()
    if extension is None:
        raise MissingDependencyError(why_not)
    return extension


@functools.lru_cache(maxsize=1)
def _load() -> tuple[Any, str]:
    """(the loaded extension or None, why it is None)."""
    rebuild = "install tvm-costmodel from its source, with a C++17 compiler at hand: pip install ."
    if not LIBRARY.exists():
        return None, f"the native extension was not built ({LIBRARY} is missing): {rebuild}"
    try:
        import tvm  # noqa: F401  # registers the types that the walk reads
        import tvm_ffi

        extension = tvm_ffi.load_module(str(LIBRARY))
        if extension.walk_version() != WALK_VERSION:
            raise RuntimeError("it was built from an older source")
        extension.check_schema()
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        why_not = f"the native extension does not work here ({error}): {rebuild}"
        logger.warning("%s; the slower Python walk is used", why_not)
        return None, why_not
    return extension, ""
