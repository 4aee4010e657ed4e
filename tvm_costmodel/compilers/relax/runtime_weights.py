"""Which operators of a module get their weights at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.tunable_ops import tunable_operators

if TYPE_CHECKING:
    from tvm import IRModule

    from tvm_costmodel.graph.op_graph import OpGraph

_ALL = 1 << 30
"""As a number of inputs: every parameter of a function is one."""


def runtime_weights(module: IRModule, graph: OpGraph) -> frozenset[int]:
    """Ids of convolutions and matrix products whose weights are parameters of the module.

    Such weights are passed at run time, so that no build can transform them.

    Args:
        module: A Relax module.
        graph: Its graph before any pass, whose ids are meant.
    """
    every_input = from_relax(module, num_inputs=_ALL)
    passed: set[int] = set()
    unfolded = tunable_operators(every_input)
    for name, ids in tunable_operators(graph).items():
        others = unfolded.get(name, [])
        if len(others) != len(ids):  # what depends on parameters alone is an operator now
            passed.update(ids)
            continue
        weights = [every_input.operators[other].weights for other in others]
        passed.update(i for i, held in zip(ids, weights, strict=True) if not held)
    return frozenset(i for i in passed if graph.operators[i].weights)
