"""The figures of `graph_tuning` from what its stages stored, and their tables.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from benchmarks.graph_tuning.engines import DEFAULT, ONNX_RUNTIME, TORCH, TUNED, TVM
from benchmarks.graph_tuning.tuning_measure import EXPERT, RULE, Plan, policies
from benchmarks.graph_tuning.tuning_pool import CONFIRMED, FINAL, NetworkPool

_SHOWN_KERNELS = 3

Json = dict[str, Any]


def network_figures(network: NetworkPool, plan: Plan) -> Json:
    """The pool's figures of one network; ratios are latencies over the default's."""
    seeds = [plan.replays(network, seed) for seed in range(plan.seeds)]
    best, best_ratio = network.best, _ratio(network, network.best)
    if best_ratio is None or best_ratio > 1.0:
        best, best_ratio = network.space.default, 1.0
    rows = network.rows()
    runs = [
        {
            "strategy": run.strategy,
            "seed": run.seed,
            "measured": len(run.measured),
            "winner": run.winner.to_dict(),
            "ratio": _ratio(network, run.winner),
        }
        for replays in seeds
        for run in replays.done
    ]
    fixed = {policy.name: _ratio(network, policy.candidate(network)) for policy in policies()}
    return {
        "graph_hash": network.graph.hash,
        "joint_size": network.space.joint_size,
        "measured": len(rows),
        "failed": sum(row.status != "ok" for row in rows.values()),
        "confirmed": len(network.rows(CONFIRMED)),
        "compared": len(network.rows(FINAL)),
        "best": {"candidate": best.to_dict(), "ratio": best_ratio},
        "runs": [run for run in runs if run["ratio"] is not None],
        "unfinished": sum(len(replays.wanted) + len(replays.unsettled) for replays in seeds),
        "fixed": fixed,
    }


def _ratio(network: NetworkPool, candidate: Any) -> float | None:
    ratio = network.ratio(candidate)
    return None if ratio is None else ratio.value


def geometric_mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    if not values:
        return math.nan
    return math.exp(sum(math.log(value) for value in values) / len(values))


def shares(networks: Mapping[str, Json], strategy: str) -> Json | None:
    """Share of the best known candidate's speed, in per cent, over networks and seeds.

    Returns:
        ``mean`` and ``spread`` of the seeds' means, ``worst`` network (its mean over seeds) and its
        name, ``lowest`` of all runs, ``speedup`` over the default (geometric mean), ``runs``; None
        where the strategy has no run on some network.
    """
    by_seed: dict[int, list[float]] = {}
    by_network: dict[str, list[float]] = {}
    ratios = []
    for name, network in networks.items():
        for run in network["runs"]:
            if run["strategy"] == strategy:
                share = 100 * min(1.0, network["best"]["ratio"] / run["ratio"])
                by_seed.setdefault(run["seed"], []).append(share)
                by_network.setdefault(name, []).append(share)
                ratios.append(run["ratio"])
    if len(by_network) < len(networks) or not networks:
        return None
    means = [mean(values) for values in by_seed.values()]
    worst = min(by_network, key=lambda name: mean(by_network[name]))
    return {
        "mean": mean(means),
        "spread": stdev(means) if len(means) > 1 else math.nan,
        "worst": mean(by_network[worst]),
        "worst_network": worst,
        "lowest": min(share for values in by_network.values() for share in values),
        "speedup": 1 / geometric_mean(ratios),
        "runs": len(ratios),
        "networks": {name: mean(values) for name, values in by_network.items()},
    }


def fixed_choices(networks: Mapping[str, Json]) -> list[Json]:
    """Fixed choices by their speed-up over the default, the best first.

    Where one fails on a network or allows nothing there, it counts as the default.
    """
    choices = []
    for policy in policies():
        ratios = [n["fixed"].get(policy.name) for n in networks.values()]
        known = [r if r is not None else 1.0 for r in ratios]
        choices.append(
            {
                "policy": policy.name,
                "kind": policy.kind,
                "speedup": 1 / geometric_mean(known),
                "failed": sum(r is None for r in ratios),
            }
        )
    return sorted(choices, key=lambda row: -row["speedup"])


def our_ratios(networks: Mapping[str, Json], ours: str) -> dict[str, float]:
    """Our strategy's latency over the default's, geometric mean over seeds, by network."""
    return {
        name: geometric_mean(ratios)
        for name, network in networks.items()
        if (ratios := [r["ratio"] for r in network["runs"] if r["strategy"] == ours])
    }


def against_engines(times: Sequence[Json], networks: Mapping[str, Json], ours: str) -> list[Json]:
    """Milliseconds of each engine by network and threads, and of our tuned build.

    The tuned build is the first seed's. Where it was not timed with the engines, it is the
    default's time multiplied by our ratio of the pool, which was measured on one thread, and
    ``tuned_timed`` is false.
    """
    ratios = our_ratios(networks, ours)
    rows = []
    for run in times:
        ms = dict(run["ms"])
        timed = TUNED in ms
        if not timed and run["network"] in ratios and DEFAULT in ms:
            ms[TUNED] = ms[DEFAULT] * ratios[run["network"]]
        rows.append({**run, "ms": ms, "tuned_timed": timed})
    return sorted(rows, key=lambda row: (row["threads"], row["network"]))


def engine_speedup(rows: Sequence[Json], engine: str, threads: int) -> tuple[float, int]:
    """Our tuned build's speed-up over an engine: geometric mean, and of how many networks."""
    ratios = [
        row["ms"][engine] / row["ms"][TUNED]
        for row in rows
        if row["threads"] == threads and engine in row["ms"] and TUNED in row["ms"]
    ]
    return geometric_mean(ratios), len(ratios)


