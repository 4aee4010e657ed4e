"""The Relax pipeline for CPUs: graph passes, fusion, lowering for the virtual machine."""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm.relax.backend.cpu_generic.pipeline as cpu_lowering
from tvm import relax
from tvm.relax import transform

from tvm_costmodel.compilers.relax.config import PipelineConfig
from tvm_costmodel.compilers.relax.passes.buildable_forms import buildable_forms
from tvm_costmodel.compilers.relax.passes.fold_batch_norm import BatchNormFolder, count_uses
from tvm_costmodel.compilers.relax.passes.fold_constants import (
    ConstantFolder,
    operator_name,
)
from tvm_costmodel.compilers.relax.passes.kernel_annotations import KernelAnnotations
from tvm_costmodel.compilers.relax.passes.layout import (
    TransposeSinker,
    convert_layouts,
)
from tvm_costmodel.compilers.relax.passes.merge_matmuls import merge_matmuls
from tvm_costmodel.compilers.relax.passes.mixed_precision import to_mixed_precision

Note = Callable[[str], None]
"""Takes the name of a component that changed the module."""


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


def _unnoted(_component: str) -> None:
    """What passes tell their name where nobody asks which of them changed the module."""


def fold_constants(note: Note = _unnoted) -> tvm.transform.Pass:
    """A pass that evaluates constant operators, with NumPy where it has a rule for them.

    Operators without such a rule go through ``relax.transform.FoldConstant``.
    """

    @tvm.transform.module_pass(opt_level=0, name="FoldConstants")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        unfolded: set[str] = set()

        def rewrite(func: relax.Function, mod: tvm.IRModule) -> relax.Function:
            folder = ConstantFolder(mod)
            func = folder.visit_expr(func)
            unfolded.update(folder.unfolded)
            if folder.folded or folder.unfolded:
                note("pass/fold_constants")
            return func

        mod = _main_pass("FoldWithNumpy", rewrite)(mod)
        return transform.FoldConstant()(mod) if unfolded else mod

    return run


def fold_batch_norm(into_convolutions: bool, note: Note = _unnoted) -> tvm.transform.Pass:
    """A pass that makes batch norm a scale and a shift, see ``BatchNormFolder``."""

    def rewrite(func: relax.Function, mod: tvm.IRModule) -> relax.Function:
        folder = BatchNormFolder(mod, count_uses(func), into_convolutions)
        func = folder.visit_expr(func)
        if folder.changed:
            note("pass/fold_batch_norm")
        if folder.folded:
            note("pass/fold_constants")
        return func

    return _main_pass("FoldBatchNorm", rewrite)


def decompose_for_inference() -> tvm.transform.Pass:
    """``DecomposeOpsForInference``, except where a batch norm is in training mode."""
    decompose = transform.DecomposeOpsForInference()

    @tvm.transform.module_pass(opt_level=0, name="DecomposeForInference")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        training = []

        def visit(expr: tvm.relax.Expr) -> None:
            if operator_name(expr) == "relax.nn.batch_norm":
                training.append(bool(expr.attrs.training))

        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                relax.analysis.post_order_visit(func, visit)
        return mod if any(training) else decompose(mod)

    return run


def sink_transposes(note: Note = _unnoted) -> tvm.transform.Pass:
    """A pass that moves transposes through element-wise operators, see ``TransposeSinker``."""

    def rewrite(func: relax.Function, mod: tvm.IRModule) -> relax.Function:
        sinker = TransposeSinker(mod)
        func = sinker.visit_expr(func)
        if sinker.changed:
            note("pass/cancel_transposes")
        return func

    sink = _main_pass("SinkTransposes", rewrite)
    return tvm.transform.Sequential([sink, transform.CanonicalizeBindings()])


def graph_passes(config: PipelineConfig, note: Note = _unnoted) -> list[tvm.transform.Pass]:
    """Returns the passes on the graph of operators, in order.

    Args:
        config: Graph-level decisions.
        note: Called, while the passes run, with the name of each component that changes the
            module, see ``tvm_costmodel.compilers.components``.
    """
    merges = config.merge_matmuls
    annotations = KernelAnnotations(dict(config.kernels), merges) if config.kernels else None
    if annotations:
        note("pass/kernel_annotations")
    passes = [
        *([annotations.note()] if annotations else []),
        buildable_forms(lambda: note("pass/buildable_forms")),
        *([merge_matmuls(lambda: note("pass/merge_matmuls"))] if merges else []),
        fold_constants(note),
        fold_batch_norm(config.fold_batch_norm, note),
        # A binding of one variable to another stops ConvertLayout from passing layouts on.
        transform.CanonicalizeBindings(),
    ]
    if config.layout != "NCHW" or config.stage_layouts:
        stages = dict(config.stage_layouts)
        passes.append(convert_layouts(config.layout, stages, note))
    passes += [decompose_for_inference(), fold_constants(note)]
    if config.cancel_transposes:
        passes.append(sink_transposes(note))
    if config.precision == "float16":
        passes.append(to_mixed_precision(lambda: note("pass/mixed_precision")))
    return [*passes, annotations.legalise()] if annotations else passes


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
    return [*passes, transform.DeadCodeElimination()]


def machine_passes(target: tvm.target.Target) -> list[tvm.transform.Pass]:
    """Returns the passes that lower a graph of PrimFuncs for the virtual machine, in order."""
    return [
        *cpu_lowering.library_dispatch_passes(target),
        *cpu_lowering.dataflow_lower_passes(target),
        *cpu_lowering.finalize_passes(target),
    ]
