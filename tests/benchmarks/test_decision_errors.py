"""The table of both kinds of error, by values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.graph_tuning.decision_errors import errors, line, regret_of
from tests.graphs import plain_graph
from tvm_costmodel.training.dataset import LabelledGraphs


def labels(*networks: list[float]) -> LabelledGraphs:
    """Networks by the seconds of the default and its variants."""
    flat = [(f"n{i}", value) for i, values in enumerate(networks) for value in values]
    graph = plain_graph(np.random.default_rng(0))
    return LabelledGraphs(
        (graph,) * len(flat),
        np.array([value for _, value in flat]),
        networks=tuple(name for name, _ in flat),
    )


def test_absolute_error_and_error_within_a_network_differ():
    measured = labels([2.0, 1.0, 4.0], [1.0, 2.0, 0.5])
    found = errors(3 * measured.latency_s, measured)
    assert found.networks == 2
    assert found.mape == pytest.approx(200.0)  # every latency is wrong, every decision right
    assert found.ratio_error == pytest.approx(0.0)
    assert found.kendall_tau == pytest.approx(1.0)
    assert found.regret[0] == 0.0 and math.isnan(found.regret[1])


def test_regret_is_of_the_choice_that_was_predicted_best():
    measured = labels([2.0, 1.0, 4.0], [1.0, 2.0, 0.5])
    predicted = np.array([1.0, 2.0, 3.0, 3.0, 2.0, 1.0])
    assert regret_of(predicted, measured, 1) == pytest.approx((100.0 + 0.0) / 2)
    assert regret_of(predicted, measured, 2) == pytest.approx(0.0)
    many = labels([1.0] * 9 + [0.5])
    assert regret_of(np.arange(10.0), many, 8) == pytest.approx(100.0)


def test_a_row_has_mean_and_spread_over_seeds():
    measured = labels([2.0, 1.0, 4.0])
    found = [errors(measured.latency_s * k, measured) for k in (1.1, 1.3)]
    cells = line("ours", found)
    assert cells[:4] == ["ours", 2, 1, "20.00 ± 14.14"]
    assert cells[-1] == "-"
