"""The walk over a Relax function in Python: the native walk's twin.

It is used where the native extension was not built, and the native walk is tested against it.
``csrc/relax_walk.cc`` follows it function by function; change both together.
"""

from __future__ import annotations

from typing import Any

from tvm_costmodel.frontends.graph_arrays import WEIGHT, GraphArrays, GraphArraysBuilder
from tvm_costmodel.frontends.values import Aggregate, Leaf, Literal, LocalFunction, Value


def walk(function: Any, inputs: int) -> GraphArrays:
    """Walks a ``tvm.relax.Function``.

    Args:
        function: The function.
        inputs: How many of its parameters are inputs of the network; the others are weights.
    """
    return _Walker().run(function, inputs)


class _Walker:
    def __init__(self) -> None:
        import tvm_ffi
        from tvm import ir, relax

        self._ir: Any = ir
        self._relax: Any = relax
        self._array: Any = tvm_ffi.Array
        self._build = GraphArraysBuilder()
        self._values: dict[int, Value] = {}  # by the variable's address

    def run(self, function: Any, inputs: int) -> GraphArrays:
        for position, param in enumerate(function.params):
            if position < inputs:
                outputs: list[int] = []
                value = self._unfold(param.ty, self._build.count, outputs)
                self._build.operator("input", [], outputs, [], str(param.name))
            else:
                value = self._unfold(param.ty, WEIGHT, [])
            self._values[param.__chandle__()] = value
        leaves: list[Leaf] = []
        _flatten(self._sequence(function.body), leaves)
        self._build.results([(leaf.producer, leaf.index) for leaf in leaves])
        return self._build.arrays()

    def _sequence(self, sequence: Any) -> Value:
        for block in sequence.blocks:
            for binding in block.bindings:
                value = self._evaluate(binding.value, str(binding.var.name))
                self._values[binding.var.__chandle__()] = value
        return self._evaluate(sequence.body, "")

    def _evaluate(self, expr: Any, name: str) -> Value:
        ir, relax = self._ir, self._relax
        if isinstance(expr, ir.Call):
            return self._call(expr, name)
        if isinstance(expr, ir.Var):
            return self._values.get(expr.__chandle__(), Literal(-1))
        if isinstance(expr, ir.GenericConst):
            return Leaf(WEIGHT, self._type(expr.ty))
        if isinstance(expr, ir.Tuple):
            return Aggregate(tuple(self._evaluate(item, "") for item in expr.fields))
        if isinstance(expr, ir.TupleGetItem):
            value = self._evaluate(expr.tuple_value, "")
            return value.fields[expr.index] if isinstance(value, Aggregate) else value
        if isinstance(expr, relax.If):
            return self._branch(expr, name)
        if isinstance(expr, relax.Function):
            captured: list[Leaf] = []
            self._capture(expr, captured)
            return LocalFunction(name, tuple(captured))
        if isinstance(expr, relax.SeqExpr):
            return self._sequence(expr)
        return Literal(self._literal(expr))

    def _literal(self, value: Any) -> Any:
        """The value of an attribute, an extent or a callee in plain Python."""
        ir, relax = self._ir, self._relax
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, self._array):
            return tuple(self._literal(item) for item in value)
        if isinstance(value, (ir.prim.IntImm, ir.prim.FloatImm)):
            return value.value
        if isinstance(value, ir.StringImm):
            return str(value.value)
        if isinstance(value, relax.ShapeExpr):
            return tuple(self._literal(extent) for extent in value.values)
        if isinstance(value, ir.PrimType):
            return str(value.dtype)
        if isinstance(value, ir.GlobalVar):
            return str(value.name_hint)
        if isinstance(value, relax.ExternFunc):
            return str(value.global_symbol)
        if isinstance(value, ir.Expr):
            return -1  # an extent known at run time only
        return "object"

    def _call(self, call: Any, name: str) -> Value:
        operands: list[tuple[int, int]] = []
        attrs: list[tuple[str, Any]] = []
        op = self._callee(call.op, operands, attrs)
        for position, arg in enumerate(call.args):
            _operand(self._evaluate(arg, ""), f"arg{position}", operands, attrs)
        if call.attrs is not None:
            for key in _fields(type(call.attrs)):
                attrs.append((key, self._literal(getattr(call.attrs, key))))
        return self._append(op, operands, attrs, call.ty, name)

    def _callee(
        self, callee: Any, operands: list[tuple[int, int]], attrs: list[tuple[str, Any]]
    ) -> str:
        if isinstance(callee, self._ir.Op):
            return str(callee.name)
        _operand(self._evaluate(callee, ""), "callee", operands, attrs)
        return "call_packed" if isinstance(callee, self._relax.ExternFunc) else "call"

    def _branch(self, branch: Any, name: str) -> Value:
        """An ``if`` is one opaque operator that reads its condition and all that it captures."""
        operands: list[tuple[int, int]] = []
        attrs: list[tuple[str, Any]] = []
        _operand(self._evaluate(branch.cond, ""), "cond", operands, attrs)
        captured: list[Leaf] = []
        self._capture(branch.true_branch, captured)
        self._capture(branch.false_branch, captured)
        operands += [(leaf.producer, leaf.index) for leaf in captured]
        return self._append("if", operands, attrs, branch.ty, name)

    def _capture(self, expr: Any, captured: list[Leaf]) -> None:
        """Collects the values of this function that an expression of an inner one reads."""
        ir, relax = self._ir, self._relax
        if isinstance(expr, ir.Var):
            value = self._values.get(expr.__chandle__())
            leaves: list[Leaf] = []
            if value is not None:
                _flatten(value, leaves)
            captured += [leaf for leaf in leaves if leaf not in captured]
        elif isinstance(expr, ir.Call):
            self._capture(expr.op, captured)
            for arg in expr.args:
                self._capture(arg, captured)
        elif isinstance(expr, ir.Tuple):
            for item in expr.fields:
                self._capture(item, captured)
        elif isinstance(expr, ir.TupleGetItem):
            self._capture(expr.tuple_value, captured)
        elif isinstance(expr, relax.If):
            for part in (expr.cond, expr.true_branch, expr.false_branch):
                self._capture(part, captured)
        elif isinstance(expr, relax.Function):
            self._capture(expr.body, captured)
        elif isinstance(expr, relax.SeqExpr):
            for block in expr.blocks:
                for binding in block.bindings:
                    self._capture(binding.value, captured)
            self._capture(expr.body, captured)

    def _append(
        self,
        op: str,
        operands: list[tuple[int, int]],
        attrs: list[tuple[str, Any]],
        ty: Any,
        name: str,
    ) -> Value:
        outputs: list[int] = []
        value = self._unfold(ty, self._build.count, outputs)
        self._build.operator(op, operands, outputs, attrs, name)
        return value

    def _unfold(self, ty: Any, producer: int, outputs: list[int]) -> Value:
        """The value of a type, its tensors numbered depth first."""
        if isinstance(ty, self._ir.TupleType):
            return Aggregate(tuple(self._unfold(item, producer, outputs) for item in ty.fields))
        outputs.append(self._type(ty))
        return Leaf(producer, outputs[-1] if producer == WEIGHT else len(outputs) - 1)

    def _type(self, ty: Any) -> int:
        relax = self._relax
        if isinstance(ty, relax.TensorType):
            dtype = "unknown" if ty.dtype is None else str(ty.dtype.dtype)
            if isinstance(ty.shape, relax.ShapeExpr):
                return self._build.type(dtype, self._extents(ty.shape.values))
            return self._build.type(dtype, (-1,) * abs(ty.ndim))  # unknown rank (-1): one extent
        if isinstance(ty, relax.ShapeType):
            return self._build.type("shape", (ty.ndim,))
        if isinstance(ty, self._ir.PrimType):
            return self._build.type(str(ty.dtype), ())
        return self._build.type("object", ())

    def _extents(self, values: Any) -> tuple[int, ...]:
        return tuple(v.value if isinstance(v, self._ir.prim.IntImm) else -1 for v in values)