def pool_seconds(path: Path) -> dict[str, float]:
    """Wall seconds that each network's pool took, confirmations left out.

    Args:
        path: The log of `Filler`.
    """
    seconds: dict[str, float] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        batch = json.loads(line)
        if batch["kind"] == "pool":
            seconds[batch["network"]] = seconds.get(batch["network"], 0.0) + batch["seconds"]
    return seconds


def whole_space(tunes: Mapping[str, Json], networks: Mapping[str, Json]) -> list[Json]:
    """Wall time of a whole tune against measuring, by network.

    The time of a measurement is the tune's own mean: builds and runs over candidates. ``space_s``
    is an estimate, that mean times all candidates; ``pool_s`` the same for those of the pool.
    """
    rows = []
    for name, tune in tunes.items():
        clocks = tune["report"]["seconds"]
        tried = max(1, len(tune["report"]["trials"]))
        each = (clocks.get("builds", 0.0) + clocks.get("runs", 0.0)) / tried
        network = networks.get(name, {})
        rows.append(
            {
                "network": name,
                "tune_s": tune["wall_s"],
                "speedup": tune["report"]["speedup"],
                "candidate_s": each,
                "space_s": each * network.get("joint_size", tune["report"]["joint_space"]),
                "pool_s": each * network.get("measured", 0),
                "pool": network.get("measured", 0),
                "pool_visits_s": tune.get("pool_visits_s"),
            }
        )
    return rows


def goals(figures: Json, ours: str) -> list[list[Any]]:
    """Each figure with its goal."""
    networks, engines = figures["networks"], figures["engines"]
    best_rule = next(r for r in figures["fixed"] if r["kind"] == RULE)
    best_any = next(r for r in figures["fixed"] if r["kind"] != EXPERT)
    expert = next(r for r in figures["fixed"] if r["kind"] == EXPERT)
    our = figures["strategies"].get(ours)
    speed = our["speedup"] if our else math.nan
    over_tvm, of_tvm = engine_speedup(engines, TVM, 1)
    spaces = [row["tune_s"] / row["space_s"] for row in figures["tunes"] if row["space_s"]]
    rows: list[list[Any]] = [
        [f"over TVM's default pipeline, geometric mean of {of_tvm}", over_tvm, "60 or more"],
        [f"over the best fixed choice of direct kernels ({best_rule['policy']})",
         speed / best_rule["speedup"], "1.25 or more"],
        [f"over the best fixed choice of any kind ({best_any['policy']})",
         speed / best_any["speedup"], "1.08 or more"],
        ["over an expert's rule of thumb", speed / expert["speedup"], "1.03 or more"],
        ["share of the best known speed, mean, %", our["mean"] if our else math.nan,
         "97 or more"],
        [f"the same, worst network ({our['worst_network'] if our else '-'}), %",
         our["worst"] if our else math.nan, "90 or more"],
        ["a whole tune over measuring the whole space (estimated), largest",
         max(spaces, default=math.nan), "0.1 or less"],
        ["candidates decided and scored a second, ResNet-50",
         (figures["throughput"] or {}).get("per_second", math.nan), "2000 or more"],
    ]  # fmt: skip
    for threads in (1, 2):
        for engine, goal in ((ONNX_RUNTIME, "above 1"), (TORCH, "")):
            value, count = engine_speedup(engines, engine, threads)
            rows.append([f"over {engine}, {threads} threads, {count} networks", value, goal])
    rows.append(["networks", len(networks), "16"])
    return rows


def tables(figures: Json, ours: str) -> str:
    """Every table, in Markdown."""
    parts = [_missing(figures, ours)]
    parts.append(_table(goals(figures, ours), ["figure", "measured", "to reach"], ".4g"))
    parts.append("## The same budget, by strategy\n\n" + _strategies(figures))
    parts.append("## By network\n\n" + _networks(figures, ours))
    parts.append("## One fixed choice for all networks\n\n" + _fixed(figures))
    if figures["engines"]:
        parts.append("## Other engines\n\n" + _engines(figures))
    if figures["tunes"]:
        parts.append("## A whole tune\n\n" + _tunes(figures))
    return "\n\n".join(filter(None, parts))


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str], floats: str = ".2f") -> str:
    texts = [[_cell(cell, floats) for cell in row] for row in rows]
    return tabulate(texts, headers, tablefmt="github", disable_numparse=True)


def _cell(cell: Any, floats: str) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return "missing" if math.isnan(cell) else format(cell, floats)


