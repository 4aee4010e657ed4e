"""Random operators that move values: tiles, joins, cuts, borders, orders, picks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import relax

from benchmarks.compiler.differential_draws import (
    EXTENTS,
    INTEGERS,
    REALS,
    SMALL,
    Case,
    Emit,
    Source,
    any_type,
    shape_of,
    values,
)

nn, op = relax.op.nn, relax.op


def tile(source: Source) -> Case:
    """A tensor repeated along its axes, or each element of one axis."""
    rank = source.integer(1, 4)
    x = any_type(source, shape_of(source, rank, 400, SMALL))
    if source.integer(0, 3) == 0:
        times, axis = source.integer(1, 6), source.integer(0, rank - 1)
        make = lambda emit, a: op.repeat(a, times, axis)  # noqa: E731
        return Case(f"repeat {x.dtype}{x.shape} {times}", (x,), make, np.repeat(x, times, axis), 0)
    counts = [source.pick((1, 1, 2, 3, 4, 5, 7, 8)) for _ in range(rank)]
    while x.size * math.prod(counts) > 60_000:
        counts[counts.index(max(counts))] = 1
    make = lambda emit, a: op.tile(a, counts)  # noqa: E731
    return Case(f"tile {x.dtype}{x.shape} by {counts}", (x,), make, np.tile(x, counts), 0)


def concatenation(source: Source) -> Case:
    """Two to four tensors one after the other, or stacked."""
    shape = shape_of(source, source.integer(1, 4), 1500)
    axis, dtype = source.integer(0, len(shape) - 1), source.pick((*REALS, *INTEGERS, "bool"))
    parts = []
    for _ in range(source.integer(2, 4)):
        part = list(shape)
        part[axis] = source.pick(SMALL)
        parts.append(values(source, part, dtype))
    make = lambda emit, *all_of: op.concat(list(all_of), axis)  # noqa: E731
    text = f"{dtype} {[p.shape for p in parts]} axis {axis}"
    return Case(text, tuple(parts), make, np.concatenate(parts, axis), 0)


def split(source: Source) -> Case:
    """One of the parts of a tensor cut along an axis, joined with another."""
    shape = shape_of(source, source.integer(1, 4), 2000)
    axis = source.integer(0, len(shape) - 1)
    shape[axis] = source.pick([e for e in EXTENTS if e > 2])
    x = any_type(source, shape)
    cuts = sorted({source.integer(1, shape[axis] - 1) for _ in range(source.integer(1, 3))})
    parts = np.split(x, cuts, axis)

    def make(emit: Emit, a: relax.Expr) -> relax.Expr:
        pieces = emit(op.split(a, cuts, axis))
        last, first = (emit(relax.TupleGetItem(pieces, i)) for i in (len(cuts), 0))
        return op.concat([last, first], axis)

    expected = np.concatenate([parts[-1], parts[0]], axis)
    return Case(f"{x.dtype}{x.shape} at {cuts} axis {axis}", (x,), make, expected, 0)


def padding(source: Source) -> Case:
    """A border of a constant, of the mirrored or of the repeated edge."""
    rank = source.integer(2, 4)
    x = values(source, shape_of(source, rank, 2500), source.pick(("float32", "int32")))
    widths = [(source.integer(0, 3), source.integer(0, 3)) for _ in range(rank)]
    mode = source.pick(("constant", "constant", "edge", "reflect"))
    numpy = {"constant": {"constant_values": 0}}.get(mode, {})
    if mode == "reflect":
        widths = [(min(a, e - 1), min(b, e - 1)) for (a, b), e in zip(widths, x.shape, strict=True)]
    flat = [width for pair in widths for width in pair]
    make = lambda emit, a: nn.pad(  # noqa: E731
        a, flat, pad_mode={"edge": "replicate"}.get(mode, mode), pad_value=0
    )
    expected = np.pad(x, widths, mode, **numpy)
    return Case(f"{mode} {x.dtype}{x.shape} {widths}", (x,), make, expected, 0)


def _order(source: Source, rank: int) -> list[int]:
    rest = list(range(rank))
    return [rest.pop(source.integer(0, len(rest) - 1)) for _ in range(rank)]


def transpose(source: Source) -> Case:
    """Any order of axes, with a function behind it or not."""
    rank = source.integer(2, 5)
    x, order = any_type(source, shape_of(source, rank)), _order(source, rank)
    make = lambda emit, a: op.permute_dims(a, order)  # noqa: E731
    return Case(f"{x.dtype}{x.shape} to {order}", (x,), make, np.transpose(x, order), 0)


def shuffle(source: Source) -> Case:
    """Reshape, transpose, reshape: channel shuffles, attention heads, windows, and odd cuts."""
    shape = shape_of(source, source.integer(2, 4), 3000, (2, 3, 4, 5, 6, 8, 12, 16, 24, 32))
    rank = len(shape)
    x, order = any_type(source, shape), _order(source, rank)
    start = _factored(source, x.size)
    end = _factored(source, x.size)

    def make(emit: Emit, a: relax.Expr) -> relax.Expr:
        y = emit(op.permute_dims(emit(op.reshape(a, shape)), order))
        return op.reshape(y, end)

    flat = x.reshape(start)
    expected = np.transpose(x, order).reshape(end)
    return Case(f"{x.dtype}{start} as {shape} to {order} as {end}", (flat,), make, expected, 0)


def _factored(source: Source, size: int) -> list[int]:
    first = source.pick([d for d in range(1, size + 1) if size % d == 0])
    rest = size // first
    second = source.pick([d for d in range(1, rest + 1) if rest % d == 0])
    return [first, second, rest // second]


def gather(source: Source) -> Case:
    """Rows picked by an index, single elements along an axis, and embeddings."""
    rank = source.integer(1, 3)
    x = any_type(source, shape_of(source, rank, 3000))
    axis = source.integer(0, rank - 1)
    random = np.random.default_rng(source.integer(0, 2**20))
    if source.integer(0, 1):
        indices = random.integers(0, x.shape[axis], x.shape).astype("int64")
        make = lambda emit, a, i: op.gather_elements(a, i, axis)  # noqa: E731
        expected = np.take_along_axis(x, indices, axis)
        return Case(f"elements {x.dtype}{x.shape} axis {axis}", (x, indices), make, expected, 0)
    count = shape_of(source, source.integer(1, 2), 40)
    indices = random.integers(0, x.shape[axis], count).astype(source.pick(("int32", "int64")))
    make = lambda emit, a, i: op.take(a, i, axis)  # noqa: E731
    text = f"take {x.dtype}{x.shape} {indices.shape} axis {axis}"
    return Case(text, (x, indices), make, np.take(x, indices, axis), 0)


def slices(source: Source) -> Case:
    """Steps forwards and backwards, and cumulative flips."""
    rank = source.integer(1, 4)
    x = any_type(source, shape_of(source, rank))
    index, starts, ends, steps = [], [], [], []
    for extent in x.shape:
        start = source.integer(0, extent - 1)
        end, step = source.integer(start + 1, extent), source.pick((1, 1, 2, 3, 4))
        index.append(slice(start, end, step))
        starts, ends, steps = [*starts, start], [*ends, end], [*steps, step]
    flip = source.integer(0, 2) == 0
    axes = list(range(rank))

    def make(emit: Emit, a: relax.Expr) -> relax.Expr:
        y = op.strided_slice(a, axes, starts, ends, steps)
        return op.flip(emit(y), rank - 1) if flip else y

    expected = x[tuple(index)]
    expected = np.flip(expected, rank - 1) if flip else expected
    return Case(f"{x.dtype}{x.shape} {index} flip {flip}", (x,), make, expected, 0)


def empty(source: Source) -> Case:
    """Operators of which some extent is 0."""
    shape = shape_of(source, source.integer(1, 3), 200)
    axis = source.integer(0, len(shape) - 1)
    none = [0 if i == axis else e for i, e in enumerate(shape)]
    x = values(source, none, source.pick(("float32", "int64")))
    name = source.pick(("add", "concat", "relu", "sum", "transpose"))
    if name == "concat":
        y = values(source, shape, str(x.dtype))
        make = lambda emit, a, b: op.concat([a, b], axis)  # noqa: E731
        return Case(f"concat {x.shape} {y.shape}", (x, y), make, np.concatenate([x, y], axis), 0)
    plain: dict[str, tuple[Callable[..., relax.Expr], np.ndarray]] = {
        "add": (lambda emit, a: op.add(a, a), x + x),
        "relu": (lambda emit, a: nn.relu(a), x),
        "sum": (lambda emit, a: op.sum(a, [axis]), x.sum(axis).astype(x.dtype)),
        "transpose": (lambda emit, a: op.permute_dims(a), x.T),
    }
    return Case(f"{name} {x.dtype}{x.shape}", (x,), *plain[name], 0)