def _operand(
    value: Value, key: str, operands: list[tuple[int, int]], attrs: list[tuple[str, Any]]
) -> None:
    """Appends a value to an operator's operands or to its attributes."""
    if isinstance(value, Leaf):
        operands.append((value.producer, value.index))
    elif isinstance(value, Literal):
        attrs.append((key, value.value))
    elif isinstance(value, LocalFunction):
        attrs.append((key, value.name))
        operands += [(leaf.producer, leaf.index) for leaf in value.captured]
    elif _is_literal(value):
        attrs.append((key, _plain(value)))
    else:
        for position, item in enumerate(value.fields):
            _operand(item, f"{key}.{position}", operands, attrs)


def _is_literal(value: Value) -> bool:
    if isinstance(value, Aggregate):
        return all(_is_literal(item) for item in value.fields)
    return isinstance(value, Literal)


def _plain(value: Any) -> Any:
    if isinstance(value, Aggregate):
        return tuple(_plain(item) for item in value.fields)
    return value.value


def _flatten(value: Value, leaves: list[Leaf]) -> None:
    if isinstance(value, Leaf):
        leaves.append(value)
    elif isinstance(value, LocalFunction):
        leaves += value.captured
    elif isinstance(value, Aggregate):
        for item in value.fields:
            _flatten(item, leaves)


def _fields(attrs_type: Any) -> list[str]:
    """Reflected field names in declaration order; free-form dictionaries have none."""
    names = [str(item.name) for item in attrs_type.__tvm_ffi_type_info__.fields]
    return [name for name in names if name != "__dict__"]
