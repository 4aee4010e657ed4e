"""Which TVM is installed: a version with Relay, up to 0.19, or one without.

Both provide the module ``tvm``, so an environment has one of them. The installed version is read
from the package's files, without importing it.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tvm_costmodel.errors import MissingDependencyError

RELAY_PACKAGE = "hhb-tvm==3.2.3"
RELAX_PACKAGE = "apache-tvm==0.27.0.post1"
_DISTRIBUTIONS = ("apache-tvm", "hhb-tvm", "apache-tvm-cu121")


def has_relay() -> bool:
    """Whether the installed TVM has Relay."""
    return _has("relay")


def has_relax() -> bool:
    """Whether the installed TVM has the Relax that this package reads, that of 0.20 and later."""
    return _has("relax") and not has_relay()


def require_relay() -> None:
    """Refuses a TVM without Relay.

    Raises:
        MissingDependencyError: TVM is not installed, or it is a version without Relay.
    """
    if has_relay():
        return
    remedy = (
        "make the Relay environment with `bash scripts/relay_environment.sh` and run "
        f"`.venv-relay/bin/tvm-costmodel` (or pip install {RELAY_PACKAGE}, Python 3.10)"
    )
    if _folder() is None:
        raise MissingDependencyError(f"Relay needs TVM 0.19 or older, and none is here: {remedy}")
    raise MissingDependencyError(
        f"this environment has {installed()}, and Relay left TVM at 0.20: {remedy}"
    )


def require_relax() -> None:
    """Refuses a TVM with Relay, whose Relax is an older language.

    Raises:
        MissingDependencyError: TVM is not installed, or it is a version with Relay.
    """
    if has_relax():
        return
    if _folder() is None:
        raise MissingDependencyError(f"this needs TVM: pip install {RELAX_PACKAGE}")
    raise MissingDependencyError(
        f"this environment has {installed()}, which has Relay: add --compiler relay (in Python "
        "from_relay), or use the environment of `bash scripts/environment.sh`"
    )


def installed() -> str:
    """The installed TVM's distribution and version, such as ``hhb-tvm 3.2.3``."""
    for name in _DISTRIBUTIONS:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return f"the TVM in {_folder()}"


def _has(part: str) -> bool:
    folder = _folder()
    return folder is not None and (folder / part / "__init__.py").is_file()


@functools.lru_cache(maxsize=1)
def _folder() -> Path | None:
    spec = importlib.util.find_spec("tvm")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


class _WithoutTorch(MetaPathFinder):
    """Finds ``tvm``, and keeps it from importing torch while it is imported."""

    def __init__(self) -> None:
        self._is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "tvm" or self._is_searching or "torch" in sys.modules:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                self._execute, execute
            )
        return spec

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed", to TVM
        try:
            execute(module)
        finally:
            del sys.modules["torch"]


def import_tvm_without_torch() -> None:
    """Makes the first import of TVM in this program leave torch out, which takes seconds.

    TVM imports torch where that is installed, so that its functions take torch's tensors. A program
    that hands it none loses nothing; torch can still be imported later.
    """
    if "tvm" not in sys.modules:
        sys.meta_path.insert(0, _WithoutTorch())
