"""The walk over a Relay function: every form of Relay program, and no recursion along chains.

It fills the same arrays as the walk over Relax. Expressions are visited on a stack of our own, so
that a chain of any length walks; Python recurses only into functions nested inside functions.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_costmodel.errors import GraphError, UnsupportedOperatorError
from tvm_costmodel.frontends.graph_arrays import WEIGHT, GraphArrays, GraphArraysBuilder
from tvm_costmodel.frontends.relay.ir_reader import RelayReader, address
from tvm_costmodel.frontends.relay.op_conversion import (
    LITERALS,
    TRANSPOSED,
    adapted,
    bias_shape,
    is_folded,
    swapped,
)
from tvm_costmodel.frontends.values import Aggregate, Leaf, Literal, LocalFunction, Value
from tvm_costmodel.graph.types import TensorType
from tvm_costmodel.ops import canonical_name

_OPAQUE = {"RefCreate": ("value",), "RefRead": ("ref",), "RefWrite": ("ref", "value")}
_OPAQUE_NAMES = {"RefCreate": "ref_create", "RefRead": "ref_read", "RefWrite": "ref_write"}


def walk(function: Any, weights: Collection[str] = ()) -> GraphArrays:
    """Walks a ``tvm.relay.Function`` whose types are inferred.

    Args:
        function: The function.
        weights: Names of the parameters that are weights of the network.

    Raises:
        GraphError: An expression has no type, or a variable is not bound.
        UnsupportedOperatorError: An expression is of a kind that a graph cannot hold.
    """
    return _Walker().run(function, weights)


@dataclass(slots=True)
class _Scope:
    """Values by the address of their expression; a function that is called opens a new scope."""

    values: dict[int, Value] = field(default_factory=dict)
    outer: _Scope | None = None

    def find(self, key: int) -> Value | None:
        """The value of an expression, here or in an outer scope."""
        scope: _Scope | None = self
        while scope is not None:
            value = scope.values.get(key)
            if value is not None:
                return value
            scope = scope.outer
        return None


@dataclass(slots=True)
class _Frame:
    """An expression on the stack of the walk.

    Attributes:
        expr: The expression.
        key: Its address.
        parts: Expressions that its value is made of; None before they were looked up.
    """

    expr: Any
    key: int
    parts: list[tuple[Any, int]] | None = None


class _Walker:
    def __init__(self) -> None:
        relay: Any = importlib.import_module("tvm.relay")
        tvm: Any = importlib.import_module("tvm")
        self._relay, self._ir = relay, tvm.ir
        self._called = (tvm.ir.Op, relay.GlobalVar, relay.Function)
        self._build = GraphArraysBuilder()
        self._read = RelayReader(self._build)
        self._let_names: dict[int, str] = {}  # by the bound value's address

    def run(self, function: Any, weights: Collection[str]) -> GraphArrays:
        scope = _Scope()
        for param in function.params:
            name = str(param.name_hint)
            if name in weights:
                value = self._read.unfold(self._read.type_of(param), WEIGHT, [])
            else:
                outputs: list[int] = []
                value = self._read.unfold(self._read.type_of(param), self._build.count, outputs)
                self._build.operator("input", [], outputs, [], name)
            scope.values[address(param)] = value
        leaves = list(_leaves(self._evaluate(function.body, scope)))
        self._build.results([(leaf.producer, leaf.index) for leaf in leaves])
        return self._build.arrays()

    def _evaluate(self, root: Any, scope: _Scope) -> Value:
        """The value of an expression: its parts first, on a stack."""
        values = scope.values
        stack = [_Frame(root, address(root))]
        while stack:
            frame = stack[-1]
            if scope.find(frame.key) is not None:
                stack.pop()
                continue
            if frame.parts is None:
                frame.parts = [(part, address(part)) for part in self._parts(frame.expr)]
                pending = [p for p in frame.parts if scope.find(p[1]) is None]
                stack.extend(_Frame(*part) for part in reversed(pending))
                if pending:
                    continue
            if isinstance(frame.expr, self._relay.Let) and len(frame.parts) == 1:
                self._bind(frame, scope, stack)
                continue
            values[frame.key] = self._value(frame.expr, frame.key, frame.parts, scope)
            stack.pop()
        value = scope.find(address(root))
        assert value is not None
        return value

    def _parts(self, expr: Any) -> list[Any]:
        """The expressions that need a value before ``expr``."""
        relay = self._relay
        if isinstance(expr, relay.Call):
            callee = expr.op
            if type(callee) in self._called or type(callee).__name__ == "Constructor":
                return self._read.items(expr.args)
            return [callee, *expr.args]
        if isinstance(expr, relay.Tuple):
            return list(expr.fields)
        if isinstance(expr, relay.TupleGetItem):
            return [expr.tuple_value]
        if isinstance(expr, relay.Let):
            self._let_names[address(expr.value)] = str(expr.var.name_hint)
            return [expr.value]
        if isinstance(expr, relay.If):
            return [expr.cond]
        kind = type(expr).__name__
        if kind == "Match":
            return [expr.data]
        return [getattr(expr, name) for name in _OPAQUE.get(kind, ())]

    def _bind(self, frame: _Frame, scope: _Scope, stack: list[_Frame]) -> None:
        """Gives a let's variable its value and goes on with the body, which is the let's value."""
        assert frame.parts is not None
        value = scope.find(frame.parts[0][1])
        assert value is not None
        scope.values[address(frame.expr.var)] = value
        body = frame.expr.body
        frame.parts.append((body, address(body)))
        stack.append(_Frame(body, frame.parts[1][1]))

    def _value(self, expr: Any, key: int, parts: list[tuple[Any, int]], scope: _Scope) -> Value:
        """The value of an expression whose parts have theirs."""
        relay = self._relay
        values = [scope.find(part_key) or Literal(-1) for _, part_key in parts]
        if isinstance(expr, relay.Call):
            return self._call(expr, key, values, scope)
        if isinstance(expr, relay.Constant):
            return self._read.unfold(self._read.type_of(expr), WEIGHT, [])
        if isinstance(expr, relay.Tuple):
            return Aggregate(tuple(values))
        if isinstance(expr, relay.TupleGetItem):
            value = values[0]
            return value.fields[expr.index] if isinstance(value, Aggregate) else value
        if isinstance(expr, relay.Let):
            return values[1]
        if isinstance(expr, relay.If):
            return self._opaque("if", expr, key, values, scope, expr.true_branch, expr.false_branch)
        if isinstance(expr, relay.Function):
            return LocalFunction(self._let_names.get(key, ""), tuple(self._captured(scope, expr)))
        if isinstance(expr, relay.GlobalVar):
            return Literal(str(expr.name_hint))
        if isinstance(expr, self._ir.Op):
            return Literal(str(expr.name))
        kind = type(expr).__name__
        if kind == "Match":
            branches = [clause.rhs for clause in expr.clauses]
            return self._opaque("match", expr, key, values, scope, *branches)
        if kind in _OPAQUE:
            return self._opaque(_OPAQUE_NAMES[kind], expr, key, values, scope)
        if kind == "Constructor":
            return Literal(str(expr.name_hint))
        self._refuse(expr, kind)
        raise AssertionError

    def _refuse(self, expr: Any, kind: str) -> None:
        if isinstance(expr, self._relay.Var):
            raise GraphError(
                f"variable {expr.name_hint!r} is bound nowhere in the function: make it a "
                "parameter, for instance with relay.Function(relay.analysis.free_vars(body), body)"
            )
        raise UnsupportedOperatorError(
            f"a Relay expression of kind {kind} has no place in a graph; what has: calls, tuples, "
            "let, if, match, references, functions, constants and variables"
        )

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, call: Any, key: int, values: Sequence[Value], scope: _Scope) -> Value:
        callee = call.op
        if isinstance(callee, self._ir.Op):
            return self._operator(call, key, self._read.op_name(callee), values)
        if isinstance(callee, self._relay.Function):  # fused, composite, or written in place
            inner = _Scope(outer=scope)
            for param, value in zip(callee.params, values, strict=True):
                inner.values[address(param)] = value
            return self._evaluate(callee.body, inner)
        if isinstance(callee, self._relay.GlobalVar) or type(callee).__name__ == "Constructor":
            values = [Literal(str(callee.name_hint)), *values]
        operands: list[tuple[int, int]] = []
        attrs: list[tuple[str, Any]] = []
        _operand(values[0], "callee", operands, attrs)
        for position, value in enumerate(values[1:]):
            _operand(value, f"arg{position}", operands, attrs)
        return self._append("call", operands, attrs, call, key)

    def _operator(self, call: Any, key: int, raw: str, values: Sequence[Value]) -> Value:
        op = canonical_name("relay", raw)
        leaves, named = self._arguments(call, raw, values)
        outputs: list[int] = []
        folded = self._read.unfold(self._read.type_of(call), WEIGHT, outputs)
        types = [self._read.types[i] for i in outputs]
        if leaves and all(leaf.producer == WEIGHT for leaf in leaves) and is_folded(op, types):
            return folded
        named.update(self._read.attributes(call, raw, known=op is not None))
        if op is not None:
            operands = [self._read.leaf_type(leaf) for leaf in leaves]
            if raw in TRANSPOSED:
                leaves, operands = self._as_in_relax(raw, named, leaves, operands)
                op = "matmul"  # which is called dense where its right operand is a weight
            elif raw == "nn.bias_add" and leaves[1].producer == WEIGHT:
                bias, rank = operands[1], len(operands[0].shape)
                shape = bias_shape(bias.shape, int(named.pop("axis", 1)), rank)
                leaves[1] = Leaf(WEIGHT, self._read.type_id(bias.dtype, shape))
            op, named = adapted(raw, op, named, operands, types)
        pairs = [(leaf.producer, leaf.index) for leaf in leaves]
        name = self._let_names.get(key, "")
        producer = self._build.operator(op or raw, pairs, outputs, list(named.items()), name)
        return _numbered(folded, producer, itertools.count())

    def _arguments(
        self, call: Any, raw: str, values: Sequence[Value]
    ) -> tuple[list[Leaf], dict[str, Any]]:
        """Tensor arguments, and the other arguments as attributes."""
        leaves: list[Leaf] = []
        named: dict[str, Any] = {}
        literals = LITERALS.get(raw, {})
        for position, value in enumerate(values):
            argument = call.args[position] if position in literals else None
            if isinstance(argument, self._relay.Constant) and not argument.data.shape:
                named[literals[position]] = argument.data.numpy().item()
            elif isinstance(value, Literal):
                named[f"arg{position}"] = value.value
            else:
                leaves += _leaves(value)
        return leaves, named

    def _as_in_relax(
        self, raw: str, named: dict[str, Any], leaves: list[Leaf], types: list[TensorType]
    ) -> tuple[list[Leaf], list[TensorType]]:
        """Operands of a matrix product as Relax has them: [..., M, K] and [..., K, N].

        A weight takes the transposed type. A left operand that is stored transposed gets a
        transpose operator; a computed right one stays, as the matrix product reads it in place.
        """
        transposed = [
            bool(named.pop(f"transpose_{side}", TRANSPOSED[raw][i])) for i, side in _SIDES
        ]
        leaves, types = list(leaves), list(types)
        for i in (0, 1):
            type_, rank = types[i], len(types[i].shape)
            if not transposed[i] or rank < 2 or (i == 1 and leaves[i].producer != WEIGHT):
                continue
            types[i] = TensorType(swapped(type_.shape), type_.dtype)
            type_id = self._read.type_id(types[i].dtype, types[i].shape)
            if leaves[i].producer == WEIGHT:
                leaves[i] = Leaf(WEIGHT, type_id)
                continue
            axes = (*range(rank - 2), rank - 1, rank - 2)
            source = (leaves[i].producer, leaves[i].index)
            leaves[i] = Leaf(
                self._build.operator("transpose", [source], [type_id], [("axes", axes)], ""), 0
            )
        return leaves, types

    def _opaque(
        self, name: str, expr: Any, key: int, values: Sequence[Value], scope: _Scope, *branches: Any
    ) -> Value:
        """One operator for what only runs in part; it reads all that its branches capture."""
        operands: list[tuple[int, int]] = []
        attrs: list[tuple[str, Any]] = []
        for position, value in enumerate(values):
            _operand(value, f"arg{position}", operands, attrs)
        captured: list[Leaf] = []
        for branch in branches:
            captured += [leaf for leaf in self._captured(scope, branch) if leaf not in captured]
        operands += [(leaf.producer, leaf.index) for leaf in captured]
        return self._append(name, operands, attrs, expr, key)

    def _captured(self, scope: _Scope, expr: Any) -> list[Leaf]:
        """The values of this function that an inner expression reads."""
        captured: list[Leaf] = []
        for variable in self._relay.analysis.free_vars(expr):
            value = scope.find(address(variable))
            if value is not None:
                captured += [leaf for leaf in _leaves(value) if leaf not in captured]
        return captured

    def _append(
        self,
        op: str,
        operands: list[tuple[int, int]],
        attrs: list[tuple[str, Any]],
        expr: Any,
        key: int,
    ) -> Value:
        outputs: list[int] = []
        value = self._read.unfold(self._read.type_of(expr), self._build.count, outputs)
        self._build.operator(op, operands, outputs, attrs, self._let_names.get(key, ""))
        return value


_SIDES = ((0, "a"), (1, "b"))


def _numbered(value: Value, producer: int, index: Iterator[int]) -> Value:
    """A value whose tensors are the outputs of one operator, depth first."""
    if isinstance(value, Aggregate):
        return Aggregate(tuple(_numbered(item, producer, index) for item in value.fields))
    return Leaf(producer, next(index))


def _operand(
    value: Value, key: str, operands: list[tuple[int, int]], attrs: list[tuple[str, Any]]
) -> None:
    """Appends a value to an operator's operands or to its attributes."""
    if isinstance(value, Literal):
        attrs.append((key, value.value))
        return
    if isinstance(value, LocalFunction):
        attrs.append((key, value.name))
    operands += [(leaf.producer, leaf.index) for leaf in _leaves(value)]


def _leaves(value: Value) -> Iterator[Leaf]:
    """The tensors of a value, depth first."""
    if isinstance(value, Leaf):
        yield value
    elif isinstance(value, LocalFunction):
        yield from value.captured
    elif isinstance(value, Aggregate):
        for item in value.fields:
            yield from _leaves(item)
