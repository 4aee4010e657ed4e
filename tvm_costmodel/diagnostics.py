"""Checks of an installation: missing packages, wrong versions, and how to fix them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from tvm_costmodel.compilers.registry import installed_compiler
from tvm_costmodel.errors import CostModelError
from tvm_costmodel.tvm_version import (
    RELAX_PACKAGE,
    fault_of_tvm,
    has_relay,
    installed,
    is_tested,
    version_remedy,
)

if TYPE_CHECKING:
    from tvm_costmodel.predictors.loading import Estimate
    from tvm_costmodel.profiling.outcome import SourceResult

FFI_VERSION = "0.1.14.post1"
_FFI_SERIES = "0.1.14"
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

_MEASURED = 3  # networks, each of another family
_LEAST_S = 5e-4  # shorter ones say little
_SLACK = 1.1  # beyond the interval, which nine of ten networks fall into


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


def measured_checks() -> list[Check]:
    """Builds and times a few labelled networks, and compares the default predictor with them.

    Answers whether a shipped predictor still fits, after another TVM was installed for instance.

    Raises:
        CostModelError: There is no predictor, or nothing can be measured.
    """
    import tempfile
    from pathlib import Path

    from tvm_costmodel.predictors.checkpoint import read_card
    from tvm_costmodel.predictors.loading import load_predictor, shipped_default
    from tvm_costmodel.profiling.label_files.networks import SHIPPED, read_labels
    from tvm_costmodel.profiling.measuring.record import MeasurementConfig
    from tvm_costmodel.profiling.profiler import Profiler
    from tvm_costmodel.profiling.sources import source_from_dict

    predictor = load_predictor()
    device = read_card(shipped_default())["device"]
    labels = read_labels(SHIPPED / f"{device}.jsonl.xz", keep_stale=True)  # for the networks alone
    quick = [r for r in labels.records if r.latency_s > _LEAST_S]
    by_family = {r.family: r for r in sorted(quick, key=lambda r: -r.latency_s)}
    chosen = sorted(by_family.values(), key=lambda r: r.latency_s)[:_MEASURED]
    with tempfile.TemporaryDirectory() as folder:
        store, brief = Path(folder) / "measurements.db", MeasurementConfig(kernels=False)
        profiler = Profiler("cpu", store, brief, progress=False)
        with profiler.store:
            summary = profiler.run([source_from_dict(r.source) for r in chosen])
    estimates = predictor.predict([r.graph for r in chosen])
    return list(map(_compared, estimates, summary.results))


def _compared(estimate: Estimate, result: SourceResult) -> Check:
    name = f"latency of a {result.family}"
    if result.latency_s is None:
        return Check(name, False, f"{result.status}: {result.error}", "see the message", False)
    seconds = (estimate.latency_s, estimate.low_s, estimate.high_s, result.latency_s)
    ms, low, high, measured = (value * 1e3 for value in seconds)
    found = f"predicted {ms:.3g} ms ({low:.3g} to {high:.3g}), measured {measured:.3g} ms"
    fits = low / _SLACK <= measured <= high * _SLACK
    remedy = "" if fits else "on a quiet machine: tvm-costmodel calibrate"
    return Check(name, fits, found, remedy, False)


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
    if version and name == "apache-tvm":
        version = installed().removeprefix("apache-tvm ")
        if not is_tested():
            return Check(name, False, version, version_remedy(), required=False)
    return Check(name, version is not None, version or "not installed", remedy, required)


def _ffi() -> tuple[bool, str, str]:
    version = _version("apache-tvm-ffi") or "not installed"
    remedy = f"pip install apache-tvm-ffi=={FFI_VERSION} (newer ones crash in tvm.ir.save_json)"
    return version.startswith(_FFI_SERIES), version, remedy


def _native() -> tuple[bool, str, str]:
    from tvm_costmodel.frontends.relax.native_walk import unavailable_because

    why_not = unavailable_because()
    return not why_not, why_not or "built", "until then the Python walk is used, 20 times slower"


def _llvm() -> tuple[bool, str, str]:
    return True, str(installed_compiler().cpu_target()), ""


def _device() -> tuple[bool, str, str]:
    from tvm_costmodel.profiling.devices import resolve_device

    return True, resolve_device("cpu").name, ""


def _zoo() -> tuple[bool, str, str]:
    from tvm_costmodel.predictors.loading import load_predictor
    from tvm_costmodel.profiling.devices import resolve_device

    loaded, device = load_predictor(), resolve_device("cpu").name
    found = f"{loaded.name} for {loaded.device}"
    if loaded.device != device:
        remedy = f"measure a few networks of {device}, in three minutes: tvm-costmodel calibrate"
        return False, found, remedy
    learned = loaded.regressor.card.get("machine", {}).get("apache-tvm")
    here = _version("apache-tvm")
    if learned and here and learned.split(".")[:2] != here.split(".")[:2]:
        remedy = "see whether it still fits: tvm-costmodel doctor --measure"
        return False, f"{found}, learned with TVM {learned}; this is {here}", remedy
    return True, found, ""


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
        if fault := fault_of_tvm(error):
            return Check(name, False, str(fault), "see the message", required)
        return Check(name, False, f"{type(error).__name__}: {error}", _reinstall(), required)
    return Check(name, ok, state, "" if ok else remedy, required)


def _reinstall() -> str:
    return "in a checkout: bash scripts/environment.sh; elsewhere: pip install -U tvm-costmodel"
