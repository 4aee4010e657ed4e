"""Mixed precision: what convolutions and matrix products read is stored in float16.

``graph_passes.mixed_precision`` chooses the values and holds this pass's twin on an OpGraph.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, Tuple, TupleGetItem, Var
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_costmodel.compilers.relax.passes.fold_constants import (
    constant,
    constant_value,
    operator_name,
)
from tvm_costmodel.graph_passes.mixed_precision import (
    FLOAT16_MOVERS,
    FLOAT16_READERS,
    Step,
    float16_values,
)
from tvm_costmodel.ops.aliases import canonical_name

_FULL, _HALF = "float32", "float16"

_Value = tuple[Var, int]
"""A result of the call that a variable is bound to."""


def to_mixed_precision(note: Callable[[], None] = lambda: None) -> tvm.transform.Pass:
    """A pass that stores chosen values in float16; the last one on the graph.

    Args:
        note: Called where it converts some.
    """

    @tvm.transform.module_pass(opt_level=0, name="ToMixedPrecision")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        result = mod.clone()
        for variable, func in mod.functions_items():
            if isinstance(func, relax.Function) and not (func.attrs or {}).get("Primitive"):
                change = _MixedPrecisionMutator(mod, _stored_half(func))
                result[variable] = change.visit_expr(func)
                if change.stored_half or change.casts:
                    note()
        return relax.transform.DeadCodeElimination()(result)

    return run


def _name(call: object) -> str:
    raw = operator_name(call)
    return (canonical_name("relax", raw) or raw) if raw else ""


class _Values:
    """The values that the variables of a function stand for."""

    def __init__(self) -> None:
        self._bound: dict[Var, Expr] = {}

    def bind(self, variable: Var, expr: Expr) -> None:
        """Notes a binding that is no call."""
        self._bound[variable] = expr

    def of(self, expr: Expr) -> list[_Value]:
        """The values that an argument holds, those of tuples one by one."""
        if isinstance(expr, Tuple):
            return [value for field in expr.fields for value in self.of(field)]
        if isinstance(expr, TupleGetItem):
            source = expr.tuple_value
            while isinstance(source, Var) and source in self._bound:
                source = self._bound[source]
            if isinstance(source, Tuple):
                return self.of(source.fields[expr.index])
            return [(source, int(expr.index))]
        if not isinstance(expr, Var):
            return []
        if expr in self._bound:
            return self.of(self._bound[expr])
        ty = expr.ty
        count = len(ty.fields) if isinstance(ty, tvm.ir.TupleType) else 1
        return [(expr, index) for index in range(count)]


def _stored_half(func: relax.Function) -> set[int]:
    """Hashes of the calls whose results are stored in float16."""
    values, steps, calls = _Values(), [], {}
    body = func.body
    if not isinstance(body, relax.SeqExpr):
        return set()
    for block in body.blocks:
        for binding in block.bindings:
            expr = binding.value
            if not isinstance(expr, Call):
                values.bind(binding.var, expr)
                continue
            inputs = [value for arg in expr.args for value in values.of(arg)]
            outputs = values.of(binding.var)
            calls[binding.var] = hash(expr)
            tensors = [_dtype(*value) for value in (*inputs, *outputs)]
            tensors += [_scalar_type(arg) for arg in _constants(expr)]
            is_float32 = all(dtype == _FULL for dtype in tensors)
            steps.append(Step(_name(expr), tuple(inputs), tuple(outputs), is_float32))
    interface = [value for parameter in func.params for value in values.of(parameter)]
    chosen = float16_values(steps, [*interface, *values.of(body.body)])
    return {call for variable, call in calls.items() if (variable, 0) in chosen}


def _constants(call: Call) -> list[GenericConst]:
    flat = [f for a in call.args for f in (a.fields if isinstance(a, Tuple) else [a])]
    return [field for field in flat if isinstance(field, GenericConst)]


def _dtype(variable: Var, index: int) -> str:
    ty = variable.ty
    if isinstance(ty, tvm.ir.TupleType):
        ty = ty.fields[index]
    return str(getattr(ty, "dtype", ""))


@mutator
class _MixedPrecisionMutator(PyExprMutator):
    """Converts operands to what their operators read, and results to what is stored.

    Args:
        mod: The module that the function is from.
        stored_half: Hashes of the calls whose results are stored in float16.
    """

    def __init__(self, mod: tvm.IRModule, stored_half: set[int]) -> None:
        super().__init__(mod)
        self.stored_half = stored_half
        self.casts: dict[Var, Var] = {}  # float16 copy of a float32 variable

    def visit_call_(self, call: Call) -> Expr:
        """Rewrites one call and converts its operands."""
        if not operator_name(call).startswith("relax."):
            return self.visit_expr_post_order(call)
        args = [self.visit_expr(arg) for arg in call.args]
        name, stored_half = _name(call), hash(call) in self.stored_half
        if name in FLOAT16_MOVERS and stored_half:
            return _renewed(call, [self._half(arg) for arg in args])
        if name in FLOAT16_READERS and all(_scalar_type(e) == _FULL for e in (call, *call.args)):
            result = _with_float32_result(call, *(self._half(arg) for arg in args))
        else:
            casts: dict[Var, Expr] = {}
            pairs = zip(call.args, args, strict=True)
            result = _renewed(call, [self._full(source, arg, casts) for source, arg in pairs])
        return relax.op.astype(self.builder_.emit(result), _HALF) if stored_half else result

    def _full(self, source: Expr, arg: Expr, casts: dict[Var, Expr]) -> Expr:
        """An operand in float32, where it was float32 in the source and is stored in float16."""
        if isinstance(arg, Tuple) and isinstance(source, Tuple):
            pairs = zip(source.fields, arg.fields, strict=True)
            return Tuple([self._full(before, now, casts) for before, now in pairs])
        if not isinstance(arg, Var) or (_scalar_type(source), _scalar_type(arg)) != (_FULL, _HALF):
            return arg
        if arg not in casts:
            casts[arg] = self.builder_.emit(relax.op.astype(arg, _FULL))
        return casts[arg]

    def _half(self, arg: Expr) -> Expr:
        if isinstance(arg, Tuple):
            return Tuple([self._half(field) for field in arg.fields])
        if _scalar_type(arg) != _FULL:
            return arg
        if isinstance(arg, GenericConst):
            return constant(constant_value(arg).astype(_HALF))
        if arg not in self.casts:
            self.casts[arg] = self.builder_.emit(relax.op.astype(arg, _HALF))
        return self.casts[arg]


def _scalar_type(expr: Expr) -> str:
    """Type of a tensor's elements; empty where the expression is no tensor."""
    return str(getattr(getattr(expr, "ty", None), "dtype", ""))


def _renewed(call: Call, args: list[Expr]) -> Call:
    if all(new is old for new, old in zip(args, call.args, strict=True)):
        return call
    return Call(call.op, args, call.attrs, call.ty_args)


def _with_float32_result(call: Call, left: Expr, right: Expr) -> Call:
    attrs = call.attrs
    if operator_name(call) == "relax.matmul":
        return relax.op.matmul(left, right, out_dtype=_FULL)
    return relax.op.nn.conv2d(
        left,
        right,
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
        groups=attrs.groups,
        data_layout=attrs.data_layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=attrs.out_layout,
        out_dtype=_FULL,
    )
