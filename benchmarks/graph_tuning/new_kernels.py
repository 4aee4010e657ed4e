"""How much of a network's time is in kernels that labelled networks have too.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import functools
import json
import lzma
import math
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.graph_tuning.engines import kernel_times
from benchmarks.graph_tuning.tuned_networks import LABELS
from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target
from tvm_costmodel.frontends import load_model


def known_share(model: Path, labels: Path = LABELS) -> float:
    """Share of the time of a model's default build, 0 to 1, in kernels that labels hold.

    Kernels are equal where they begin with the same operator and their first parameter and their
    result have as many elements: packed weights differ between processors. So some count as known
    that are not.

    Args:
        model: Its file.
        labels: Folder of exported labels.
    """
    built = build(load_model(model).module, cpu_target(1), PipelineConfig())
    marks = {kernel.name: _mark(kernel.name, kernel.parameters) for kernel in built.kernels}
    known, times = _labelled_kernels(labels), kernel_times(built)
    of_known = sum(took for name, _, _, took in times if marks[name] in known)
    return of_known / sum(took for *_, took in times)


def _mark(name: str, parameters: Sequence[tuple[Sequence[int], str]]) -> tuple[object, ...]:
    operator = re.split(r"\d*(?:_|$)", name.removeprefix("fused_"), maxsplit=1)[0]
    (first, dtype), (result, _) = parameters[0], parameters[-1]
    return operator, math.prod(first), math.prod(result), dtype


@functools.cache
def _labelled_kernels(labels: Path) -> frozenset[tuple[object, ...]]:
    marks = set()
    for path in sorted(labels.glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith('{"flops"'):  # a kernel's line
                    kernel = json.loads(line)
                    marks.add(_mark(kernel["name"], kernel["parameters"]))
    return frozenset(marks)
