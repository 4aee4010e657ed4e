"""The pool of `relay_tuning`: measured candidates of Relay, and what is to be measured next.

Not a benchmark itself; `relay_tuning` uses it, where torch is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.graph_tuning.tuning_measure import Plan, finalists, unconfirmed, unsettled
from benchmarks.graph_tuning.tuning_pool import NetworkPool, Pool
from tvm_costmodel.compilers.relay.config import RelayConfig
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

_BATCH = 12
_TOP = 6  # of the pool's fastest, how many are confirmed at once


class RelayNetworkPool(NetworkPool):
    """The pool's view of one network of Relay; arguments as `NetworkPool`."""

    def __init__(self, name: str, graph: OpGraph, pool: Pool, searches: Path, measure: int) -> None:
        super().__init__(name, graph, pool, searches, measure)
        self.space = DecisionSpace.for_graph(graph, compiler="relay")

    def key(self, pipeline: Mapping[str, Any]) -> str:
        """The key of the builds for timing, whose constants are random."""
        return RelayConfig.from_dict({**pipeline, "random_constants": True}).key


def next_of(network: NetworkPool, plan: Plan) -> tuple[str, list[Candidate]]:
    """What to measure of a network now: kind of batch and candidates.

    Returns:
        ``pool``, ``confirm`` or ``final``; ``done`` and nothing when all is there.
    """
    seeds = [plan.replays(network, seed) for seed in range(plan.seeds)]
    wanted = list(network.missing(c for replays in seeds for c in replays.wanted))
    if wanted:
        return "pool", wanted
    if confirm := unsettled(network, seeds):
        return "confirm", confirm
    lacking = plan.candidates - len(network.rows())
    if lacking > 0:
        whole = network.space.candidates() if network.space.joint_size < 4 * lacking else iter(())
        more = network.bred(seed=0) or list(islice(network.missing(whole), _BATCH))
        if more:
            return "pool", more[:lacking]
    if confirm := unconfirmed(network, _TOP):
        return "confirm", confirm
    final = finalists(network, seeds)
    return "final" if final else "done", final
