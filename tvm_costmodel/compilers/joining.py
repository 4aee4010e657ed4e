"""Matrix products of one input with constant weights, joined into one product and slices of it."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, Var
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_costmodel.compilers.decidable import joined_products
from tvm_costmodel.compilers.folding import constant, constant_value, operator_name
from tvm_costmodel.frontends.relax import from_relax


class _Group:
    """The products of one input."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.joined: Var | None = None
        self.taken = 0


def _input_and_weights(call: Call) -> tuple[Var, np.ndarray] | None:
    x, weights = call.args
    if not (isinstance(x, Var) and isinstance(weights, GenericConst)):
        return None
    return x, constant_value(weights)


@mutator
class _Joiner(PyExprMutator):
    """Replaces the products of each group by slices of one."""

    def __init__(self, mod: tvm.IRModule, groups: dict[int, _Group]) -> None:
        super().__init__(mod)
        self.groups, self.seen = groups, 0

    def visit_call_(self, call: Call) -> Expr:
        """Joins a matrix product that belongs to a group."""
        call = self.visit_expr_post_order(call)
        if operator_name(call) != "relax.matmul":
            return call
        group = self.groups.get(self.seen)
        self.seen += 1
        if group is None:
            return call
        if group.joined is None:
            joined = constant(np.concatenate(group.weights, axis=1))
            out_dtype = call.attrs.out_dtype
            group.joined = self.builder_.emit(
                relax.op.matmul(call.args[0], joined, out_dtype=out_dtype or None)
            )
        width = int(call.ty.shape[-1])
        begin, axis = group.taken, call.ty.ndim - 1
        group.taken += width
        return relax.op.strided_slice(group.joined, [axis], [begin], [begin + width])


def join_products() -> tvm.transform.Pass:
    """A pass that joins what ``decidable.joined_products`` names."""

    @tvm.transform.module_pass(opt_level=0, name="JoinProducts")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        mod = relax.transform.DeadCodeElimination()(mod)
        wanted = joined_products(from_relax(mod))
        calls: list[Call] = []

        def visit(expr: Expr) -> None:
            if operator_name(expr) == "relax.matmul":
                calls.append(expr)

        relax.analysis.post_order_visit(mod["main"], visit)
        groups: dict[int, _Group] = {}
        for members in wanted:
            group = _Group()
            for number in members:
                found = _input_and_weights(calls[number])
                assert found is not None
                group.weights.append(found[1])
                groups[number] = group
        if not groups:
            return mod
        result = mod.clone()
        result[mod.get_global_var("main")] = _Joiner(mod, groups).visit_expr(mod["main"])
        return result

    return run
