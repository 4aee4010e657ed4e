"""The figures of `graph_tuning` from what its stages stored, and their tables.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from engines import DEFAULT, ONNX_RUNTIME, TORCH, TUNED, TVM
from tuning_measure import RULE, Plan, policies
from tuning_pool import CONFIRMED, FINAL, NetworkPool

_SHOWN_KERNELS = 3

Json = dict[str, Any]


def network_figures(network: NetworkPool, plan: Plan) -> Json:
    """What the pool says of one network; ratios are latencies over the default's."""
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
        for found in seeds
        for run in found.done
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
        "unfinished": sum(len(found.wanted) + len(found.unsettled) for found in seeds),
        "fixed": fixed,
    }


def _ratio(network: NetworkPool, candidate: Any) -> float | None:
    found = network.ratio(candidate)
    return None if found is None else found.value


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
    for name, found in networks.items():
        for run in found["runs"]:
            if run["strategy"] == strategy:
                share = 100 * min(1.0, found["best"]["ratio"] / run["ratio"])
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
    found = []
    for policy in policies():
        ratios = [n["fixed"].get(policy.name) for n in networks.values()]
        held = [r if r is not None else 1.0 for r in ratios]
        found.append(
            {
                "policy": policy.name,
                "kind": policy.kind,
                "speedup": 1 / geometric_mean(held),
                "failed": sum(r is None for r in ratios),
            }
        )
    return sorted(found, key=lambda row: -row["speedup"])


def our_ratios(networks: Mapping[str, Json], ours: str) -> dict[str, float]:
    """Our strategy's latency over the default's, geometric mean over seeds, by network."""
    return {
        name: geometric_mean(ratios)
        for name, found in networks.items()
        if (ratios := [r["ratio"] for r in found["runs"] if r["strategy"] == ours])
    }


def against_engines(times: Sequence[Json], networks: Mapping[str, Json], ours: str) -> list[Json]:
    """Milliseconds of each engine by network and threads, and of our tuned build.

    The tuned build is the first seed's. Where it was not timed beside the engines, it is the
    default's time multiplied by our ratio of the pool, which was measured on one thread, and
    ``tuned_timed`` is false.
    """
    ratios = our_ratios(networks, ours)
    rows = []
    for found in times:
        ms = dict(found["ms"])
        timed = TUNED in ms
        if not timed and found["network"] in ratios and DEFAULT in ms:
            ms[TUNED] = ms[DEFAULT] * ratios[found["network"]]
        rows.append({**found, "ms": ms, "tuned_timed": timed})
    return sorted(rows, key=lambda row: (row["threads"], row["network"]))


def engine_speedup(rows: Sequence[Json], engine: str, threads: int) -> tuple[float, int]:
    """Our tuned build's speed-up over an engine: geometric mean, and of how many networks."""
    ratios = [
        row["ms"][engine] / row["ms"][TUNED]
        for row in rows
        if row["threads"] == threads and engine in row["ms"] and TUNED in row["ms"]
    ]
    return geometric_mean(ratios), len(ratios)


def whole_space(tunes: Mapping[str, Json], networks: Mapping[str, Json]) -> list[Json]:
    """Wall time of a whole tune against measuring, by network.

    The time of a measurement is the tune's own mean: builds and runs over candidates. ``space_s``
    is an estimate, that mean times all candidates; ``pool_s`` the same for those of the pool.
    """
    rows = []
    for name, found in tunes.items():
        clocks = found["report"]["seconds"]
        tried = max(1, len(found["report"]["trials"]))
        each = (clocks.get("builds", 0.0) + clocks.get("runs", 0.0)) / tried
        network = networks.get(name, {})
        rows.append(
            {
                "network": name,
                "tune_s": found["wall_s"],
                "speedup": found["report"]["speedup"],
                "candidate_s": each,
                "space_s": each * network.get("joint_size", found["report"]["joint_space"]),
                "pool_s": each * network.get("measured", 0),
                "pool": network.get("measured", 0),
                "pool_visits_s": found.get("pool_visits_s"),
            }
        )
    return rows


def goals(figures: Json, ours: str) -> list[list[Any]]:
    """Each figure to reach beside what was measured."""
    networks, engines = figures["networks"], figures["engines"]
    best_rule = next(r for r in figures["fixed"] if r["kind"] == RULE)
    best_any = figures["fixed"][0]
    told = figures["strategies"].get(ours)
    speed = told["speedup"] if told else math.nan
    over_tvm, of_tvm = engine_speedup(engines, TVM, 1)
    spaces = [row["tune_s"] / row["space_s"] for row in figures["tunes"] if row["space_s"]]
    rows: list[list[Any]] = [
        [f"over TVM's default pipeline, geometric mean of {of_tvm}", over_tvm, "60 or more"],
        [f"over the best fixed choice of direct kernels ({best_rule['policy']})",
         speed / best_rule["speedup"], "1.25 or more"],
        [f"over the best fixed choice of any kind ({best_any['policy']})",
         speed / best_any["speedup"], ""],
        ["share of the best known speed, mean, %", told["mean"] if told else math.nan,
         "97 or more"],
        [f"the same, worst network ({told['worst_network'] if told else '-'}), %",
         told["worst"] if told else math.nan, "90 or more"],
        ["a whole tune over measuring the whole space (estimated), largest",
         max(spaces, default=math.nan), "0.1 or less"],
        ["candidates decided and scored a second, ResNet-50",
         (figures["throughput"] or {}).get("per_second", math.nan), "2000 or more"],
    ]  # fmt: skip
    for threads in (1, 2):
        for engine, goal in ((ONNX_RUNTIME, "above 1"), (TORCH, "")):
            value, count = engine_speedup(engines, engine, threads)
            rows.append([f"over {engine}, {threads} threads, {count} networks", value, goal])
    rows.append(["networks", len(networks), "10 or more"])
    return rows


