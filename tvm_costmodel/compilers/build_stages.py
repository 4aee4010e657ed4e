"""The stages of a build, which are timed and named in errors."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

from tvm_costmodel.errors import BuildError, MissingDependencyError

REMEDY = "try another layout or fuse=False, or report the network"


@contextlib.contextmanager
def build_stage(name: str, seconds: dict[str, float], remedy: str = REMEDY) -> Iterator[None]:
    """Times a stage of a build and names it in any error that it raises.

    Raises:
        BuildError: Something inside failed.
    """
    start = time.perf_counter()
    try:
        yield
    except BuildError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        text = lines[-1 if lines[0].startswith("Traceback") else 0][:300]
        raise BuildError(
            f"build failed in stage {name!r}: {type(error).__name__}: {text}; {remedy}"
        ) from error
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def has_linker(cross_compiler: str = "") -> bool:
    """Whether the C++ compiler that links libraries is there: the system's, or the one named."""
    return shutil.which(cross_compiler or _cc().get_cc() or "") is not None


def require_linker(cross_compiler: str = "") -> None:
    """Refuses to build what could not be linked afterwards.

    Args:
        cross_compiler: The C++ compiler to link with; the system's where empty.

    Raises:
        MissingDependencyError: It is not there.
    """
    if not has_linker(cross_compiler):
        wanted = repr(cross_compiler or _cc().get_cc() or "g++")
        raise MissingDependencyError(
            f"writing a library needs a C++ compiler to link it, and {wanted} is not there: "
            "install one (apt-get install g++), or name another "
            + ("as cross_compiler in the device file" if cross_compiler else "in CXX")
        )


def _cc() -> Any:
    """TVM's module that calls compilers."""
    try:
        from tvm.support import cc
    except ImportError:  # TVM with Relay
        from tvm.contrib import cc
    return cc


def cross_linker(compiler: str) -> Any:
    """The ``fcompile`` of ``export_library`` for a cross compiler."""
    return _cc().cross_compiler(compiler)


def export_library(
    executable: Any,
    path: str | pathlib.Path,
    cross_compiler: str,
    seconds: dict[str, float],
    remedy: str = REMEDY,
) -> pathlib.Path:
    """Writes an executable as a library, as a stage of the build.

    Args:
        executable: The executable that TVM built.
        path: File to write; ``.so`` links it with a C++ compiler, ``.tar`` packs the object files.
        cross_compiler: The C++ compiler to link with; the system's where empty.
        seconds: Grows by the seconds that it takes.
        remedy: Advice for the error message.

    Raises:
        BuildError: It could not be written.
        MissingDependencyError: There is no C++ compiler to link it.
    """
    linked = {"fcompile": cross_linker(cross_compiler)} if cross_compiler else {}
    if pathlib.Path(path).suffix == ".so":
        require_linker(cross_compiler)
    with build_stage("export", seconds, remedy):
        executable.export_library(str(path), **linked)
    return pathlib.Path(path)