def _missing(figures: Json, ours: str) -> str:
    """A sentence that lists what is missing; empty where nothing is."""
    missing = []
    names = list(figures["networks"])
    for threads in (1, 2):
        timed = {row["network"] for row in figures["engines"] if row["threads"] == threads}
        untimed = [name for name in names if name not in timed]
        if untimed:
            missing.append(f"engines on {threads} threads: {', '.join(untimed)}")
    untuned = [name for name in names if name not in {row["network"] for row in figures["tunes"]}]
    if untuned:
        missing.append(f"whole tunes: {', '.join(untuned)}")
    unfinished = [name for name in names if figures["networks"][name]["unfinished"]]
    if unfinished:
        missing.append(f"measurements that strategies wait for: {', '.join(unfinished)}")
    if figures["throughput"] is None:
        missing.append("candidates scored a second")
    for name in figures["settings"]["strategies"]:
        if figures["strategies"].get(name) is None:
            missing.append(f"runs of {name} on every network")
    guessed = [row for row in figures["engines"] if not row["tuned_timed"]]
    if guessed:
        missing.append("tuned builds timed with engines (the default's time by the pool's ratio)")
    return f"Missing: {'; '.join(missing)}." if missing else ""


def _strategies(figures: Json) -> str:
    rows = []
    for name, predictors in figures["settings"]["strategies"].items():
        share = figures["strategies"].get(name)
        if share is None:
            rows.append([name, ", ".join(predictors), *["missing"] * 6])
            continue
        worst = f"{share['worst']:.1f} ({share['worst_network']})"
        rows.append(
            [name, ", ".join(predictors), share["mean"], share["spread"], worst, share["lowest"],
             share["speedup"], share["runs"]]
        )  # fmt: skip
    headers = (
        "strategy, predictors, share of best known %, spread over seeds, worst network %, "
        "lowest run %, speed-up over the default, runs"
    ).split(", ")
    return _table(rows, headers)


def _networks(figures: Json, ours: str) -> str:
    rows = []
    for name, network in figures["networks"].items():
        of_strategies = [
            (figures["strategies"].get(strategy) or {}).get("networks", {}).get(name, math.nan)
            for strategy in figures["settings"]["strategies"]
        ]
        rows.append(
            [name, f"{network['joint_size']:.2g}", network["measured"], network["failed"],
             1 / network["best"]["ratio"], *of_strategies]
        )  # fmt: skip
    headers = ["network", "candidates", "measured", "failed", "best known speed-up"]
    headers += [f"{name} %" for name in figures["settings"]["strategies"]]
    return _table(rows, headers)


def _fixed(figures: Json) -> str:
    rows = [[r["policy"], r["kind"], r["speedup"], r["failed"]] for r in figures["fixed"]]
    return _table(rows, ["choice", "kind", "speed-up over the default", "networks it fails on"])


def _engines(figures: Json) -> str:
    rows, losing = [], []
    for run in figures["engines"]:
        ms = run["ms"]
        cells = [ms.get(e, math.nan) for e in (DEFAULT, TUNED, ONNX_RUNTIME, TORCH, TVM)]
        over = [
            ms[e] / ms[TUNED] if e in ms and TUNED in ms else math.nan
            for e in (ONNX_RUNTIME, TORCH, TVM)
        ]
        rows.append([run["network"], run["threads"], *cells, *over])
        if over[0] < 1:
            losing += _losing_kernels(run)
    headers = (
        "network, threads, default ms, tuned ms, ONNX Runtime ms, torch.compile ms, "
        "TVM default ms, over ONNX Runtime, over torch.compile, over TVM default"
    ).split(", ")
    text = _table(rows, headers, ".3g")
    failed = [
        f"{run['network']}, {run['threads']} threads, {engine}: {why}"
        for run in figures["engines"]
        for engine, why in run["failed"].items()
    ]
    if failed:
        text += "\n\nWithout a time: " + "; ".join(failed) + "."
    if losing:
        columns = ["network", "threads", "kernel", "template", "calls", "ms per run", "share %"]
        text += "\n\nWhere ONNX Runtime is ahead, the slowest kernels:\n\n"
        text += _table(losing, columns, ".3g")
    return text


def _losing_kernels(run: Json) -> list[list[Any]]:
    total = sum(kernel[3] for kernel in run["kernels"])
    return [
        [run["network"], run["threads"], name, template, calls, ms, 100 * ms / total]
        for name, template, calls, ms in run["kernels"][:_SHOWN_KERNELS]
    ]


def _tunes(figures: Json) -> str:
    rows = [
        [
            r["network"], r["tune_s"], r["speedup"], r["candidate_s"], r["pool"], r["pool_s"],
            r["tune_s"] / r["pool_s"] if r["pool_s"] else math.nan,
            r["pool_visits_s"] if r["pool_visits_s"] is not None else math.nan,
            f"{r['space_s'] / 3600:.2g}", f"{r['tune_s'] / r['space_s']:.1g}",
        ]
        for r in figures["tunes"]
    ]  # fmt: skip
    headers = (
        "network, tune s, speed-up, s a candidate, pool, pool s, tune / pool, pool's own wall s, "
        "whole space h (estimated), tune / space"
    ).split(", ")
    return _table(rows, headers)
