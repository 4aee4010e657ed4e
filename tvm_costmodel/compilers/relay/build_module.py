"""Building a Relay module for a CPU's graph executor."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tvm
from tvm import autotvm, relay

from tvm_costmodel.compilers.build_result import KernelUse
from tvm_costmodel.compilers.build_stages import build_stage, export_library
from tvm_costmodel.compilers.components import used_versions
from tvm_costmodel.compilers.relay.config import RelayConfig
from tvm_costmodel.compilers.relay.random_constants import draw_constants

_REMEDY = "try RelayConfig() or leave that decision out, or report the network"
_PIPELINE = "relay/pipeline"
_BRANCHES = 2  # fewest operators of one input that are combined
_LAYOUTS = {"nn.conv2d": "default", "nn.conv2d_transpose": "default"}
_POOLS = ("nn.max_pool2d", "nn.avg_pool2d", "nn.global_avg_pool2d", "nn.adaptive_avg_pool2d")


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """A built network.

    Attributes:
        executable: The factory of graph executors.
        kernels: Every kernel, in the order of its first call.
        unscheduled: Empty; Relay schedules every operator or fails.
        seconds: Seconds spent in each stage of the build.
        inputs: Names of the network's inputs, in order.
        components: Versions of what it used, see ``tvm_costmodel.compilers.components``.
    """

    executable: Any
    kernels: tuple[KernelUse, ...]
    unscheduled: tuple[str, ...]
    seconds: dict[str, float]
    inputs: tuple[str, ...]
    components: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def kernel_library(self) -> tvm.runtime.Module:
        """The library of compiled kernels; ``time_evaluator(kernel.name, device)`` times one."""
        return self.executable.get_lib()

    def export(self, path: str | pathlib.Path, cross_compiler: str = "") -> pathlib.Path:
        """Writes the executable as a library.

        Args:
            path: File to write; ``.so`` links it with a C++ compiler, ``.tar`` packs the object
                files.
            cross_compiler: The C++ compiler to link with; the system's where empty.

        Raises:
            BuildError: It could not be written.
        """
        return export_library(self.executable, path, cross_compiler, self.seconds, _REMEDY)


def build(
    mod: tvm.IRModule, target: tvm.target.Target, config: RelayConfig | None = None
) -> BuildResult:
    """Compiles a network for a CPU.

    Tuned schedules of TopHub are not looked up, unless ``TOPHUB_LOCATION`` is set: a build
    depends on the network, the target and the config alone.

    Args:
        mod: A Relay module with its weights bound as constants.
        target: An LLVM target, see ``cpu_target``.
        config: Graph-level decisions; the default ones where absent.

    Raises:
        BuildError: A stage failed; the message names it.
    """
    config = config or RelayConfig()
    seconds: dict[str, float] = {}
    inputs = tuple(str(param.name_hint) for param in mod["main"].params)
    with _quietly(), target:
        mod = apply_passes(mod, config, seconds)
        with pass_context(config):
            if config.random_constants:
                with build_stage("random constants", seconds, _REMEDY):
                    mod = tvm.transform.Sequential(_optimise_with_random_constants())(mod)
            with build_stage("relay.build", seconds, _REMEDY):
                factory = relay.build(mod, tvm.target.Target(target, host=target))
    components = used_versions("relay", (_PIPELINE,))
    return BuildResult(factory, _kernels(factory), (), seconds, inputs, components)


def apply_passes(
    mod: tvm.IRModule, config: RelayConfig, seconds: dict[str, float] | None = None
) -> tvm.IRModule:
    """Runs the passes of a config that come before Relay's own.

    Args:
        mod: A typed Relay module; not changed.
        config: The decisions.
        seconds: Grows by the seconds of each pass.

    Raises:
        BuildError: A pass failed; the message names it.
    """
    seconds = {} if seconds is None else seconds
    with pass_context(config):
        for name, step in _decisions(config):
            with build_stage(name, seconds, _REMEDY):
                mod = relay.transform.InferType()(step(relay.transform.InferType()(mod)))
    return mod


def pass_context(config: RelayConfig) -> tvm.transform.PassContext:
    """The context in which Relay's passes carry a config out."""
    settings: dict[str, Any] = {"relay.ToMixedPrecision.keep_orig_output_dtype": True}
    if config.fuse_depth:
        settings["relay.FuseOps.max_depth"] = config.fuse_depth
    disabled = [] if config.alter_layout else ["AlterOpLayout"]
    disabled += [] if config.canonicalize_ops else ["CanonicalizeOps"]
    return tvm.transform.PassContext(
        opt_level=config.opt_level, config=settings, disabled_pass=disabled
    )


