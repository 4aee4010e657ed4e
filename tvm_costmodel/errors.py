"""Every error that the package raises on purpose.

A message holds what failed, the value that was given, what is allowed, and the command or argument
that fixes it, so that it reads the same from Python and from the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class CostModelError(Exception):
    """Root of the package's errors.

    Attributes:
        exit_code: What the command line exits with: 2 for bad input, 1 for work that failed.
    """

    exit_code = 2


class ConfigError(CostModelError):
    """A setting, option or TOML key is unknown or out of range."""


class GraphError(CostModelError):
    """A graph is malformed: bad JSON, a dangling edge, a shape that does not fit."""


class ModelFileError(CostModelError):
    """A model file cannot be read or imported."""


class UnsupportedOperatorError(CostModelError):
    """An operator has no canonical name, or a front end or compiler cannot take it."""


class DeviceError(CostModelError):
    """A device is unknown, unreachable or not the one that was requested."""


class CheckpointError(CostModelError):
    """A checkpoint is missing, foreign, damaged or made for something else."""


class StoreError(CostModelError):
    """A measurement store cannot be opened, read or written."""


class BadRowError(StoreError):
    """A row of a store or label file holds what no measurement gives, or is damaged."""


class MissingDependencyError(CostModelError):
    """An optional package that this call needs is not installed."""

    @classmethod
    def of_import(cls, error: ModuleNotFoundError) -> MissingDependencyError:
        """The error of an import that found no module, with the package to install."""
        module = (error.name or "").partition(".")[0]
        package = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "google": "protobuf"}
        name = package.get(module, module.replace("_", "-"))
        return cls(
            f"this needs the package {name}, which is not installed: pip install {name} "
            "(`tvm-costmodel doctor` lists everything that is missing, and what for)"
        )


class BuildError(CostModelError):
    """A network could not be compiled."""

    exit_code = 1


class MeasurementError(CostModelError):
    """A compiled network could not be run or timed."""

    exit_code = 1


def require_known(names: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuses a name that is not one of ``known``.

    Raises:
        ConfigError: Names ``what``, the first unknown name, and the nearest known one or all.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise ConfigError(f"{what}: unknown key {name!r}; {hint}")
