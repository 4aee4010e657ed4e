"""Building a Relax module for a CPU."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping

import tvm
from tvm import relax, tirx

from tvm_costmodel.compilers.build_result import KernelUse
from tvm_costmodel.compilers.build_stages import build_stage, export_library
from tvm_costmodel.compilers.components import (
    template_component,
    used_versions,
    vector_math_component,
    versions,
)
from tvm_costmodel.compilers.cpu_rule import CpuScheduleRule
from tvm_costmodel.compilers.cpu_rule.schedule_pass import schedule_module
from tvm_costmodel.compilers.relax.config import PipelineConfig
from tvm_costmodel.compilers.relax.pass_pipeline import (
    fusion_passes,
    graph_passes,
    machine_passes,
)
from tvm_costmodel.compilers.relax.shared_kernels import (
    SharedKernels,
    kernel_hash,
    named_by_content,
)
from tvm_costmodel.errors import BuildError
from tvm_costmodel.frontends.onnx.rewrites import rewrites_of

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """A built network.

    Attributes:
        executable: The virtual machine executable.
        kernels: Every kernel, in the order of its first call.
        unscheduled: ``name: reason`` of each function that no template took.
        components: Versions of what it used, see ``tvm_costmodel.compilers.components``.
        seconds: Seconds spent in each stage of the build.
    """

    executable: tvm.runtime.Executable
    kernels: tuple[KernelUse, ...]
    unscheduled: tuple[str, ...]
    seconds: dict[str, float]
    components: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def kernel_library(self) -> tvm.runtime.Module:
        """The library of compiled kernels; ``time_evaluator(kernel.name, device)`` times one.

        Raises:
            BuildError: The network has no kernels.
        """
        for module in self.executable.mod.imports:
            if module.kind == "llvm":
                return module
        raise BuildError("the network has no compiled kernels; it computes nothing")

    def export(self, path: str | pathlib.Path, cross_compiler: str = "") -> pathlib.Path:
        """Writes the executable as a library.

        Args:
            path: File to write; ``.so`` links it with a C++ compiler, ``.tar`` packs the object
                files.
            cross_compiler: The C++ compiler to link with; the system's where empty.

        Raises:
            BuildError: It could not be written.
        """
        return export_library(self.executable, path, cross_compiler, self.seconds)


@dataclasses.dataclass(frozen=True)
class _Lowered:
    """A module of scheduled PrimFuncs and the Relax function that calls them."""

    mod: tvm.IRModule
    kernels: tuple[KernelUse, ...]
    unscheduled: tuple[str, ...]
    components: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _kernel_calls(mod: tvm.IRModule) -> dict[str, list[tvm.ir.Call]]:
    """Lists the calls of each PrimFunc, in the order of the first."""
    calls: dict[str, list[tvm.ir.Call]] = {}
    call_tir = tvm.ir.Op.get("relax.call_tir")

    def visit(expr: object) -> None:
        if isinstance(expr, tvm.ir.Call) and expr.op.same_as(call_tir):
            calls.setdefault(expr.args[0].name_hint, []).append(expr)

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return calls


def _parameters(func: tirx.PrimFunc) -> tuple[tuple[tuple[int, ...], str], ...]:
    parameters = []
    for parameter in func.params:
        shape = getattr(parameter.ty, "shape", None)
        if shape is not None:
            extents = tuple(int(d) if isinstance(d, tirx.IntImm) else -1 for d in shape)
            parameters.append((extents, str(parameter.ty.dtype)))
    return tuple(parameters)


def _components(name: str, rule: CpuScheduleRule) -> tuple[str, ...]:
    """What made the code of a kernel."""
    functions = rule.vector_math_of.get(name, frozenset())
    return (
        template_component(rule.template_of.get(name, "")),
        *sorted({vector_math_component(function) for function in functions}),
        *(["emit/periods"] if name in rule.periodic else []),
    )


def _schedule(mod: tvm.IRModule, target: tvm.target.Target, config: PipelineConfig) -> _Lowered:
    rule = CpuScheduleRule(config.rule)
    calls = _kernel_calls(mod)
    hashes = {name: kernel_hash(mod[name]) for name in calls}
    mod = schedule_module(mod, target, rule)
    kernels = tuple(
        KernelUse(
            name=name,
            hash=hashes[name],
            calls=len(uses),
            parameters=_parameters(mod[name]),
            template=rule.template_of.get(name, ""),
            components=_components(name, rule),
        )
        for name, uses in calls.items()
    )
    return _Lowered(mod, kernels, tuple(str(entry) for entry in rule.unscheduled))


def _lower(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    config: PipelineConfig,
    seconds: dict[str, float],
) -> _Lowered:
    used = {name for name in rewrites_of(mod) if name in versions("relax")}
    with target, tvm.transform.PassContext(opt_level=3):
        with build_stage("graph", seconds):
            mod = tvm.transform.Sequential(graph_passes(config, used.add))(mod)
        with build_stage("fusion", seconds):
            mod = tvm.transform.Sequential(fusion_passes(config))(mod)
        with build_stage("schedule", seconds):
            lowered = _schedule(mod, target, config)
    used.update(name for kernel in lowered.kernels for name in kernel.components)
    return dataclasses.replace(lowered, components=used_versions("relax", used))


def lower(
    mod: tvm.IRModule, target: tvm.target.Target, config: PipelineConfig | None = None
) -> tvm.IRModule:
    """Runs the pipeline up to scheduled PrimFuncs and the Relax function that calls them.

    Args:
        mod: A Relax module with its weights bound as constants.
        target: An LLVM target, see ``cpu_target``.
        config: Graph-level decisions; the default ones where absent.

    Raises:
        BuildError: A stage failed.
    """
    return _lower(mod, target, config or PipelineConfig(), {}).mod


def build(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    config: PipelineConfig | None = None,
    shared: SharedKernels | None = None,
) -> BuildResult:
    """Compiles a network for a CPU.

    Args:
        mod: A Relax module with its weights bound as constants.
        target: An LLVM target, see ``cpu_target``.
        config: Graph-level decisions; the default ones where absent.
        shared: Kernels of earlier builds for this target, which grow by those of this one. The
            library then names kernels by their content, not as the result does.

    Raises:
        BuildError: A stage failed; the message names it.
    """
    seconds: dict[str, float] = {}
    lowered = _lower(mod, target, config or PipelineConfig(), seconds)
    with target, tvm.transform.PassContext(opt_level=3):
        with build_stage("virtual machine", seconds):
            named = lowered.mod if shared is None else named_by_content(lowered.mod)
            final = tvm.transform.Sequential(machine_passes(target))(named)
        with build_stage("code generation", seconds):
            if shared is None:
                executable = tvm.relax.build(final, target, relax_pipeline=None)
            else:
                executable = shared.link(final, target)
    return BuildResult(
        executable, lowered.kernels, lowered.unscheduled, seconds, lowered.components
    )


def pipeline(config: PipelineConfig | None = None) -> tvm.transform.Pass:
    """The whole pipeline as a pass for ``tvm.compile(mod, target, relax_pipeline=...)``.

    It must run inside a target's scope, as ``tvm.compile`` does.
    """
    chosen = config or PipelineConfig()

    @tvm.transform.module_pass(opt_level=0, name="CostModelCpuPipeline")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        target = tvm.target.Target.current(allow_none=False)
        lowered = _lower(mod, target, chosen, {})
        with target:
            return tvm.transform.Sequential(machine_passes(target))(lowered.mod)

    return run
