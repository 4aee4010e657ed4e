"""Labels of variants, their splits, and errors within networks, by values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.graphs import plain_graph
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.label_files.selection import LabelRecord, LabelSet, Variant
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.variant_metrics import decision_metrics
from tvm_costmodel.tuning.annotate.relax import annotate
from tvm_costmodel.tuning.learning.variant_dataset import labels_of_variants
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate

NCHW = Candidate.of({(NETWORK, "layout"): "NCHW"})
UNFUSED = Candidate.of({(NETWORK, "fusion"): "off"})


def group(graph: OpGraph, latency_s: float, *ratios: float) -> LabelRecord:
    kinds = (NCHW, UNFUSED)
    variants = [
        Variant(c.to_dict(), "ok", r, 0.01, 0.0) for c, r in zip(kinds, ratios, strict=False)
    ]
    failed = Variant({"network": {"batch_norm": "decompose"}}, "build_failed", *[math.nan] * 3)
    return LabelRecord(graph, graph.hash, latency_s, "chain", {}, variants=(*variants, failed))


def label_set(*records: LabelRecord) -> LabelSet:
    return LabelSet("cpu", "key", 1, {}, records, 1e-3)


def graphs(count: int) -> list[OpGraph]:
    rng = np.random.default_rng(1)
    by_hash: dict[str, OpGraph] = {}
    while len(by_hash) < count:
        graph = plain_graph(rng)
        by_hash[graph.hash] = graph
    return list(by_hash.values())


def test_a_network_has_labels_of_its_baseline_and_of_each_good_variant() -> None:
    one, two, alone = graphs(3)
    variants = label_set(group(one, 1e-3, 2.0, 0.5), group(two, 3e-3, 1.1))
    plain = LabelledGraphs(
        (one, alone), np.array([9.0, 7e-3]), ("f",) * 2, (one.hash, alone.hash), "cpu", "key"
    )
    labels = labels_of_variants(variants, plain)
    assert labels.latency_s.tolist() == pytest.approx([1e-3, 2e-3, 0.5e-3, 3e-3, 3.3e-3, 7e-3])
    assert labels.graphs[0].hash == annotate(one, Candidate()).hash
    assert labels.hash == f"{variants.hash[:16]}+{plain.hash}"
    assert labels.graphs[2].hash == annotate(one, UNFUSED).hash
    assert labels.networks == (one.hash,) * 3 + (two.hash,) * 2 + (alone.hash,)
    other = LabelledGraphs((alone,), np.array([1.0]), ("f",), (alone.hash,), "board", "key")
    with pytest.raises(ConfigError, match="labels of one device"):
        labels_of_variants(variants, other)


def test_variants_of_a_network_stay_on_one_side() -> None:
    networks = graphs(40)
    variants = label_set(*(group(g, 1e-3, 2.0, 0.5) for g in networks[:20]))
    plain = LabelledGraphs(
        tuple(networks[20:]),
        np.ones(20),
        ("chain",) * 20,
        tuple(g.hash for g in networks[20:]),
        "cpu",
        "key",
    )
    labels = labels_of_variants(variants, plain)
    split = labels.split(0)
    sides = [
        {labels.networks[i] for i in side} for side in (split.train, split.validation, split.test)
    ]
    assert sum(map(len, sides)) == 40 and not set.intersection(*sides)
    assert len(split.train) + len(split.validation) + len(split.test) == len(labels) == 80
    assert [len(side) for side in sides[1:]] == [4, 4]
    assert [sum(n in side for n in {g.hash for g in networks[:20]}) for side in sides[1:]] == [2, 2]


def test_errors_within_networks() -> None:
    one, two = graphs(2)
    variants = label_set(group(one, 1.0, 2.0, 0.5), group(two, 1.0, 1.1))
    labels = labels_of_variants(variants)
    exact = decision_metrics(labels.latency_s * [3, 3, 3, 1, 1], labels)
    assert (exact.networks, exact.ratio_error, exact.kendall_tau) == (1, pytest.approx(0), 1.0)
    assert (exact.best_of_1, exact.best_of_3) == (100.0, 100.0)
    # predicted ratios 1 and 1.5 in place of 2 and 0.5; the baseline counts as predicted best
    wrong = decision_metrics(np.array([1.0, 1.0, 1.5, 1.0, 1.0]), labels)
    assert wrong.ratio_error == pytest.approx((50 + 200) / 2)
    assert wrong.best_of_1 == pytest.approx(50.0) and wrong.best_of_3 == 100.0
    assert math.isnan(decision_metrics(np.ones(2), labels.subset([3, 4])).ratio_error)
