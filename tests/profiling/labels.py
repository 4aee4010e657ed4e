"""Synthetic measurements for the tests of store and label files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tvm_costmodel.compilers.components import full_record
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.profiling.measuring.record import (
    KernelTime,
    Measurement,
    Timing,
    content_key,
    measurement_key,
)
from tvm_costmodel.profiling.store.store import Store

DEVICE = "cpu-test"
PIPELINE = "pipeline-1"


def relu_graph(size: int) -> OpGraph:
    """One relu over ``[1, size]``."""
    kind = TensorType((1, size), "float32")
    return OpGraph(
        (Operator("input", (), (kind,)), Operator("relu", ((0, 0),), (kind,))), ((1, 0),)
    )


def timing(latency_s: float, **changes: Any) -> Timing:
    middle, slowest = float(f"{latency_s * 1.01:.5g}"), float(f"{latency_s * 1.02:.5g}")
    values: dict[str, Any] = {
        "latency_s": latency_s,
        "relative": latency_s / 0.0015,
        "quantiles": {"p10": latency_s, "p50": middle, "p90": slowest},
        "repeats": (latency_s, middle, slowest),
        "number": 10,
        "wall_s": 0.2,
        "cpu_s": 0.2,
        "involuntary_switches": 1,
        "reference_s": 0.0015,
        "blocks": ((latency_s, 0.0015),),
        "noise": 0.01,
    }
    return Timing(**values | changes)


def measurement(size: int = 4, **changes: Any) -> Measurement:
    """A good label of a relu of ``size``, in a millisecond for each element."""
    graph = relu_graph(size)
    device = changes.get("device", DEVICE)
    pipeline = changes.get("config_key", PIPELINE)
    parameters = (((1, size), "float32"),)
    seconds = float(f"{size * 4e-4:.6g}")
    kernel = KernelTime("relu", f"kernel{size}", 2, seconds, 0.02, None, parameters)
    values: dict[str, Any] = {
        "key": measurement_key(graph.hash, device, pipeline),
        "graph_hash": graph.hash,
        "graph": graph.to_json(),
        "device": device,
        "config_key": pipeline,
        "pipeline": {"config": {"layout": "NHWC"}, "rule_version": 1},
        "family": "relu",
        "source": {"kind": "workload", "family": "relu", "params": {"size": size}},
        "source_key": content_key("relu", size),
        "status": "ok",
        "timing": timing(size * 1e-3),
        "kernels": (kernel,),
        "environment_id": "env",
        "created_at": f"2025-01-01T00:00:{size:02d}+00:00",
        "seconds": {"build": 1.5},
    }
    return Measurement(**values | changes)


def failure(size: int = 5, **changes: Any) -> Measurement:
    """A build that failed."""
    values = {"status": "build_failed", "error": "no", "timing": None, "kernels": ()}
    return measurement(size, **values | changes)


def write_store(
    path: Path,
    graphs: Sequence[OpGraph],
    latency_s: Iterable[float],
    device: str = DEVICE,
    families: Sequence[str] = ("plain", "odd"),
) -> str:
    """A store of these labels, whose networks are of the families in turn; returns its path."""
    with Store(path) as store:
        for i, (graph, seconds) in enumerate(zip(graphs, latency_s, strict=True)):
            family = families[i % len(families)]
            row = measurement(
                key=measurement_key(graph.hash, device, PIPELINE),
                device=device,
                graph_hash=graph.hash,
                graph=graph.to_json(),
                family=family,
                source={"kind": "workload", "family": family, "params": {"number": i}},
                source_key=f"{device} {i}",
                timing=timing(float(f"{seconds:.6g}")),
                kernels=(),
                components=full_record("relax", {}),
            )
            store.put_measurement(row)
    return str(path)
