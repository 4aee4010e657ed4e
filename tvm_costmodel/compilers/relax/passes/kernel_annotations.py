"""Carries the decisions for single operators from the source graph to their kernels.

An operator is named by its id in the graph that ``from_relax`` reads from the module before any
pass. Passes drop every mark that an operator could carry, but they keep the order of convolutions
and matrix products; so these are counted off where ids are known, and again where they become
PrimFuncs. The decision then is an annotation of the PrimFunc's sum, which survives fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import Call
from tvm.relax import transform
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import KERNEL_DECISION, KernelDecision
from tvm_costmodel.compilers.relax.passes.fold_constants import operator_name
from tvm_costmodel.errors import BuildError
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.tunable_ops import mergeable_matmuls, tunable_operators

Kernels = Mapping[int, KernelDecision]


class KernelAnnotations:
    """The two passes of one build that carry the decisions for kernels.

    Args:
        kernels: Decisions by operator id.
        merge_matmuls: Whether matrix products of one input will be merged; the first then stands
            for all of them.
    """

    def __init__(self, kernels: Kernels, merge_matmuls: bool = False) -> None:
        self._kernels, self._merge_matmuls = dict(kernels), merge_matmuls
        self._ids: dict[str, list[int]] = {}

    def note(self) -> tvm.transform.Pass:
        """A pass that notes the ids of the source module's operators and changes nothing.

        Raises:
            BuildError: A decision names an operator that is not there, or is of another kind.
        """

        @tvm.transform.module_pass(opt_level=0, name="NoteTunedOperators")
        def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
            graph = from_relax(mod)
            self._ids = tunable_operators(graph)
            known = {i for ids in self._ids.values() for i in ids}
            for i in self._kernels:
                if i not in known:
                    what = f"is {graph.operators[i].op}" if 0 <= i < len(graph) else "is not there"
                    raise BuildError(
                        f"a kernel decision names operator {i}, which {what}; name "
                        f"convolutions and matrix products: {sorted(known)[:20]}"
                    )
            if self._merge_matmuls:
                merged = {i for group in mergeable_matmuls(graph) for i in group[1:]}
                self._ids = {
                    name: [i for i in ids if i not in merged] for name, ids in self._ids.items()
                }
            return mod

        return run

    def legalise(self) -> tvm.transform.Pass:
        """A pass that makes annotated PrimFuncs of the tuned operators, before LegalizeOps.

        Raises:
            BuildError: Other passes added or removed operators, so that they cannot be identified.
        """

        @tvm.transform.module_pass(opt_level=0, name="LegalizeTunedOperators")
        def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
            change = _Legaliser(mod, self._kernels, self._ids)
            variable = mod.get_global_var("main")
            func = change.visit_expr(mod[variable])
            change.check()
            legalised = change.builder_.get()
            legalised.update_func(legalised.get_global_var("main"), func)
            return transform.DeadCodeElimination()(legalised)

        return run


@mutator
class _Legaliser(PyExprMutator):
    """Counts convolutions and matrix products, and legalises the tuned ones."""

    def __init__(self, mod: tvm.IRModule, kernels: Kernels, ids: Mapping[str, list[int]]) -> None:
        super().__init__(mod)
        self.kernels, self.ids = kernels, ids
        self.counts = dict.fromkeys(ids, 0)

    def check(self) -> None:
        """Compares the number of operators with that of the source."""
        for name, ids in self.ids.items():
            if self.counts[name] != len(ids) and any(i in self.kernels for i in ids):
                raise BuildError(
                    f"the passes made {self.counts[name]} of {len(ids)} operators {name}, so that "
                    "their kernels cannot be identified; leave out rewrites that merge them"
                )

    def visit_call_(self, call: Call) -> Any:
        """Legalises a tuned operator."""
        call = self.visit_expr_post_order(call)
        name = operator_name(call)
        ids = self.ids.get(name)
        if ids is None:
            return call
        number = self.counts[name]
        self.counts[name] += 1
        decision = self.kernels.get(ids[number]) if number < len(ids) else None
        if decision is None or decision == KernelDecision():
            return call
        legalised = call.op.get_attr("FLegalize")(self.builder_, call)
        if not isinstance(legalised, Call) or operator_name(legalised) != "relax.call_tir":
            raise BuildError(f"operator {ids[number]} ({name}) has no PrimFunc of its own")
        variable = legalised.args[0]
        func = self.builder_.get()[variable]
        annotated = _annotated(func, decision)
        renewed = self.builder_.add_func(annotated, variable.name_hint)
        return Call(
            legalised.op, [renewed, *legalised.args[1:]], legalised.attrs, legalised.ty_args
        )


def _annotated(func: tirx.PrimFunc, decision: KernelDecision) -> tirx.PrimFunc:
    sch = s_tir.Schedule(func, error_render_level="fast")
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        stmt = sch.get(block)
        if any(axis.iter_type == tirx.IterVar.CommReduce for axis in stmt.iter_vars):
            sch.annotate(block, KERNEL_DECISION, decision.to_json())
    result = sch.mod["main"].without_attr("global_symbol")
    for key, value in (func.attrs or {}).items():
        if key not in (result.attrs or {}) and key != "global_symbol":
            result = result.with_attr(key, value)
    return result
