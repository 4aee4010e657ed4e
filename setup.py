"""Packaging: finds the packages and builds the native extension.

Everything static is in ``pyproject.toml``. ``models/`` and ``profiling/`` are at the top level;
links inside the package make them ``tvm_costmodel.models`` and ``tvm_costmodel.profiling`` for
Python, for installed wheels and for tools that read the sources.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds ``tvm_costmodel/_native.so`` with CMake; without a compiler the install goes on."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's name, without a Python version, as tvm-ffi loads it."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Configures, builds and puts the library where Python looks for it."""
        try:
            library = self._compile(Path(self.build_temp).resolve())
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(
                f"the native extension was not built ({error}): the slower Python graph walk is "
                "used. Install a C++17 compiler and CMake 3.20, and run pip install again"
            )
            return
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)

    def _compile(self, build: Path) -> Path:
        python_folder = str(Path(sys.executable).parent)
        cmake = shutil.which("cmake") or shutil.which("cmake", path=python_folder)
        if cmake is None:
            raise FileNotFoundError("no cmake on the PATH")
        build.mkdir(parents=True, exist_ok=True)
        (build / "CMakeCache.txt").unlink(missing_ok=True)  # may point into a deleted environment
        configure = [cmake, "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
        subprocess.run([*configure, f"-DPython_EXECUTABLE={sys.executable}"], check=True)
        jobs = str(os.cpu_count() or 1)
        subprocess.run([cmake, "--build", str(build), "--parallel", jobs], check=True)
        return build / "_native.so"


class AnyPythonWheel(bdist_wheel):
    """A wheel for any Python 3: the native library is no Python extension, but has a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tag of the wheel's name."""
        _, _, platform = super().get_tag()
        return "py3", "none", platform


def extensions() -> list[Extension]:
    """The native graph walk, except in an environment whose TVM is older than tvm-ffi."""
    if importlib.util.find_spec("tvm_ffi") is None:
        return []
    return [Extension("tvm_costmodel._native", sources=[], optional=True)]


setup(
    packages=find_packages(include=["tvm_costmodel*"]),
    # With an explicit directory an editable install is a plain path that type checkers follow.
    package_dir={"": "."},
    package_data={
        "": ["*.toml", "*.json", "*.safetensors", "*.onnx", "*.jsonl.xz", "py.typed"],
        "tvm_costmodel.models": ["zoo/**/*"],
        "tvm_costmodel.profiling": ["labels/*.jsonl.xz"],
        "tvm_costmodel.tuning": ["exported/*"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
