"""What a row may hold: the check of every label that is stored, read or imported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tvm_costmodel.errors import BadRowError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.measuring.record import STATUSES, KernelTime, Measurement, Timing

SHORTEST_S, LONGEST_S = 1e-9, 1e4
"""Latencies outside are no measurement of a network, whatever the device."""

_ROUNDING = 1e-5  # quantiles are kept with fewer digits than latencies


def require_sane(row: Measurement, where: str, remedy: str) -> None:
    """Refuses a row whose numbers cannot be those of a measurement.

    Args:
        row: The row; its graph is checked by `require_own_graph`.
        where: The store or file that it is in or goes to, for the message.
        remedy: What fixes it.

    Raises:
        BadRowError: The message names the row.
    """
    fault = _row_fault(row)
    if fault:
        raise BadRowError(f"{where}: row {_name(row)}: {fault}; {remedy}")


def require_own_graph(row: Measurement, where: str, remedy: str) -> OpGraph:
    """The row's graph, unless its content is not the one that the row is kept under.

    Raises:
        BadRowError: The graph is none, or has another hash.
    """
    try:
        graph = OpGraph.from_json(row.graph)
        found = graph.hash
    except GraphError as error:
        raise BadRowError(f"{where}: row {_name(row)}: its graph: {error}; {remedy}") from error
    if found != row.graph_hash:
        raise BadRowError(
            f"{where}: row {_name(row)}: its graph has the hash {found}, not {row.graph_hash}; "
            f"{remedy}"
        )
    return graph


@contextmanager
def readable(where: str, row: str, remedy: str) -> Iterator[None]:
    """Turns errors of values of wrong kinds into a BadRowError that names the row."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadRowError(
            f"{where}: row {row} is damaged ({type(error).__name__}: {error}); {remedy}"
        ) from error


def is_sane_kernel(kernel: KernelTime) -> bool:
    """Whether a kernel's time can be one."""
    return not _kernel_fault(kernel)


def is_latency(value: object) -> bool:
    """Whether a value can be the latency of a network in seconds."""
    return _is_number(value) and SHORTEST_S <= value <= LONGEST_S  # type: ignore[operator]


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _name(row: Measurement) -> str:
    return f"{row.key} ({row.family}, graph {str(row.graph_hash)[:12] or 'none'})"


_TEXTS = (
    "key graph_hash graph device config_key family source_key status error environment_id "
    "created_at"
).split()


def _type_fault(row: Measurement) -> str:
    """The first field that is of another type than a row has."""
    for name in _TEXTS:
        if not isinstance(getattr(row, name), str):
            return f"{name} is {str(getattr(row, name))[:60]!r}, not text"
    for name in ("pipeline", "source", "seconds"):
        if not isinstance(getattr(row, name), Mapping):
            return f"{name} is {str(getattr(row, name))[:60]!r}, not a table"
    if not all(isinstance(name, str) for name in row.unscheduled):
        return "unscheduled lists no names"
    return ""


def _row_fault(row: Measurement) -> str:
    if fault := _type_fault(row):
        return fault
    if row.status not in STATUSES:
        return f"status {row.status!r} is none of {', '.join(STATUSES)}"
    if row.status == "ok" and row.timing is None:
        return "it is ok, but has no timing"
    if row.timing is not None and (fault := _timing_fault(row.timing)):
        return fault
    return next(filter(None, map(_kernel_fault, row.kernels)), "")


def _timing_fault(timing: Timing) -> str:
    times = {"latency_s": timing.latency_s, "reference_s": timing.reference_s}
    times |= {f"{name} of its quantiles": value for name, value in timing.quantiles.items()}
    times |= {f"repeat {i}": value for i, value in enumerate(timing.repeats)}
    for what, blocks in (("block", timing.blocks), ("baseline block", timing.baseline_blocks)):
        times |= {
            f"{part} of {what} {i}": value
            for i, block in enumerate(blocks)
            for part, value in zip(("latency", "reference"), block, strict=True)
        }
    for name, value in times.items():
        if not is_latency(value):
            return f"{name} is {value}, not {SHORTEST_S:g} to {LONGEST_S:g} seconds"
    if not _is_number(timing.relative) or timing.relative <= 0:
        return f"relative is {timing.relative}, not a positive number"
    if not _is_number(timing.noise) or timing.noise < 0:
        return f"noise is {timing.noise}, not 0 or more"
    ordered = [timing.quantiles[name] for name in ("p10", "p50", "p90") if name in timing.quantiles]
    rising = zip((timing.latency_s, *ordered), ordered, strict=False)
    if any(low > high * (1 + _ROUNDING) for low, high in rising):
        shown = ", ".join(f"{value:.6g}" for value in (timing.latency_s, *ordered))
        return f"minimum and quantiles do not rise: {shown}"
    return ""


def _kernel_fault(kernel: KernelTime) -> str:
    if not _is_number(kernel.latency_s) or not 0 < kernel.latency_s <= LONGEST_S:
        return f"kernel {kernel.name} takes {kernel.latency_s} s, not above 0 to {LONGEST_S:g}"
    if not isinstance(kernel.calls, int) or kernel.calls < 1:
        return f"kernel {kernel.name} is called {kernel.calls} times, not 1 or more"
    return ""
