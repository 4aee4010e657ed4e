"""What all stages of `graph_tuning` share: networks, strategies and budgets, kept in its folder.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tuned_networks import NETWORKS, QUICK_NETWORKS
from tuning_measure import Plan
from tuning_pool import Strategy
from tvm_costmodel.files import write_atomically
from tvm_costmodel.profiling.measurement import MeasurementConfig

STRATEGIES = (
    "random", "flops_decided", "xgboost_decided", "nar_former_v2_decided", "kernel_former"
)  # fmt: skip


@dataclass
class Settings:
    """What all stages of a folder share.

    Attributes:
        networks: Names from `tuned_networks`.
        strategies: Predictors by the strategy's name, ours last.
        seeds: Of each strategy.
        measure: Candidates that a strategy may measure.
        candidates: Candidates of a network's pool, at least.
        bred: Candidates beyond what strategies and fixed choices want, at least.
        rounds: Visits to each engine.
    """

    networks: tuple[str, ...] = NETWORKS
    strategies: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {name: (name,) for name in STRATEGIES}
    )
    seeds: int = 3
    measure: int = 8
    candidates: int = 80
    bred: int = 16
    rounds: int = 7

    @property
    def ours(self) -> str:
        """Name of our own strategy."""
        return list(self.strategies)[-1]

    @property
    def plan(self) -> Plan:
        """What is to be measured."""
        strategies = tuple(Strategy(name, tuple(p)) for name, p in self.strategies.items())
        return Plan(strategies, self.seeds, self.candidates, self.bred)


QUICK = Settings(
    tuple(QUICK_NETWORKS), {"random": ("random",), "ours": ("random",)}, 1, 3, 10, 2, 1
)
"""Two tiny networks and chance alone, to try the stages out; in a folder of its own."""
QUICK_MEASUREMENT = MeasurementConfig(
    kernels=False, min_repeat_ms=1.0, max_repeats=3, budget_ms=5.0, max_attempts=1
)


def settings_of(args: argparse.Namespace, folder: Path) -> Settings:
    """The folder's settings with what this call changes, which is kept."""
    path = folder / "settings.json"
    held = QUICK if args.quick else Settings()
    if path.exists():
        held = Settings(**json.loads(path.read_text()))
        held.networks = tuple(held.networks)
    if args.strategy:
        read = [Strategy.read(text) for text in args.strategy]
        held = replace(held, strategies={s.name: s.predictors for s in read})
    for name in ("seeds", "measure", "candidates", "bred", "rounds"):
        if getattr(args, name) is not None:
            held = replace(held, **{name: getattr(args, name)})
    write_atomically(path, json.dumps(asdict(held), indent=1) + "\n")
    if args.networks:  # of this call alone
        held = replace(held, networks=tuple(args.networks.split(",")))
    return held
