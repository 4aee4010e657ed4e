"""Settings that all stages of `graph_tuning` share: networks, strategies and budgets.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.graph_tuning.tuned_networks import NETWORKS, QUICK_NETWORKS, SETS
from benchmarks.graph_tuning.tuning_measure import Plan
from benchmarks.graph_tuning.tuning_strategies import Strategy
from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.profiling.measuring.record import MeasurementConfig

STRATEGIES = (
    "random", "flops_kernel", "xgboost_kernel", "nar_former_v2_kernel", "kernel_former"
)  # fmt: skip


@dataclass
class Settings:
    """Settings that all stages of a folder share.

    Attributes:
        networks: Names from `tuned_networks`.
        strategies: Predictors by the strategy's name, ours last.
        seeds: Seeds of each strategy.
        measure: Candidates that a strategy may measure.
        candidates: Candidates of a network's pool, at least.
        bred: Candidates beyond what strategies and fixed choices want, at least.
        rounds: Rounds of timing the engines.
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
"""Two tiny networks and random search alone, to try the stages out; in a folder of its own."""
QUICK_MEASUREMENT = MeasurementConfig(
    kernels=False, min_repeat_ms=1.0, max_repeats=3, budget_ms=5.0, max_attempts=1
)


def settings_of(args: argparse.Namespace, folder: Path) -> Settings:
    """The folder's settings with the changes of this call, which are stored."""
    path = folder / "settings.json"
    settings = QUICK if args.quick else Settings()
    if path.exists():
        settings = Settings(**json.loads(path.read_text()))
        settings.networks = tuple(settings.networks)
    if args.strategy:
        read = [Strategy.read(text) for text in args.strategy]
        settings = replace(settings, strategies={s.name: s.predictors for s in read})
    for name in ("seeds", "measure", "candidates", "bred", "rounds"):
        if getattr(args, name) is not None:
            settings = replace(settings, **{name: getattr(args, name)})
    write_atomically(path, json.dumps(asdict(settings), indent=1) + "\n")
    if args.networks:  # of this call alone
        names = SETS.get(args.networks) or tuple(args.networks.split(","))
        settings = replace(settings, networks=names)
    return settings
