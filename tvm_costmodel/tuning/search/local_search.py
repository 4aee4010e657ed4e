"""Local search: every value of every class of choices, tried on the best candidates so far."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_costmodel.tuning.search.ledger import Ledger, rank
from tvm_costmodel.tuning.space.choice import Choice
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

_MORE_NETWORKS = 8  # further sets of network decisions that a local search may meet


def local_search(
    space: DecisionSpace, order: Sequence[Sequence[Choice]], width: int, ledger: Ledger
) -> None:
    """Varies the best candidates class by class until no value helps any more.

    Args:
        space: What can be decided.
        order: Classes of choices that get the same value, in the order of trying them.
        width: How many sets of network decisions give a candidate each to vary.
        ledger: Scores what is tried.
    """
    best: tuple[float, int] | None = None
    ledger.most_networks = len(ledger.networks) + _MORE_NETWORKS
    while not ledger.spent and (current := rank(ledger.best(1)[0])) != best:
        best = current
        for part in order:
            bases = [scored.candidate for scored in ledger.best_of_networks(width)]
            ledger.add(varied for base in bases for varied in space.varied(base, part))
