"""Carries what was decided for single operators from the source graph to their kernels.

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

from tvm_costmodel.compilers.cpu_rule.decision import KERNEL_DECISION, KernelDecision
from tvm_costmodel.compilers.decidable import decidable_operators, joinable
from tvm_costmodel.compilers.folding import operator_name
from tvm_costmodel.errors import BuildError
from tvm_costmodel.frontends.relax import from_relax

Kernels = Mapping[int, KernelDecision]


class DecidedKernels:
    """The two passes of one build that carry kernels' decisions.

    Args:
        kernels: Decisions by operator id.
        joined: Whether products of one input will be joined; the first stands for all of them.
    """

    def __init__(self, kernels: Kernels, joined: bool = False) -> None:
        self._kernels, self._joined = dict(kernels), joined
        self._ids: dict[str, list[int]] = {}

    def note(self) -> tvm.transform.Pass:
        """A pass that notes the ids of the source module's operators and changes nothing.

        Raises:
            BuildError: A decision names an operator that is not there, or is of another kind.
        """

        @tvm.transform.module_pass(opt_level=0, name="NoteDecidedOperators")
        def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
            graph = from_relax(mod)
            self._ids = decidable_operators(graph)
            known = {i for ids in self._ids.values() for i in ids}
            for i in self._kernels:
                if i not in known:
                    what = f"is {graph.operators[i].op}" if 0 <= i < len(graph) else "is not there"
                    raise BuildError(
                        f"a kernel is decided for operator {i}, which {what}; decide for "
                        f"convolutions and matrix products: {sorted(known)[:20]}"
                    )
            if self._joined:
                gone = {i for members in joinable(graph) for i in members[1:]}
                self._ids = {
                    name: [i for i in ids if i not in gone] for name, ids in self._ids.items()
                }
            return mod

        return run

    def legalise(self) -> tvm.transform.Pass:
        """A pass that makes annotated PrimFuncs of the decided operators, before LegalizeOps.

        Raises:
            BuildError: Other passes added or removed operators, so that they cannot be told apart.
        """

        @tvm.transform.module_pass(opt_level=0, name="LegalizeDecidedOperators")
        def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
            change = _Legaliser(mod, self._kernels, self._ids)
            variable = mod.get_global_var("main")
            func = change.visit_expr(mod[variable])
            change.check()
            made = change.builder_.get()
            made.update_func(made.get_global_var("main"), func)
            return transform.DeadCodeElimination()(made)

        return run


@mutator
class _Legaliser(PyExprMutator):
    """Counts convolutions and matrix products, and legalises those that are decided."""

    def __init__(self, mod: tvm.IRModule, kernels: Kernels, ids: Mapping[str, list[int]]) -> None:
        super().__init__(mod)
        self.kernels, self.ids = kernels, ids
        self.seen = dict.fromkeys(ids, 0)

    def check(self) -> None:
        """Holds the operators seen against those of the source."""
        for name, ids in self.ids.items():
            if self.seen[name] != len(ids) and any(i in self.kernels for i in ids):
                raise BuildError(
                    f"the passes made {self.seen[name]} of {len(ids)} operators {name}, so that "
                    "kernels cannot be decided for them; leave out rewrites that join them"
                )

    def visit_call_(self, call: Call) -> Any:
        """Legalises a decided operator."""
        call = self.visit_expr_post_order(call)
        name = operator_name(call)
        ids = self.ids.get(name)
        if ids is None:
            return call
        number = self.seen[name]
        self.seen[name] += 1
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