def tables(figures: Json, ours: str) -> str:
    """Every table, in Markdown."""
    parts = [_missing(figures, ours)]
    parts.append(_table(goals(figures, ours), ["figure", "measured", "to reach"], ".4g"))
    parts.append("## The same budget, by strategy\n\n" + _strategies(figures))
    parts.append("## By network\n\n" + _networks(figures, ours))
    parts.append("## One fixed choice for all networks\n\n" + _fixed(figures))
    if figures["engines"]:
        parts.append("## Beside other engines\n\n" + _engines(figures))
    if figures["tunes"]:
        parts.append("## A whole tune\n\n" + _tunes(figures))
    return "\n\n".join(filter(None, parts))


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str], floats: str = ".2f") -> str:
    told = [[_told(cell, floats) for cell in row] for row in rows]
    return tabulate(told, headers, tablefmt="github", disable_numparse=True)


def _told(cell: Any, floats: str) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return "missing" if math.isnan(cell) else format(cell, floats)


def _missing(figures: Json, ours: str) -> str:
    """What a reader must know is not there."""
    gone = []
    names = list(figures["networks"])
    for threads in (1, 2):
        timed = {row["network"] for row in figures["engines"] if row["threads"] == threads}
        left = [name for name in names if name not in timed]
        if left:
            gone.append(f"engines on {threads} threads: {', '.join(left)}")
    left = [name for name in names if name not in {row["network"] for row in figures["tunes"]}]
    if left:
        gone.append(f"whole tunes: {', '.join(left)}")
    unfinished = [name for name in names if figures["networks"][name]["unfinished"]]
    if unfinished:
        gone.append(f"measurements that strategies wait for: {', '.join(unfinished)}")
    if figures["throughput"] is None:
        gone.append("candidates scored a second")
    for name in figures["settings"]["strategies"]:
        if figures["strategies"].get(name) is None:
            gone.append(f"runs of {name} on every network")
    guessed = [row for row in figures["engines"] if not row["tuned_timed"]]
    if guessed:
        gone.append("tuned builds beside the engines (the default's time by the pool's ratio)")
    return f"Missing: {'; '.join(gone)}." if gone else ""


def _strategies(figures: Json) -> str:
    rows = []
    for name, predictors in figures["settings"]["strategies"].items():
        told = figures["strategies"].get(name)
        if told is None:
            rows.append([name, ", ".join(predictors), *["missing"] * 6])
            continue
        worst = f"{told['worst']:.1f} ({told['worst_network']})"
        rows.append(
            [name, ", ".join(predictors), told["mean"], told["spread"], worst, told["lowest"],
             told["speedup"], told["runs"]]
        )  # fmt: skip
    headers = (
        "strategy, predictors, share of best known %, spread over seeds, worst network %, "
        "lowest run %, speed-up over the default, runs"
    ).split(", ")
    return _table(rows, headers)


def _networks(figures: Json, ours: str) -> str:
    rows = []
    for name, found in figures["networks"].items():
        told = [
            (figures["strategies"].get(strategy) or {}).get("networks", {}).get(name, math.nan)
            for strategy in figures["settings"]["strategies"]
        ]
        rows.append(
            [name, f"{found['joint_size']:.2g}", found["measured"], found["failed"],
             1 / found["best"]["ratio"], *told]
        )  # fmt: skip
    headers = ["network", "candidates", "measured", "failed", "best known speed-up"]
    headers += [f"{name} %" for name in figures["settings"]["strategies"]]
    return _table(rows, headers)


def _fixed(figures: Json) -> str:
    rows = [[r["policy"], r["kind"], r["speedup"], r["failed"]] for r in figures["fixed"]]
    return _table(rows, ["choice", "kind", "speed-up over the default", "networks it fails on"])


def _engines(figures: Json) -> str:
    rows, losing = [], []
    for found in figures["engines"]:
        ms = found["ms"]
        cells = [ms.get(e, math.nan) for e in (DEFAULT, TUNED, ONNX_RUNTIME, TORCH, TVM)]
        over = [
            ms[e] / ms[TUNED] if e in ms and TUNED in ms else math.nan
            for e in (ONNX_RUNTIME, TORCH, TVM)
        ]
        rows.append([found["network"], found["threads"], *cells, *over])
        if over[0] < 1:
            losing += _losing_kernels(found)
    headers = (
        "network, threads, default ms, tuned ms, ONNX Runtime ms, torch.compile ms, "
        "TVM default ms, over ONNX Runtime, over torch.compile, over TVM default"
    ).split(", ")
    text = _table(rows, headers, ".3g")
    failed = [
        f"{found['network']}, {found['threads']} threads, {engine}: {why}"
        for found in figures["engines"]
        for engine, why in found["failed"].items()
    ]
    if failed:
        text += "\n\nWithout a time: " + "; ".join(failed) + "."
    if losing:
        columns = ["network", "threads", "kernel", "template", "calls", "ms per run", "share %"]
        text += "\n\nWhere ONNX Runtime is ahead, the slowest kernels:\n\n"
        text += _table(losing, columns, ".3g")
    return text


def _losing_kernels(found: Json) -> list[list[Any]]:
    total = sum(kernel[3] for kernel in found["kernels"])
    return [
        [found["network"], found["threads"], name, template, calls, ms, 100 * ms / total]
        for name, template, calls, ms in found["kernels"][:_SHOWN_KERNELS]
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
