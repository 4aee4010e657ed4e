"""Which rows are stale: those whose build used a component that has changed since."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from tvm_costmodel.compilers import components
from tvm_costmodel.compilers.registry import DEFAULT_COMPILER
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.measuring.record import KernelTime, Measurement

_NEVER_ONNX = (".json", ".pt2")


def stale_components(row: Measurement, graph: OpGraph | None = None) -> tuple[str, ...]:
    """Names of the components that have changed since a row was measured; empty when it is fresh.

    A row without a record counts as made with the first version of every component that its
    operators may concern.

    Args:
        row: The row.
        graph: Its graph, where that was parsed already.
    """

    @functools.cache
    def kinds() -> frozenset[str]:
        if graph is None and not row.graph:
            return frozenset()
        return components.operator_kinds(graph or OpGraph.from_json(row.graph))

    unconcerned = _unconcerned(row)
    settings = row.pipeline.get("config", {})
    return components.stale_components(
        compiler_of(row), row.components, kinds, settings, unconcerned
    )


def compiler_of(row: Measurement) -> str:
    """Name of the compiler that a row's network was built with."""
    return str(row.source.get("compiler", DEFAULT_COMPILER))


def record_of_failure(row: Measurement) -> dict[str, int]:
    """What a row keeps whose build failed: versions of everything that it may have met."""
    compiler, unconcerned = compiler_of(row), _unconcerned(row)
    kinds = components.operator_kinds(OpGraph.from_json(row.graph)) if row.graph else frozenset()
    met = {
        component.name: component.version
        for component in components.COMPONENTS.get(compiler, ())
        if component.name not in unconcerned
        and (not component.operators or not component.operators.isdisjoint(kinds))
    }
    return components.full_record(compiler, met)


def kernel_is_fresh(kernel: KernelTime, current: Mapping[str, int]) -> bool:
    """Whether a kernel's time is that of the code that the same kernel has now.

    Args:
        kernel: The stored kernel; without a record it counts as made with first versions.
        current: Versions of what makes its code now.
    """
    if kernel.components is None:
        return all(version == 1 for version in current.values())
    return dict(kernel.components) == dict(current)


def stale_summary(stale: Sequence[tuple[str, ...]]) -> str:
    """``4 labels (template/depthwise 4, emit/exp 1)`` of the stale components of rows."""
    counts = Counter(name for names in stale for name in names)
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{len(stale)} label{'' if len(stale) == 1 else 's'} ({listed})"


def _unconcerned(row: Measurement) -> set[str]:
    """Components that a row cannot have used, by what it says of its source and kernels."""
    names = {component.name for component in components.COMPONENTS.get(compiler_of(row), ())}
    source = row.source
    imported = source.get("kind") == "file"
    imported = imported and PurePath(str(source.get("path", ""))).suffix not in _NEVER_ONNX
    out = set() if imported else {name for name in names if name.startswith("importer/")}
    if row.status == "ok" and not row.unscheduled:
        out.add(components.FALLBACK)
    return out
