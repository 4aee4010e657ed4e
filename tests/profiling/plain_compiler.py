"""A compiler for the profiler's tests: TVM's own passes without a schedule, and faults on demand.

A profiler finds it as ``plain_compiler:PLAIN``. A source may carry a fault, which strikes inside
the worker while its network is built: ``crash``, ``hang``, ``raise`` or ``memory``. So may the
config's choice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as lowering

from tvm_costmodel.compilers.compiler import PipelineDescription
from tvm_costmodel.compilers.relax.compiler import RelaxCompiler
from tvm_costmodel.profiling.measuring.record import content_key
from tvm_costmodel.profiling.sources import KINDS

PIPELINE_VERSION = int(os.environ.get("PLAIN_COMPILER_VERSION", "1"))


@dataclass(frozen=True)
class PlainConfig:
    choice: str = ""

    @property
    def key(self) -> str:
        return content_key(self.to_dict(), PIPELINE_VERSION)[:16]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class KernelUse:
    name: str
    hash: str
    calls: int
    parameters: tuple[tuple[tuple[int, ...], str], ...]


@dataclass(frozen=True)
class BuildResult:
    executable: Any
    kernels: tuple[KernelUse, ...]
    unscheduled: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def kernel_library(self) -> Any:
        return next(m for m in self.executable.mod.imports if m.kind == "llvm")


class PlainCompiler(RelaxCompiler):
    """Reads and runs networks as Relax does; configures and builds them in its own way."""

    name = "plain"

    def config(self, fields: Mapping[str, Any] | None = None) -> PlainConfig:  # type: ignore[override]
        return PlainConfig(**(fields or {}))

    def describe(self, config: PlainConfig) -> PipelineDescription:  # type: ignore[override]
        versions = {"pipeline_version": PIPELINE_VERSION, "rule_version": 1}
        pipeline = {"config": config.to_dict(), **versions}
        return {"pipeline_key": config.key, "pipeline": pipeline}

    def build(self, module: Any, target: Any, config: Any = None) -> Any:
        return _build(module, target, config or PlainConfig())


PLAIN = PlainCompiler()
RELAX = RelaxCompiler()  # itself, for sources that only this module makes


def _build(mod: Any, target: Any, config: PlainConfig) -> BuildResult:
    _strike(str((mod.attrs or {}).get("fault", "")))
    _strike(config.choice)
    passes = relax.transform
    with target, tvm.transform.PassContext(opt_level=3):
        fused = tvm.transform.Sequential(
            [
                passes.LegalizeOps(),
                passes.AnnotateTIROpPattern(),
                passes.FuseOps(),
                passes.FuseTIR(),
                passes.DeadCodeElimination(),
            ]
        )(mod)
        kernels = _kernels(fused)
        final = tvm.transform.Sequential(
            [
                *lowering.library_dispatch_passes(target),
                *lowering.dataflow_lower_passes(target),
                *lowering.finalize_passes(target),
            ]
        )(fused)
        return BuildResult(tvm.relax.build(final, target, relax_pipeline=None), kernels)


def _strike(fault: str) -> None:
    if fault == "crash":
        os.write(2, b"about to crash\n")
        os.abort()
    if fault == "hang":
        time.sleep(600)
    if fault == "raise":
        raise ValueError("no such thing\nin two lines")
    if fault == "memory":
        blocks = []
        while True:
            blocks.append(bytearray(os.urandom(1 << 20) * 64))
            time.sleep(0.05)


def _kernels(mod: Any) -> tuple[KernelUse, ...]:
    calls: dict[str, int] = {}
    call_tir = tvm.ir.Op.get("relax.call_tir")

    def visit(expr: Any) -> None:
        if isinstance(expr, tvm.ir.Call) and expr.op.same_as(call_tir):
            name = expr.args[0].name_hint
            calls[name] = calls.get(name, 0) + 1

    relax.analysis.post_order_visit(mod["main"], visit)
    return tuple(_kernel(name, mod[name], count) for name, count in calls.items())


def _kernel(name: str, function: Any, calls: int) -> KernelUse:
    value = tvm_ffi.structural_hash(function.without_attr("global_symbol"), map_free_vars=True)
    parameters = tuple(
        (tuple(int(extent) for extent in p.ty.shape), str(p.ty.dtype)) for p in function.params
    )
    return KernelUse(name, f"{int(value) & (2**64 - 1):016x}", calls, parameters)


@dataclass(frozen=True)
class TinySource:
    """A convolution and a relu: small enough to build in a moment."""

    channels: int
    size: int = 8
    fault: str = ""
    family: str = "tiny"

    @property
    def key(self) -> str:
        return content_key("tiny", self.channels, self.size, self.fault)

    def to_dict(self) -> dict[str, Any]:
        settings = {"channels": self.channels, "size": self.size, "fault": self.fault}
        return {"kind": "tiny", **settings}

    def load(self) -> tuple[Any, Any]:
        from tvm_costmodel.frontends.relax.export import from_relax

        if self.channels < 1:
            raise ValueError("a network needs channels")
        x = relax.Var("x", relax.TensorType((1, 3, self.size, self.size), "float32"))
        value = float("inf") if self.size == 9 else 0.01
        weight = relax.const(np.full((self.channels, 3, 3, 3), value, "float32"))
        builder = relax.BlockBuilder()
        with builder.function("main", [x]):
            with builder.dataflow():
                y = builder.emit(relax.op.nn.conv2d(x, weight, padding=(1, 1)))
                y = builder.emit_output(relax.op.nn.relu(y))
            builder.emit_func_output(y)
        module = builder.get().with_attr("fault", self.fault)
        return module, from_relax(module)


KINDS["tiny"] = lambda record: TinySource(record["channels"], record["size"], record["fault"])
