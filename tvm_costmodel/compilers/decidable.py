"""Which operators of a graph a kernel's decision can name."""

from __future__ import annotations

from tvm_costmodel.graph import OpGraph

# Operators that decisions can name, by what they are called in Relax.
COUNTED = {
    "conv2d": "relax.nn.conv2d",
    "dense": "relax.matmul",
    "matmul": "relax.matmul",
}


def needed_operators(graph: OpGraph) -> list[bool]:
    """Whether some output needs each operator; the others are not compiled."""
    needed = [False] * len(graph)
    for src, _ in graph.outputs:
        needed[src] = True
    for i in reversed(range(len(graph))):
        if needed[i]:
            for src, _ in graph.operators[i].inputs:
                needed[src] = True
    return needed


def decidable_operators(graph: OpGraph) -> dict[str, list[int]]:
    """Ids of the operators that decisions can name, in order, by their name in Relax."""
    found: dict[str, list[int]] = {name: [] for name in COUNTED.values()}
    needed = needed_operators(graph)
    for i, operator in enumerate(graph.operators):
        if operator.op in COUNTED and needed[i]:
            found[COUNTED[operator.op]].append(i)
    return found


def joinable(graph: OpGraph) -> list[list[int]]:
    """Ids of dense layers that read one input through constant weights, two or more together."""
    needed = needed_operators(graph)
    found: dict[tuple[tuple[int, int], int], list[int]] = {}
    for i, operator in enumerate(graph.operators):
        plain = operator.op == "dense" and needed[i] and len(operator.inputs) == 1
        if not plain or "weight_positions" in operator.attrs:
            continue
        (weights,) = operator.weights
        if weights.dtype == operator.outputs[0].dtype == "float32":
            found.setdefault((operator.inputs[0], weights.shape[0]), []).append(i)
    return [members for members in found.values() if len(members) > 1]


def joined_products(graph: OpGraph) -> list[list[int]]:
    """``joinable`` with the position among all matrix products in place of the id."""
    position = {i: n for n, i in enumerate(decidable_operators(graph)["relax.matmul"])}
    return [[position[i] for i in members] for members in joinable(graph)]
