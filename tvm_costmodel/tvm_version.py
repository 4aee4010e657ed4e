"""Which TVM is installed: a version with Relay, up to 0.19, or one without.

Both provide the module ``tvm``, so an environment has one of them. The installed version is read
from the package's files, without importing it.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tvm_costmodel.errors import MissingDependencyError

logger = logging.getLogger(__name__)

RELAY_PACKAGE = "hhb-tvm==3.2.3"
RELAX_PACKAGE = "apache-tvm==0.27.0.post1"
_OLDEST, _NEWER = (0, 27), (0, 28)  # as in pyproject.toml
_TESTED = "tested with 0.27.0 and 0.27.0.post1"
_VERSION = r"(?m)^__version__\b.*?=\s*[\"']([^\"']+)[\"']\s*$"
_DISTRIBUTIONS = ("apache-tvm", "hhb-tvm", "apache-tvm-cu121")
_PARTS = ("IRModule", "runtime", "target")  # which every TVM has


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
        MissingDependencyError: TVM is not installed, or it is a version with Relay, or one whose
            Relax has other classes.
    """
    if has_relax():
        _require_known_version()
        return
    if _folder() is None:
        raise MissingDependencyError(f"this needs TVM: pip install {RELAX_PACKAGE}")
    raise MissingDependencyError(
        f"this environment has {installed()}, which has Relay: add --compiler relay (in Python "
        "from_relay), or use the environment of `bash scripts/environment.sh`"
    )


@functools.lru_cache(maxsize=1)
def _require_known_version() -> None:
    """Refuses a TVM that is too old, and warns once of one that nothing was tested with."""
    found = version()
    if found is not None and found < _OLDEST:
        raise MissingDependencyError(
            f"this environment has {installed()}, and this package needs 0.27 ({_TESTED}): "
            f"pip install {RELAX_PACKAGE}"
        )
    if found is not None and found >= _NEWER:
        logger.warning("%s is not known to work: %s", installed(), version_remedy())


def version() -> tuple[int, int] | None:
    """The installed TVM's major and minor version; None where nothing says it."""
    match = re.search(r"(\d+)\.(\d+)", installed())
    return (int(match[1]), int(match[2])) if match else None


def is_tested() -> bool:
    """Whether the installed TVM is one that this package was tested with, as far as is known."""
    found = version()
    return found is None or has_relay() or _OLDEST <= found < _NEWER


def version_remedy() -> str:
    """What to do where the installed TVM is not a tested one."""
    return (
        f"{_TESTED}; check it with `tvm-costmodel doctor --measure`, and where something fails "
        f"pip install {RELAX_PACKAGE}"
    )


def broken(error: BaseException) -> MissingDependencyError:
    """The error of a TVM that is installed but does not import, or lacks what is taken from it."""
    reason = " ".join(str(error).split())[:160]
    return MissingDependencyError(
        f"{installed()} cannot be used ({type(error).__name__}: {reason}); {_TESTED}: "
        f"pip install --force-reinstall {RELAX_PACKAGE} apache-tvm-ffi==0.1.14.post1"
    )


def fault_of_tvm(error: BaseException) -> MissingDependencyError | None:
    """`broken`, where an error says that the installed TVM lacks a module or a name; else None."""
    module = (error.name or "") if isinstance(error, ImportError) else ""
    missing = module.startswith("tvm.") or re.match(r"module 'tvm[.']", str(error))
    return broken(error) if missing else None


def installed() -> str:
    """The installed TVM's distribution and version, such as ``hhb-tvm 3.2.3``."""
    folder = _folder()
    own = _version_in(folder) if folder is not None else None
    for name in _DISTRIBUTIONS:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if name != "apache-tvm" or own in (None, found):  # else another one is imported
            return f"{name} {found}"
    return f"TVM {own} in {folder}" if own else f"the TVM in {folder}"


def _version_in(folder: Path) -> str | None:
    """The version that the files of a TVM say, built from source for instance."""
    for file in (folder / "_version.py", folder / "libinfo.py"):
        match = re.search(_VERSION, file.read_text()) if file.is_file() else None
        if match:
            return match[1]
    return None


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
            for part in _PARTS:
                if not hasattr(module, part):
                    raise AttributeError(f"module 'tvm' has no attribute {part!r}")
        except (ModuleNotFoundError, MissingDependencyError):
            raise
        except Exception as error:  # a missing library, another tvm-ffi, a half installation
            raise broken(error) from error
        finally:
            del sys.modules["torch"]


def import_tvm_without_torch() -> None:
    """Makes the first import of TVM in this program leave torch out, which takes seconds.

    TVM imports torch where that is installed, so that its functions take torch's tensors. A program
    that hands it none loses nothing; torch can still be imported later.
    """
    if "tvm" not in sys.modules:
        sys.meta_path.insert(0, _WithoutTorch())
