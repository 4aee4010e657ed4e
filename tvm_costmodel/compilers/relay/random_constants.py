"""Random constants in place of computed constants, for measuring latency alone.

Folding constants is most of a Relay build: every weight whose layout changes goes through
a compiled function of its own. Latency does not depend on the values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relay

_POOL = 1 << 18
_FOLDED_FROM = 2  # the level from which on Relay folds constants; below they are computed each run


def draw_constants() -> tvm.transform.Pass:
    """A pass that replaces constant-only expressions of real numbers by random constants.

    Integers stay, since they may be shapes and indices, and so do modules with bindings or
    branches, which are left to FoldConstant.
    """

    @tvm.transform.module_pass(opt_level=_FOLDED_FROM, name="DrawConstants")
    def run(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        mod = relay.transform.InferType()(mod)
        main = mod["main"]
        body = _Drawer().rewrite(main.body)
        if body is None:
            return mod
        result = tvm.IRModule(dict(mod.functions.items()), mod.type_definitions)
        result["main"] = relay.Function(main.params, body, main.ret_type, attrs=main.attrs)
        return relay.transform.InferType()(result)

    return run


class _Drawer:
    """Rewrites an expression bottom up, along a list instead of by recursion."""

    def __init__(self) -> None:
        self._rewritten: dict[int, Any] = {}  # by the old expression's address
        self._constant: dict[int, Any] = {}  # constant-only expressions that were not needed yet
        generator = np.random.default_rng(20)
        self._weights = generator.uniform(-1, 1, _POOL)
        self._scales = generator.uniform(0.5, 1, _POOL)

    def rewrite(self, body: Any) -> Any:
        """The expression with constants drawn, or None where it has other kinds of nodes."""
        order: list[Any] = []
        relay.analysis.post_order_visit(body, order.append)
        values = (relay.Call, relay.Tuple, relay.TupleGetItem, relay.Constant, relay.Var)
        plain = (*values, tvm.ir.Op)
        if not all(isinstance(expr, plain) for expr in order):
            return None
        for expr in order:
            self._visit(expr)
        return self._get(body)

    def _visit(self, expr: Any) -> None:
        key = expr.handle.value
        if isinstance(expr, relay.Constant):
            self._constant[key] = expr
        elif isinstance(expr, relay.Call):
            args = list(expr.args)
            if (
                args
                and self._are_constant(args)
                and _is_real(expr.checked_type)
                and _is_pure(expr.op)
            ):
                self._constant[key] = expr
                return
            operands = [self._get(arg) for arg in args]
            if any(after is not arg for after, arg in zip(operands, args, strict=True)):
                self._rewritten[key] = relay.Call(
                    expr.op, operands, expr.attrs, expr.type_args, expr.span
                )
        elif isinstance(expr, relay.Tuple):
            fields = list(expr.fields)
            if fields and self._are_constant(fields):
                self._constant[key] = expr
                return
            self._rewritten[key] = relay.Tuple([self._get(field) for field in fields])
        elif isinstance(expr, relay.TupleGetItem):
            if self._are_constant([expr.tuple_value]) and _is_real(expr.checked_type):
                self._constant[key] = expr
                return
            self._rewritten[key] = relay.TupleGetItem(self._get(expr.tuple_value), expr.index)

    def _are_constant(self, parts: list[Any]) -> bool:
        return all(part.handle.value in self._constant for part in parts)

    def _get(self, expr: Any) -> Any:
        key = expr.handle.value
        value = self._constant.get(key)
        if value is None:
            return self._rewritten.get(key, expr)
        if isinstance(value, relay.Tuple):
            return relay.Tuple([self._get(field) for field in value.fields])
        if not isinstance(value, relay.Constant):
            value = self._constant[key] = self._draw(expr.checked_type)
        return value

    def _draw(self, ty: Any) -> Any:
        """Vectors are positive and near 1, as they may divide; others keep activations in range."""
        if isinstance(ty, relay.TupleType):
            return relay.Tuple([self._draw(field) for field in ty.fields])
        shape = tuple(int(extent) for extent in ty.shape)
        size = math.prod(shape)
        if size == max(shape, default=1):
            values = np.resize(self._scales, shape)
        else:
            values = np.resize(self._weights * math.sqrt(3 * shape[0] / size), shape)
        return relay.const(values.astype(str(ty.dtype)), str(ty.dtype))


def _is_real(ty: Any) -> bool:
    if isinstance(ty, relay.TupleType):
        return all(map(_is_real, ty.fields))
    if not isinstance(ty, relay.TensorType) or not str(ty.dtype).startswith("float"):
        return False
    return all(isinstance(extent, tvm.tir.IntImm) for extent in ty.shape)


def _is_pure(op: Any) -> bool:
    return isinstance(op, tvm.ir.Op) and not op.get_attr("TOpIsStateful")
