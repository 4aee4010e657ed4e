"""Checks of an installation: missing packages, wrong versions, and how to fix them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from tvm_costmodel.compilers.registry import installed_compiler
from tvm_costmodel.errors import CostModelError
from tvm_costmodel.tvm_version import RELAX_PACKAGE, has_relay, installed

FFI_VERSION = "0.1.14.post1"
USES = {
    "numpy": "everything",
    "scipy": "train, compare, calibrate, the FLOPs predictor",
    "torch": "train, .pt2 files, checkpoints without a network in ONNX",
    "apache-tvm": "reading models, profile, tune",
    "onnx": ".onnx files",
    "onnxslim": ".onnx files",
    "xgboost": "the XGBoost predictors",
    "safetensors": "checkpoints of networks",
    "tabulate": "aligned tables",
    "psutil": "measuring over RPC",
    "onnxruntime": "predicting in seconds and without torch, comparisons with onnxruntime",
    "onnxscript": "models export",
}
"""What each package is for."""
REQUIRED_WITH_RELAY = (
    "numpy scipy onnxruntime onnx onnxslim xgboost safetensors tabulate psutil".split()
)
REQUIRED = ("numpy", "scipy", "torch", "apache-tvm", "onnx", "onnxslim", "xgboost", "safetensors")
OPTIONAL = ("onnxruntime", "onnxscript", "tabulate")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: Name of the check.
        ok: Whether it passed.
        found: The version or state that was found.
        remedy: The command or step that fixes it; empty when nothing has to be done.
        required: Whether the package's main job fails without it.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


def diagnose() -> list[Check]:
    """Checks everything that the commands need, in the order in which it should be fixed."""
    with_relay = has_relay()
    required = REQUIRED_WITH_RELAY if with_relay else REQUIRED
    skipped = ("apache-tvm-ffi", "native graph walk") if with_relay else ()
    checks = [_python()]
    checks += [_package(name) for name in required]
    if with_relay:
        checks.append(Check("TVM with Relay", True, installed()))
    checks += [_package(name, required=False) for name in OPTIONAL if name not in required]
    checks += [_guarded(*item) for item in _PARTS if item[0] not in skipped]
    return checks


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 10)
    return Check("python", ok, version, "" if ok else "install Python 3.10 or newer")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, required: bool = True) -> Check:
    version = _version(name)
    wanted = RELAX_PACKAGE if name == "apache-tvm" else name
    remedy = "" if version else f"for {USES[name]}: pip install {wanted}"
    return Check(name, version is not None, version or "not installed", remedy, required)


def _ffi() -> tuple[bool, str, str]:
    version = _version("apache-tvm-ffi") or "not installed"
    remedy = f"pip install apache-tvm-ffi=={FFI_VERSION} (newer ones crash in tvm.ir.save_json)"
    return version == FFI_VERSION, version, remedy


def _native() -> tuple[bool, str, str]:
    from tvm_costmodel.frontends.relax.native_walk import native_available

    ok = native_available()
    remedy = "install a C++17 compiler, then install tvm-costmodel from its source again"
    return (
        ok,
        "built" if ok else "not built: the Python walk is used, about 20 times slower",
        remedy,
    )


def _llvm() -> tuple[bool, str, str]:
    return True, str(installed_compiler().cpu_target()), ""


def _device() -> tuple[bool, str, str]:
    from tvm_costmodel.profiling.devices import resolve_device

    return True, resolve_device("cpu").name, ""


def _zoo() -> tuple[bool, str, str]:
    from tvm_costmodel.predictors.loading import load_predictor, zoo
    from tvm_costmodel.profiling.devices import resolve_device

    device = resolve_device("cpu").name
    if all(entry.device != device for entry in zoo()):
        return (
            False,
            f"none for {device}",
            (
                "measure and train: tvm-costmodel profile --suite default --store my.db; "
                "tvm-costmodel train --store my.db -o my-model"
            ),
        )
    loaded = load_predictor()
    return True, f"{loaded.name} for {loaded.device}", ""


def _cores() -> tuple[bool, str, str]:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    remedy = "labels are quieter with a second core for everything else"
    return cores > 1, str(cores), remedy


_PARTS: tuple[tuple[str, Callable[[], tuple[bool, str, str]], bool], ...] = (
    ("apache-tvm-ffi", _ffi, True),
    ("native graph walk", _native, False),
    ("LLVM target", _llvm, True),
    ("device", _device, True),
    ("shipped predictor", _zoo, False),
    ("cores", _cores, False),
)


def _guarded(name: str, check: Callable[[], tuple[bool, str, str]], required: bool) -> Check:
    """The result of a check; an error inside it is a failure with the error's text."""
    try:
        ok, state, remedy = check()
    except CostModelError as error:
        return Check(name, False, str(error), "see the message", required)
    except ModuleNotFoundError as error:
        return Check(name, False, f"{error.name} is not installed", "see above", required)
    except Exception as error:  # an import may fail in any way
        return Check(name, False, f"{type(error).__name__}: {error}", _reinstall(), required)
    return Check(name, ok, state, "" if ok else remedy, required)


def _reinstall() -> str:
    return "in a checkout: bash scripts/environment.sh; elsewhere: pip install -U tvm-costmodel"
