"""Ablation of `RooflineFormer` on held-out families of nn-Meter's bench.

    python benchmarks/nn_meter/nnmeter_ablation.py --data nnmeter_bench.npz [--torch-device cuda]
        [--variants "as it is,no attention"] [--every 3] [--also rows.json]

Every variant changes one part and is trained as `nnmeter` trains, eleven times at once, each time
without one family, on every n-th network of the other ten (5 % of their networks choose the epoch).
Prints the mean over families of the errors on the family that a training did not know, by device;
the error on the networks that chose the epoch, whose families it knows; and the geometric mean of
predicted over measured latency, which separates a family's bias from scatter. Writes the tables to
``results/nnmeter_ablation.<machine>.md`` and the rows to ``.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from benchmarks.nn_meter.nnmeter import make_splits, train_roofline
from benchmarks.nn_meter.nnmeter_encoding import Encoded, encode
from tvm_costmodel.errors import require_known
from tvm_costmodel.tokenizer.operator_features import FEATURES
from tvm_costmodel.training.splits import Split

EXTENTS = ("output extent", "input extent", "in channels", "out channels")
RECIPE = {"epochs": 18, "batch_size": 64}
ALL = "all devices"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One change of `RooflineFormer`.

    Attributes:
        settings: Fields of `EnsembleConfig` and `RooflineFormerConfig` to change.
        without: Beginnings of the names of `FEATURES` that are left out.
        alone: Whether every device has a network of its own.
        share: Train on every so many-th of the networks that the others train on.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    alone: bool = False
    share: int = 1


VARIANTS: Mapping[str, Variant] = {
    "as it is": Variant(),
    "a third of the networks": Variant(share=3),
    "attention over all numbers": Variant({"context": "full"}),
    "no attention": Variant({"context": "none"}),
    "one free exponential, no roofline": Variant({"roofline": False}),
    "corrections up to e^1": Variant({"bound": 1.0}),
    "numbers count up to 2 deviations": Variant({"reach": 2.0}),
    "no feed-forwards": Variant({"layers": 0}),
    "dropout 0.2": Variant({"dropout": 0.2}),
    "ranking loss 0.2": Variant({"ranking": 0.2}),
    "prior 0.03": Variant({"prior": 0.03}),
    "prior 0.3": Variant({"prior": 0.3}),
    "no extents and channels": Variant(without=EXTENTS),
    "no attention, extents, channels": Variant({"context": "none"}, EXTENTS),
    "no attention, prior 0.03": Variant({"context": "none", "prior": 0.03}),
    "a network for each device": Variant(alone=True),
    "the same, no attention": Variant({"context": "none"}, alone=True),
}
"""Variants by name; the first is what the others change."""


def run(
    encoded: Encoded, splits: Sequence[Split], name: str, every: int, seed: int, device: str
) -> Iterator[dict[str, Any]]:
    """A variant's figures of each device and family, and of validation networks."""
    variant = VARIANTS[name]
    step = every * variant.share
    mine = [replace(s, train=s.train[s.train % step == 0]) for s in splits]
    settings = {**RECIPE, **variant.settings}
    count = encoded.latency_ms.shape[1]
    for columns in [[p] for p in range(count)] if variant.alone else [list(range(count))]:
        view = _view(encoded, columns, variant.without)
        answers = train_roofline(view, _measured(mine, view), seed, settings, device)
        ratios = answers / view.latency_ms  # [families, G, devices], NaN where not measured
        names = encoded.arrays["devices"][columns].tolist()
        of_all = ALL if len(names) > 1 else names[0]
        for split, ratio in zip(splits, ratios, strict=True):
            row = {"variant": name, "family": split.name, "seed": seed}
            of_known = {"families": "known", "device": of_all}
            yield {**row, **of_known, "mape": _figures(ratio[split.validation])["mape"]}
            for at, label in enumerate(names):
                if np.isfinite(ratio[split.test, at]).any():
                    of_family = _figures(ratio[split.test, at])
                    yield {**row, "families": "unknown", "device": label, **of_family}


def _figures(ratio: np.ndarray) -> dict[str, float]:
    """Errors of predicted over measured latencies, NaN where not measured."""
    ratio = ratio[np.isfinite(ratio)]
    return {
        "mape": round(float(np.abs(ratio - 1).mean() * 100), 2),
        "within_10": round(float((np.abs(ratio - 1) <= 0.1).mean() * 100), 1),
        "bias": round(float(np.exp(np.log(ratio).mean())), 3),
    }


