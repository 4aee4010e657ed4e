"""The Relax pipeline for CPUs: graph passes, fusion, lowering for the virtual machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import tvm
import tvm.relax.backend.cpu_generic.pipeline as cpu_lowering
from tvm import relax
from tvm.relax import transform

from tvm_costmodel.compilers.cpu_rule import RULE_VERSION, CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.decision import KernelDecision
from tvm_costmodel.compilers.decidable import STAGES
from tvm_costmodel.compilers.decided import DecidedKernels
from tvm_costmodel.compilers.folding import (
    ConstantFolder,
    ScaleFolder,
    count_uses,
    operator_name,
)
from tvm_costmodel.compilers.joining import join_products
from tvm_costmodel.compilers.layouts import KERNEL_LAYOUTS, TransposeSinker, convert_layouts
from tvm_costmodel.compilers.precision import store_halves
from tvm_costmodel.errors import ConfigError, require_known

# Raised whenever the passes or their order change what is compiled: latencies measured under
# another version are not comparable.
PIPELINE_VERSION = 1

_PRECISIONS = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The graph-level decisions of a build, and the schedule rule's parameters.

    Attributes:
        layout: Layout that convolutions run in, ``NHWC`` (with HWIO weights) or ``NCHW`` (OIHW).
        fuse: Whether operators are fused into kernels.
        fold_batch_norm: Whether batch norm and channel-wise scales move into convolution weights.
        rule: Parameters of the CPU schedule rule.
        fuse_depth: Most operators of one kernel; 0 for no limit.
        join_products: Whether matrix products of one input with constant weights become one
            product and slices of it; a kernel decided for the first of them is that of the whole.
        cancel_transposes: Whether transposes move through element-wise operators until they meet
            their inverse.
        stage_layouts: Layouts of the convolutions of single stages where that is not ``layout``,
            see ``decidable.stages_of``; ascending stages.
        precision: ``float16`` stores what convolutions and matrix products read in half precision,
            and computes in single precision; ``float32`` stores all as it is.
        kernels: Decisions for single convolutions and matrix products, each with the operator's
            id in the graph that ``from_relax`` reads from the module; ascending ids.
    """

    layout: str = "NHWC"
    fuse: bool = True
    fold_batch_norm: bool = True
    rule: CpuRuleConfig = dataclasses.field(default_factory=CpuRuleConfig)
    fuse_depth: int = 0
    join_products: bool = False
    cancel_transposes: bool = True
    stage_layouts: tuple[tuple[int, str], ...] = ()
    precision: str = "float32"
    kernels: tuple[tuple[int, KernelDecision], ...] = ()

    def __post_init__(self) -> None:
        """Checks the fields and brings stages and kernels into order.

        Raises:
            ConfigError: A field is out of range.
        """
        for layout in (self.layout, *(layout for _, layout in self.stage_layouts)):
            if layout not in KERNEL_LAYOUTS:
                raise ConfigError(f"layout is {layout!r}; use one of {', '.join(KERNEL_LAYOUTS)}")
        if self.precision not in _PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; use one of {_PRECISIONS}")
        if not 0 <= self.fuse_depth <= 256:
            raise ConfigError(f"fuse_depth is {self.fuse_depth}; use 1 to 256, or 0 for no limit")
        ordered = sorted(dict(self.kernels).items())
        if len(ordered) != len(self.kernels):
            raise ConfigError("kernels names an operator twice; decide once for each")
        kept = tuple((i, decision) for i, decision in ordered if decision != KernelDecision())
        object.__setattr__(self, "kernels", kept)
        stages = sorted(dict(self.stage_layouts).items())
        if len(stages) != len(self.stage_layouts) or any(not 1 <= n <= STAGES for n, _ in stages):
            raise ConfigError(
                f"stage_layouts is for stages {[n for n, _ in self.stage_layouts]}; name each of "
                f"1 to {STAGES} at most once"
            )
        departing = tuple((n, layout) for n, layout in stages if layout != self.layout)
        object.__setattr__(self, "stage_layouts", departing)

    @property
    def key(self) -> str:
        """16 hexadecimal digits that change with any field and with the code's versions."""
        versions = {"pipeline": PIPELINE_VERSION, "rule": RULE_VERSION}
        text = json.dumps({"config": self.to_dict(), "versions": versions}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values; later additions only where they are used."""
        fields: dict[str, Any] = {
            "layout": self.layout,
            "fuse": self.fuse,
            "fold_batch_norm": self.fold_batch_norm,
            "rule": self.rule.to_dict(),
        }
        if self.fuse_depth:
            fields["fuse_depth"] = self.fuse_depth
        if self.join_products:
            fields["join_products"] = True
        if not self.cancel_transposes:
            fields["cancel_transposes"] = False
        if self.stage_layouts:
            fields["stage_layouts"] = {str(n): layout for n, layout in self.stage_layouts}
        if self.precision != "float32":
            fields["precision"] = self.precision
        if self.kernels:
            fields["kernels"] = {str(i): decision.to_dict() for i, decision in self.kernels}
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PipelineConfig:
        """Builds a config from ``to_dict``'s result; absent fields take their defaults.

        Raises:
            ConfigError: A key is unknown or a field is out of range.
        """
        require_known(
            fields, [field.name for field in dataclasses.fields(cls)], "the pipeline's config"
        )
        values = dict(fields)
        if isinstance(values.get("rule"), Mapping):
            values["rule"] = CpuRuleConfig.from_dict(values["rule"])
        if isinstance(values.get("stage_layouts"), Mapping):
            stages = values["stage_layouts"].items()
            values["stage_layouts"] = tuple((int(n), layout) for n, layout in stages)
        if isinstance(values.get("kernels"), Mapping):
            values["kernels"] = tuple(
                (int(i), KernelDecision.from_dict(decision))
                for i, decision in values["kernels"].items()
            )
        return cls(**values)


def _main_pass(
    name: str, rewrite: Callable[[relax.Function, tvm.IRModule], relax.Function]
) -> tvm.transform.Pass:
    """A module pass that rewrites every Relax function of the source graph."""

    @tvm.transform.module_pass(opt_level=0, name=name)
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        result = mod.clone()
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function) and not (func.attrs or {}).get("Primitive"):
                result[var] = rewrite(func, mod)
        return transform.DeadCodeElimination()(result)

    return run


def fold_constants() -> tvm.transform.Pass:
    """A pass that evaluates constant operators, with NumPy where it has a rule for them.

    What NumPy has no rule for goes through ``relax.transform.FoldConstant``.
    """

    @tvm.transform.module_pass(opt_level=0, name="FoldConstants")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        left: set[str] = set()

        def rewrite(func: relax.Function, mod: tvm.IRModule) -> relax.Function:
            folder = ConstantFolder(mod)
            func = folder.visit_expr(func)
            left.update(folder.left)
            return func

        mod = _main_pass("FoldWithNumpy", rewrite)(mod)
        return transform.FoldConstant()(mod) if left else mod

    return run


def fold_scales(into_convolutions: bool) -> tvm.transform.Pass:
    """A pass that makes batch norm a scale and a shift, see ``folding.ScaleFolder``."""

    def rewrite(func: relax.Function, mod: tvm.IRModule) -> relax.Function:
        return ScaleFolder(mod, count_uses(func), into_convolutions).visit_expr(func)

    return _main_pass("FoldScales", rewrite)


def decompose_for_inference() -> tvm.transform.Pass:
    """``DecomposeOpsForInference``, except where a batch norm is meant to be in training."""
    decompose = transform.DecomposeOpsForInference()

    @tvm.transform.module_pass(opt_level=0, name="DecomposeForInference")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        found = []

        def visit(expr: tvm.relax.Expr) -> None:
            if operator_name(expr) == "relax.nn.batch_norm":
                found.append(bool(expr.attrs.training))

        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                relax.analysis.post_order_visit(func, visit)
        return mod if any(found) else decompose(mod)

    return run


def sink_transposes() -> tvm.transform.Pass:
    """A pass that moves transposes through element-wise operators, see ``layouts``."""

    def rewrite(func: relax.Function, mod: tvm.IRModule) -> relax.Function:
        return TransposeSinker(mod).visit_expr(func)

    sink = _main_pass("SinkTransposes", rewrite)
    return tvm.transform.Sequential([sink, transform.CanonicalizeBindings()])


def graph_passes(config: PipelineConfig) -> list[tvm.transform.Pass]:
    """Returns the passes on the graph of operators, in order."""
    joins = config.join_products
    decided = DecidedKernels(dict(config.kernels), joins) if config.kernels else None
    passes = [
        *([decided.note()] if decided else []),
        *([join_products()] if joins else []),
        fold_constants(),
        fold_scales(config.fold_batch_norm),
        # A binding of one variable to another stops ConvertLayout from passing layouts on.
        transform.CanonicalizeBindings(),
    ]
    if config.layout != "NCHW" or config.stage_layouts:
        passes.append(convert_layouts(config.layout, dict(config.stage_layouts)))
    passes += [decompose_for_inference(), fold_constants()]
    if config.cancel_transposes:
        passes.append(sink_transposes())
    if config.precision == "float16":
        passes.append(store_halves())
    return [*passes, decided.legalise()] if decided else passes


def fuse_operators(depth: int = 0) -> tvm.transform.Pass:
    """``FuseOps``, with at most ``depth`` operators in a kernel where that is not zero."""
    fuse = transform.FuseOps()
    if not depth:
        return fuse

    @tvm.transform.module_pass(opt_level=0, name="FuseOpsToDepth")
    def run(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        settings = {**dict(context.config), "relax.FuseOps.max_depth": depth}
        with tvm.transform.PassContext(opt_level=context.opt_level, config=settings):
            return fuse(mod)

    return run


def fusion_passes(config: PipelineConfig) -> list[tvm.transform.Pass]:
    """Returns the passes that make PrimFuncs of operators, in order."""
    passes = [transform.LegalizeOps(), transform.AnnotateTIROpPattern()]
    if config.fuse:
        passes += [fuse_operators(config.fuse_depth), transform.FuseTIR()]
    return passes + [transform.DeadCodeElimination()]


def machine_passes(target: tvm.target.Target) -> list[tvm.transform.Pass]:
    """Returns the passes that lower a graph of PrimFuncs for the virtual machine, in order."""
    return [
        *cpu_lowering.library_dispatch_passes(target),
        *cpu_lowering.dataflow_lower_passes(target),
        *cpu_lowering.finalize_passes(target),
    ]