def _decisions(config: RelayConfig) -> Iterator[tuple[str, Any]]:
    """(name, pass) of the decisions of a config, in order."""
    passes = relay.transform
    if config.layout != "imported":
        layouts = {op: [config.layout, rest] for op, rest in _LAYOUTS.items()}
        layouts |= {op: [config.layout] for op in _POOLS}
        yield f"ConvertLayout to {config.layout}", passes.ConvertLayout(layouts)
    if config.combine_conv2d:
        yield "CombineParallelConv2D", passes.CombineParallelConv2D(_BRANCHES)
    if config.combine_dense != "apart":
        to_batch = config.combine_dense == "batch"
        name = f"CombineParallelDense ({config.combine_dense})"
        yield name, passes.CombineParallelDense(_BRANCHES, to_batch)
    if config.combine_matmul:
        yield "CombineParallelBatchMatmul", passes.CombineParallelBatchMatmul(_BRANCHES)
    if config.precision == "float16":
        yield "ToMixedPrecision to float16", passes.ToMixedPrecision("float16")
    if config.fast_math:
        yield "FastMath", passes.FastMath()


def _optimise_with_random_constants() -> list[tvm.transform.Pass]:
    """Relay's graph passes up to AlterOpLayout, with constants drawn instead of computed."""
    passes = relay.transform
    return [
        passes.InferType(),
        passes.SimplifyInference(),
        passes.EliminateCommonSubexpr(),
        draw_constants(),
        passes.ForwardFoldScaleAxis(),
        draw_constants(),
        passes.BackwardFoldScaleAxis(),
        draw_constants(),
        passes.SimplifyExpr(),
        passes.CanonicalizeCast(),
        passes.CanonicalizeOps(),
        passes.AlterOpLayout(),
        draw_constants(),
    ]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences AutoTVM's advice to tune, and disables its published schedules."""
    silent, autotvm.GLOBAL_SCOPE.silent = autotvm.GLOBAL_SCOPE.silent, True
    os.environ.setdefault("TOPHUB_LOCATION", "NONE")
    try:
        yield
    finally:
        autotvm.GLOBAL_SCOPE.silent = silent


def _kernels(factory: Any) -> tuple[KernelUse, ...]:
    """Kernels that the executor's graph calls."""
    graph = json.loads(factory.get_graph_json())
    shapes, types = graph["attrs"]["shape"][1], graph["attrs"]["dltype"][1]
    first = graph["node_row_ptr"]
    calls: dict[str, int] = {}
    kernels: dict[str, KernelUse] = {}
    for i, node in enumerate(graph["nodes"]):
        name = node.get("attrs", {}).get("func_name", "")
        if node["op"] != "tvm_op" or name in ("", "__nop"):
            continue
        calls[name] = calls.get(name, 0) + 1
        entries = [first[source] + index for source, index, _ in node["inputs"]]
        entries += range(first[i], first[i + 1])
        parameters = tuple((tuple(map(int, shapes[e])), str(types[e])) for e in entries)
        kernels[name] = KernelUse(name, _hash(node["attrs"], parameters), calls[name], parameters)
    return tuple(
        dataclasses.replace(kernel, calls=calls[name], components=(_PIPELINE,))
        for name, kernel in kernels.items()
    )


def _hash(attrs: dict[str, Any], parameters: object) -> str:
    """Hash of the fused function's structural hash and its types."""
    content = attrs.get("hash") or attrs["func_name"]
    return hashlib.sha256(f"{content} {parameters}".encode()).hexdigest()[:16]
