"""Matrix products of one input with constant weights, merged into one and slices of its result.

The twin of ``graph_passes.merge_matmuls``, which does the same on an OpGraph.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, Var
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_costmodel.compilers.relax.passes.fold_constants import (
    constant,
    constant_value,
    operator_name,
)
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.tunable_ops import merged_matmuls


class _Group:
    """The matrix products of one input.

    Attributes:
        weights: Weights of each, in order.
        merged: The product of all weights; None before the first of them is rewritten.
        used_columns: Columns of ``merged`` that slices were already made of.
    """

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.merged: Var | None = None
        self.used_columns = 0


def _input_and_weights(call: Call) -> tuple[Var, np.ndarray] | None:
    x, weights = call.args
    if not (isinstance(x, Var) and isinstance(weights, GenericConst)):
        return None
    return x, constant_value(weights)


@mutator
class _MatmulMerger(PyExprMutator):
    """Replaces the matrix products of each group by slices of one."""

    def __init__(self, mod: tvm.IRModule, groups: dict[int, _Group]) -> None:
        super().__init__(mod)
        self.groups, self.count = groups, 0

    def visit_call_(self, call: Call) -> Expr:
        """Merges a matrix product that belongs to a group."""
        call = self.visit_expr_post_order(call)
        if operator_name(call) != "relax.matmul":
            return call
        group = self.groups.get(self.count)
        self.count += 1
        if group is None:
            return call
        if group.merged is None:
            weights = constant(np.concatenate(group.weights, axis=1))
            out_dtype = call.attrs.out_dtype
            group.merged = self.builder_.emit(
                relax.op.matmul(call.args[0], weights, out_dtype=out_dtype or None)
            )
        width = int(call.ty.shape[-1])
        start, axis = group.used_columns, call.ty.ndim - 1
        group.used_columns += width
        return relax.op.strided_slice(group.merged, [axis], [start], [start + width])


def merge_matmuls(note: Callable[[], None] = lambda: None) -> tvm.transform.Pass:
    """A pass that merges the matrix products of ``tunable_ops.merged_matmuls``.

    Args:
        note: Called where there are some.
    """

    @tvm.transform.module_pass(opt_level=0, name="MergeMatmuls")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        mod = relax.transform.DeadCodeElimination()(mod)
        positions = merged_matmuls(from_relax(mod))
        calls: list[Call] = []

        def visit(expr: Expr) -> None:
            if operator_name(expr) == "relax.matmul":
                calls.append(expr)

        relax.analysis.post_order_visit(mod["main"], visit)
        groups: dict[int, _Group] = {}
        for numbers in positions:
            group = _Group()
            for number in numbers:
                operands = _input_and_weights(calls[number])
                assert operands is not None
                group.weights.append(operands[1])
                groups[number] = group
        if not groups:
            return mod
        note()
        result = mod.clone()
        result[mod.get_global_var("main")] = _MatmulMerger(mod, groups).visit_expr(mod["main"])
        return result

    return run
