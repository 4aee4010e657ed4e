"""Every compiler by name, and how a name is looked up."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from tvm_costmodel.compilers.compiler import Compiler
from tvm_costmodel.compilers.relax.compiler import RELAX
from tvm_costmodel.compilers.relay.compiler import RELAY
from tvm_costmodel.errors import ConfigError

COMPILERS: Mapping[str, Compiler] = {compiler.name: compiler for compiler in (RELAX, RELAY)}
"""The compilers of this package, the usual one first."""

DEFAULT_COMPILER = RELAX.name
"""The compiler that is meant where a source, a store or the name of a device names none."""


def known_compiler(name: str) -> Compiler:
    """The compiler of this package that has a name; nothing is imported for it.

    Raises:
        ConfigError: No compiler has this name; the message lists those that exist.
    """
    if name not in COMPILERS:
        raise ConfigError(f"unknown compiler {name!r}; use {' or '.join(COMPILERS)}")
    return COMPILERS[name]


def installed_compiler() -> Compiler:
    """The compiler that the installed TVM has; the default one where there is no TVM."""
    installed = (compiler for compiler in COMPILERS.values() if compiler.is_installed())
    return next(installed, COMPILERS[DEFAULT_COMPILER])


def compiler_named(name: str) -> Compiler:
    """The compiler that a caller names, which may be one of the caller's own.

    A name with a colon is imported, so one from a file (a store, a label file, a source) goes to
    `known_compiler` instead.

    Args:
        name: A name from `COMPILERS`, or ``package.module:ATTRIBUTE`` for an object that has the
            members of `tvm_costmodel.compilers.compiler.Compiler`.

    Raises:
        ConfigError: No compiler has this name, or the module no such attribute.
        ImportError: The module does not import.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return known_compiler(name)
    module = importlib.import_module(module_name)
    if not hasattr(module, attribute):
        raise ConfigError(f"compiler {name!r}: module {module_name} has no {attribute!r}")
    compiler: Compiler = getattr(module, attribute)
    return compiler
