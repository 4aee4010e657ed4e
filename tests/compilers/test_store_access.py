"""What is proven of indices holds for every value, by brute force over random expressions."""

from __future__ import annotations

import itertools
import random

import pytest
from tvm import tirx
from tvm.tirx import BufferLoad, BufferStore

from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant
from tvm_costmodel.compilers.cpu_rule.emit.periods import remainders, split_period
from tvm_costmodel.compilers.cpu_rule.emit.store_access import (
    Axis,
    accesses,
    coefficient,
    variable,
)


def evaluate(expr, values):
    """An integer expression's value; a read gives 0, and what it reads is an access of its own."""
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    for var, value in values.items():
        if expr.same_as(var):
            return value
    a, b = evaluate(expr.a, values), evaluate(expr.b, values)
    names = {
        tirx.Add: a + b,
        tirx.Sub: a - b,
        tirx.Mul: a * b,
        tirx.Max: max(a, b),
        tirx.Min: min(a, b),
    }
    if type(expr) in names:
        return names[type(expr)]
    return a // b if isinstance(expr, tirx.FloorDiv) else a % b


def drawn(source, variables, depth):
    """A random index: sums, multiples, quotients, remainders, bounds."""
    if depth == 0 or source.random() < 0.15:
        return source.choice([*variables, constant(source.randint(0, 9))])
    kind = source.choice(["+", "+", "-", "*", "//", "%", "%", "max"])
    left = drawn(source, variables, depth - 1)
    if kind in "*//%":
        by = constant(source.choice([2, 3, 4, 5, 7, 8, 12]))
        return {"*": lambda: left * by, "//": lambda: tirx.FloorDiv(left, by)}.get(
            kind, lambda: tirx.FloorMod(left, by)
        )()
    right = drawn(source, variables, depth - 1)
    return {"+": left + right, "-": left - right}.get(kind, tirx.Max(left, right))


@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_proven_only_where_it_is_constant(seed):
    source = random.Random(seed)
    proven = 0
    for _ in range(120):
        variables = [variable(name) for name in "ab"]
        extents = [source.choice([1, 2, 3, 4, 5, 8, 12, 16]) for _ in variables]
        ranges = dict(zip(variables, extents, strict=True))
        expr = drawn(source, variables, 3)
        step = coefficient(expr, variables[0], ranges)
        if step is None:
            continue
        proven += 1
        for a, b in itertools.product(*(range(extent) for extent in extents)):
            here, there = (
                evaluate(expr, dict(zip(variables, at, strict=True))) for at in ((a, b), (a + 1, b))
            )
            assert a + 1 == extents[0] or there - here == step, (expr, ranges, a, b, step)
    assert proven > 30


@pytest.mark.parametrize("seed", range(3))
def test_cuts_into_periods_read_what_was_read(seed):
    source = random.Random(seed)
    cut = 0
    for _ in range(60):
        first, last = variable("a"), variable("b")
        axes = [Axis(v, source.choice([4, 6, 8, 12, 15, 16])) for v in (first, last)]
        index = drawn(source, [first, last], 3)
        target = tirx.decl_buffer([axis.extent for axis in axes], "float32", "y")
        read = tirx.decl_buffer([1 << 20], "float32", "x")
        store = BufferStore(target, BufferLoad(read, [index]), [first, last])
        ranges = {axis.var: axis.extent for axis in axes}
        split = split_period(axes, store, ranges)
        if split is None:
            continue
        cut += 1
        assert touched(axes, store) == touched(*split)
        within = {axis.var: axis.extent for axis in split[0]}
        assert len(list(remainders(split[1], within))) <= len(list(remainders(store, ranges)))
    assert cut > 2


def touched(axes, store):
    """Place of each read by the place written, in any order of the loops."""
    places = {}
    for at in itertools.product(*(range(axis.extent) for axis in axes)):
        values = {axis.var: value for axis, value in zip(axes, at, strict=True)}
        target, read = (evaluate(index, values) for index in accesses(store))
        assert target not in places
        places[target] = read
    return places
