"""What an expert would decide from shapes alone, without a model and without measuring.

`tune` always measures it, so that what a search finds is never behind it, and
`benchmarks/graph_tuning` has it as a row.
"""

from __future__ import annotations

from tvm_costmodel.tuning.space.candidate import Candidate, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

# Transformed weights of more bytes are read from memory for longer than Winograd saves arithmetic;
# a tile of 4x4 outputs has 4 times the weights of a 3x3 kernel, one of 2x2 has 16/9 times.
_MOST_BYTES = {"winograd4": 8 << 20, "winograd2": 17 << 20}
_GROWTH = {"winograd4": 4.0, "winograd2": 16 / 9}


def rule_of_thumb(space: DecisionSpace) -> Candidate:
    """The default, with Winograd for convolutions whose transformed weights stay in the caches.

    Args:
        space: What can be decided; a value that it does not offer is not taken.
    """
    departures: dict[tuple[int, str], Value] = {}
    for choice in space.choices:
        if choice.decision.name != "algorithm":
            continue
        size = sum(weights.bytes for weights in space.graph.operators[choice.operator].weights)
        for algorithm, most in _MOST_BYTES.items():
            if algorithm in choice.values and size * _GROWTH[algorithm] <= most:
                departures[choice.place] = algorithm
                break
    return Candidate.of(departures)