def _view(encoded: Encoded, columns: Sequence[int], without: Sequence[str]) -> Encoded:
    """The bench with some devices' labels and some of a token's numbers left out."""
    numbers = encoded.arrays["numbers"]
    left_out = [i for i, name in enumerate(FEATURES) if name.startswith(tuple(without))]
    if without:
        numbers = numbers.copy()
        numbers[:, left_out] = 0
    latency = encoded.latency_ms[:, list(columns)]
    return Encoded({**encoded.arrays, "numbers": numbers, "latency_ms": latency})


def _measured(splits: Sequence[Split], encoded: Encoded) -> list[Split]:
    """Splits without the training and validation networks that no device measured."""
    measured = np.isfinite(encoded.latency_ms).any(axis=1)
    return [
        replace(
            s, train=s.train[measured[s.train]], validation=s.validation[measured[s.validation]]
        )
        for s in splits
    ]


def tables(rows: Rows) -> str:
    """Markdown: errors by variant and device, of families unknown and known; biases by family."""
    parts = []
    for side, heading in (("unknown", "Families never seen"), ("known", "Families known")):
        here = [row for row in rows if row["families"] == side]
        devices = list(dict.fromkeys(row["device"] for row in here))
        lines = [
            [name, *(_cell(here, name, device) for device in devices)]
            for name in dict.fromkeys(row["variant"] for row in here)
        ]
        table = tabulate(lines, ["variant", *devices], "github", disable_numparse=True)
        parts += [f"## {heading}", table]
    parts += ["## Predicted over measured, families never seen", _bias_table(rows)]
    return "\n\n".join(parts)


def _cell(rows: Rows, name: str, device: str) -> str:
    """Mean error over families, and the share of networks within 10 % where rows have it."""
    matching = [row for row in rows if (row["variant"], row["device"]) == (name, device)]
    if not matching:
        return "-"
    keys = [key for key in ("mape", "within_10") if key in matching[0]]
    mape, *within = (float(np.mean([row[key] for row in matching])) for key in keys)
    return " / ".join([f"{mape:.2f}", *(f"{share:.1f}" for share in within)])


def _bias_table(rows: Rows) -> str:
    """The first variant's bias by family and device, and the range of all variants' biases."""
    here = [row for row in rows if row["families"] == "unknown"]
    devices = list(dict.fromkeys(row["device"] for row in here))
    first = here[0]["variant"]
    lines = []
    for family in dict.fromkeys(row["family"] for row in here):
        line = [family]
        for device in devices:
            matching = [r for r in here if (r["family"], r["device"]) == (family, device)]
            own = [r["bias"] for r in matching if r["variant"] == first]
            all_of = np.array([r["bias"] for r in matching])
            line.append(f"{own[0]:.2f} ({all_of.min():.2f} to {all_of.max():.2f})" if own else "-")
        lines.append(line)
    return tabulate(lines, ["family", *devices], "github", disable_numparse=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="nnmeter_bench.npz")
    parser.add_argument("--cache", type=Path, default=Path("nnmeter_encoded.npz"))
    parser.add_argument("--variants", help=f"some of: {', '.join(VARIANTS)}")
    parser.add_argument("--every", type=int, default=3, help="learn from every n-th network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch-device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="processes that encode")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="rows of earlier runs")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    names = args.variants.split(",") if args.variants else list(VARIANTS)
    require_known(names, list(VARIANTS), "unknown variants")
    encoded = encode(args.data, args.cache, args.jobs, 1)
    splits = [s for _, s in make_splits(encoded, ["leave-one-family-out"], args.seed)]
    rows: Rows = []
    for name in names:
        rows += run(encoded, splits, name, args.every, args.seed, args.torch_device)
        print(f"{name}: done", flush=True)
    others = [row for path in args.also for row in json.loads(path.read_text())]
    rows = [row for row in others if row["variant"] not in names] + rows
    rows.sort(key=lambda row: list(VARIANTS).index(row["variant"]))
    body = tables(rows)
    print(body)
    path = results_file.write(
        "Ablation of RooflineFormer",
        "nn-Meter's bench with each family left out once, MAPE % / within 10 %, mean over "
        f"families. Trained on every {args.every}-th network, 18 epochs, one seed ({args.seed}); "
        "every line changes one part of the first.",
        body,
        stem="nnmeter_ablation",
    )
    path.with_suffix(".json").write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
