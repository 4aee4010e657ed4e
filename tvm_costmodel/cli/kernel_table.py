"""``profile MODEL --kernels``: a network's kernels as they run, and how far from the limits."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.cli.options import parse_shapes
from tvm_costmodel.cli.output import Output, milliseconds, table
from tvm_costmodel.compilers.registry import DEFAULT_COMPILER
from tvm_costmodel.errors import (
    CheckpointError,
    ConfigError,
    MissingDependencyError,
    ModelFileError,
)

if TYPE_CHECKING:
    from tvm_costmodel.predictors.loading import Predictor
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.profiling.in_place_profiler import InPlaceTimes
    from tvm_costmodel.tuning.kernel_profile import KernelRow

logger = logging.getLogger(__name__)

_OTHER_WORK = (
    "store suite count families seed select checkpoint strategy minutes variants remeasure_stale "
    "remeasure_noisy models_in retry_failed labels export"
).split()
"""Options of ``profile`` that are about labels."""
_OPTION = {"checkpoint": "calibrate-for", "labels": "import"}  # where not the attribute's name
_SHOWN = 20
_WORDS = 60
_BUSY = 1.3  # times the sum of the kernels, above which whole runs were disturbed


def run(args: argparse.Namespace) -> Output:
    """Times the kernels of one model's default build in place.

    Raises:
        ConfigError: There is not one model, or an option is about labels.
    """
    from tvm_costmodel.profiling.devices import choose_device
    from tvm_costmodel.profiling.in_place_profiler import time_in_place
    from tvm_costmodel.profiling.sources import FileSource
    from tvm_costmodel.tuning.kernel_profile import kernel_rows

    path = _only_model(args)
    device = choose_device(args.device, args.tracker, args.key, args.threads)
    times = time_in_place(FileSource(path, parse_shapes(args.shape)), device, args.cores)
    predictor, reason = _predictor(device)
    rows = kernel_rows(times, predictor)
    return _output(Path(path).name, device, times, rows, _learned(predictor), reason)


def _only_model(args: argparse.Namespace) -> str:
    given = [name for name in _OTHER_WORK if getattr(args, name)]
    if given:
        option = _OPTION.get(given[0], given[0]).replace("_", "-")
        raise ConfigError(f"--kernels measures no labels; leave --{option} out")
    if args.compiler != DEFAULT_COMPILER:
        raise ConfigError("--kernels times builds of Relax; leave --compiler out")
    if len(args.model) != 1:
        raise ConfigError(f"--kernels needs one MODEL file, and {len(args.model)} are given")
    path = str(args.model[0])
    if not Path(path).is_file():
        raise ModelFileError(f"{path} does not exist; give an .onnx, .pt2 or Relax JSON file")
    return path


def _predictor(device: Device) -> tuple[Predictor | None, str]:
    """The device's predictor of kernels; or none, and why."""
    from tvm_costmodel.predictors.loading import load_predictor
    from tvm_costmodel.predictors.registry import DECISION_AWARE_FOR

    name = DECISION_AWARE_FOR[DEFAULT_COMPILER][0]
    try:
        return load_predictor(device.name, name, device=device.name), ""
    except (CheckpointError, MissingDependencyError) as error:
        logger.info("no predictor of kernels: %s", error)
        return None, f"no {name} for {device.name} loads; `tvm-costmodel doctor` says what is wrong"


def _learned(predictor: Predictor | None) -> str:
    return f"{predictor.name} of {predictor.device}" if predictor is not None else ""


def _output(
    model: str,
    device: Device,
    times: InPlaceTimes,
    rows: list[KernelRow],
    predictor: str,
    no_predictor: str,
) -> Output:
    kernels_ms = sum(row.ms for row in rows)
    roofline_ms = sum(row.ms * row.of_roofline for row in rows)
    predicted_ms = sum(row.predicted_ms or 0.0 for row in rows)
    fields = {
        "model": model,
        "device": device.name,
        "threads": device.threads,
        "graph_hash": times.graph.hash,
        "kernels": [row.to_dict() for row in rows],
        "kernels_ms": kernels_ms,
        "network_ms": times.network_s * 1e3,
        "onnxruntime_ms": None if times.onnxruntime_s is None else times.onnxruntime_s * 1e3,
        "roofline_ms": roofline_ms,
        "predicted_ms": predicted_ms if predictor else None,
        "predictor": predictor or None,
        "peak_gflops": times.peaks.flops / 1e9,
        "peak_gb_s": [[size, rate / 1e9] for size, rate in times.peaks.bandwidths],
    }
    lines = [
        f"{model} on {device.name}, graph {times.graph.hash}: {len(rows)} kernels, "
        f"{len(times.calls)} calls",
        _totals(times, kernels_ms, device.threads),
        _limits(times, roofline_ms),
    ]
    if times.no_onnxruntime:
        lines.append(f"onnxruntime's time is left out: {times.no_onnxruntime}")
    if predictor:
        lines.append(f"predicted: {predicted_ms:.4g} ms by {predictor}")
    else:
        lines.append(f"predictions are left out: {no_predictor}")
    if times.network_s * 1e3 > _BUSY * kernels_ms:
        lines.append("whole runs were disturbed: something else keeps this machine busy")
    return Output(fields, "\n".join([_table(rows), "", *lines]))


def _table(rows: list[KernelRow]) -> str:
    shown = [
        (
            row.operators if len(row.operators) <= _WORDS else f"{row.operators[: _WORDS - 3]}...",
            row.calls,
            f"{row.ms:.4g}",
            f"{row.share:.1%}",
            f"{row.gflops:.1f} GFLOP/s" if row.bound == "arithmetic" else f"{row.gb_s:.1f} GB/s",
            f"{row.of_roofline:.0%}",
            "-" if row.predicted_ms is None else f"{row.predicted_ms:.4g}",
            row.template or "none",
        )
        for row in rows[:_SHOWN]
    ]
    headers = ("operators", "calls", "ms", "share", "reached", "of limit", "predicted", "template")
    text = table(shown, headers)
    if more := rows[_SHOWN:]:
        text += f"\nand {len(more)} more kernels, {sum(row.ms for row in more):.4g} ms"
    return text


def _totals(times: InPlaceTimes, kernels_ms: float, threads: int) -> str:
    text = f"sum of kernels {kernels_ms:.4g} ms, whole network {milliseconds(times.network_s)} ms"
    if times.onnxruntime_s is not None:
        text += f", onnxruntime {milliseconds(times.onnxruntime_s)} ms"
    return f"{text} (fastest runs, interleaved; threads: {threads})"


def _limits(times: InPlaceTimes, roofline_ms: float) -> str:
    shown = (times.peaks.bandwidths[0], *times.peaks.bandwidths[6::4])
    rates = ", ".join(f"{rate / 1e9:.1f} GB/s of {size >> 10:,} KiB" for size, rate in shown)
    return (
        f"limits of this processor, measured: {times.peaks.flops / 1e9:.1f} GFLOP/s, {rates}; at "
        f"these the kernels would take {roofline_ms:.4g} ms"
    )
