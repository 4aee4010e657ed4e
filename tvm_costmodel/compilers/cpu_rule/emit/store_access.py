"""Where a store's target and reads lie in memory, along the loops around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tvm import tirx
from tvm.ir import Expr, Var
from tvm.tirx import BufferStore

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    constant,
    loads,
    rewrite,
    simplify,
    uses,
)

Ranges = Mapping[Var, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """A loop to be: its variable runs from 0 to ``extent`` - 1."""

    var: Var
    extent: int


def variable(name: str) -> Var:
    """Makes a loop variable."""
    return Var(name, "int64")


def substitute_store(store: BufferStore, values: Mapping[Var, Expr]) -> BufferStore:
    """Replaces variables in a store."""
    return BufferStore(
        store.buffer, rewrite(store.value, values), [rewrite(i, values) for i in store.indices]
    )


def simplify_store(store: BufferStore, ranges: Ranges) -> BufferStore:
    """Simplifies a store's value and indices, given its variables' extents."""
    return BufferStore(
        store.buffer, simplify(store.value, ranges), [simplify(i, ranges) for i in store.indices]
    )


def flat_index(buffer: Var, indices: Sequence[Expr]) -> Expr:
    """Position of an element in its row-major buffer."""
    result: Expr = constant(0)
    for index, extent in zip(indices, buffer.ty.shape, strict=True):
        known = isinstance(extent, tirx.IntImm)  # a row of unknown length is a variable
        result = result * (constant(int(extent)) if known else extent) + index
    return result


def accesses(store: BufferStore) -> list[Expr]:
    """Flat index of the store's target and of everything its value reads."""
    indices = [flat_index(store.buffer, store.indices)]
    indices += [flat_index(load.source, load.indices) for load in loads(store.value)]
    return indices


def coefficient(expr: Expr, var: Var, ranges: Ranges) -> int | None:
    """How much an expression grows with one step of a variable; None where that varies."""
    if not uses(expr, var):
        return 0
    step = simplify(rewrite(expr, {var: var + constant(1)}) - expr, ranges)
    return int(step.value) if isinstance(step, tirx.IntImm) else None


def is_contiguous(store: BufferStore, axis: Axis, ranges: Ranges) -> bool:
    """Whether every access moves by one element or not at all along an axis."""
    target, *sources = (coefficient(index, axis.var, ranges) for index in accesses(store))
    return target == 1 and all(step in (0, 1) for step in sources)
