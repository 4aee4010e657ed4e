"""Measures one network's default build in a worker: its kernels in place, and what bounds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_costmodel.compilers.build_result import KernelUse
from tvm_costmodel.errors import ConfigError, MeasurementError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.measuring.cpu_affinity import default_cores, off_label_cores
from tvm_costmodel.profiling.measuring.peaks import Peaks
from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.sources import Source
from tvm_costmodel.profiling.worker.client import Worker, WorkerFailure, error_type


@dataclass(frozen=True)
class InPlaceTimes:
    """Times of one network.

    Attributes:
        graph: The network before any pass.
        kernels: Kernels of its default build, by name.
        calls: Kernel and fastest seconds of each call, in the order of the calls.
        network_s: Fastest seconds of whole runs.
        onnxruntime_s: The same of ONNX Runtime, interleaved with them; None where it did not run.
        no_onnxruntime: Why it did not.
        peaks: The processor's limits.
    """

    graph: OpGraph
    kernels: Mapping[str, KernelUse]
    calls: tuple[tuple[str, float], ...]
    network_s: float
    onnxruntime_s: float | None
    no_onnxruntime: str
    peaks: Peaks


def time_in_place(
    source: Source, device: Device, cores: Sequence[int] | None = None
) -> InPlaceTimes:
    """Builds a network in a worker and times it there.

    Args:
        source: Where the network comes from.
        device: This machine, with the threads to use.
        cores: Cores to measure on; the last ones by default.

    Raises:
        ConfigError: The device is a board.
        MeasurementError: The network cannot be built or run.
        CostModelError: The source's own error: a file that is no model, for instance.
    """
    if device.runner != "local":
        raise ConfigError(
            f"kernels are timed in place on this machine alone, and {device.name} is a board; "
            "leave --device and --tracker out"
        )
    limits = MeasurementConfig()
    own = default_cores(device) if cores is None else tuple(cores)
    start = {
        "device": device.to_dict(),
        "cores": list(own),
        "measurement": limits.to_dict(),
        "pipeline": None,
        "compiler": "relax",
    }
    worker = Worker(start, device.threads, limits.memory_limit_mib)
    try:
        with off_label_cores(own, device):
            worker.start()
            described = worker.request("describe", limits.source_timeout_s, source=source.to_dict())
            built = worker.request("build", limits.build_timeout_s)
            timed = worker.request("time_in_place", limits.run_timeout_s)
    except WorkerFailure as failure:
        kind = error_type(failure.raised) or MeasurementError
        raise kind(str(failure)) from failure
    finally:
        worker.stop()
    return _times(OpGraph.from_json(described["graph"]), built["kernels"], timed)


def _times(
    graph: OpGraph, kernels: Sequence[Mapping[str, Any]], timed: Mapping[str, Any]
) -> InPlaceTimes:
    uses = {
        kernel["name"]: KernelUse(
            kernel["name"],
            kernel["hash"],
            kernel["calls"],
            tuple((tuple(shape), dtype) for shape, dtype in kernel["parameters"]),
            kernel["template"],
        )
        for kernel in kernels
    }
    bandwidths = tuple((size, rate) for size, rate in timed["peaks"]["bandwidths"])
    return InPlaceTimes(
        graph,
        uses,
        tuple((name, seconds) for name, seconds in timed["calls"] if name in uses),
        timed["seconds"]["network"],
        timed["seconds"].get("onnxruntime"),
        timed["no_onnxruntime"],
        Peaks(timed["peaks"]["flops"], bandwidths),
    )
