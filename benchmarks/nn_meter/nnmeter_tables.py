"""Tables of the rows of `nnmeter`, one for each predictor, part, device and seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one table of means for each kind of split, one of families for each device."""
    devices = list(dict.fromkeys(row["device"] for row in rows))
    parts = []
    for kind in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == kind]
        parts += [f"### {kind}", "MAPE % / within 10 % (mean ± deviation over seeds)"]
        parts.append(_table(here, "predictor", "device"))
        if kind == "leave-one-family-out":
            for device in devices:
                of_device = [row for row in here if row["device"] == device]
                parts.append(f"{device}, each family left out:")
                parts.append(_table(of_device, "part", "predictor"))
    return "\n\n".join(parts)


def _table(rows: Sequence[dict[str, Any]], down: str, across: str) -> str:
    """One cell for each pair of values of two fields."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        cells.setdefault(row[down], {}).setdefault(row[across], []).append(row)
    lines = [[name, *(_cell(of.get(c, [])) for c in columns)] for name, of in cells.items()]
    heading = "family" if down == "part" else down
    return tabulate(lines, [heading, *columns], tablefmt="github", disable_numparse=True)


def _cell(rows: Sequence[dict[str, Any]]) -> str:
    """Mean over parts of each seed, then mean and deviation over seeds."""
    seeds = sorted({row["seed"] for row in rows})
    error = [np.mean([r["mape"] for r in rows if r["seed"] == seed]) for seed in seeds]
    within = [np.mean([r["within_10"] for r in rows if r["seed"] == seed]) for seed in seeds]
    if not seeds:
        return "-"
    spread = f" ± {np.std(error, ddof=1):.2f}" if len(seeds) > 1 else ""
    return f"{np.mean(error):.2f}{spread} / {np.mean(within):.1f}"


def label_noise(
    hashes: Sequence[str], latency_ms: np.ndarray, devices: Sequence[str]
) -> list[dict[str, Any]]:
    """Noise of the labels, from networks with equal graphs.

    Several networks of the bench are the same graph, measured separately. The deviation of one
    label from the mean of the ``n - 1`` others, times ``sqrt((n - 1) / n)`` for the variance of
    that mean, is the error that a predictor of the true latency would show on it.

    Args:
        hashes: Content hash of each network, [G].
        latency_ms: [G, devices], NaN where not measured.
        devices: Names.

    Returns:
        For each device ``device``, ``networks`` that have equals, in ``groups``, the error's mean
        ``mape`` and the share ``within_10``, percent.
    """
    _, group = np.unique(np.asarray(hashes), return_inverse=True)
    rows = []
    for name, labels in zip(devices, latency_ms.T, strict=True):
        has_label = np.isfinite(labels)
        own, of = labels[has_label], group[has_label]
        count, total = np.bincount(of)[of], np.bincount(of, own)[of]
        own, of = own[count > 1], of[count > 1]
        total, count = total[count > 1], count[count > 1]
        others = (total - own) / (count - 1)
        error = np.abs(others / own - 1) * np.sqrt((count - 1) / count) * 100
        rows.append(
            {
                "device": name,
                "networks": len(own),
                "groups": len(set(of.tolist())),
                "mape": float(error.mean()) if len(own) else float("nan"),
                "within_10": float((error <= 10).mean() * 100) if len(own) else float("nan"),
            }
        )
    return rows


def noise_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of `label_noise`."""
    lines = [
        [
            row["device"],
            f"{row['networks']} in {row['groups']}",
            f"{row['mape']:.2f} / {row['within_10']:.1f}",
        ]
        for row in rows
    ]
    heads = ["device", "networks measured as several", "MAPE % / within 10 %"]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)
