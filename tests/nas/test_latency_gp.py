from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tests.published import published
from tvm_costmodel.datasets.nnlqp import read_nnlqp_cells
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.nas.cell_features import live_operations
from tvm_costmodel.nas.latency_gp import EdgeGP, EdgeKernel
from tvm_costmodel.training.metrics import mape

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def indicators(places: np.ndarray, kernel: EdgeKernel) -> np.ndarray:
    """All indicators of one to three operations, scaled so that their ridge is the gp."""
    columns = []
    for size, variance in ((1, 1.0), (2, kernel.pairs), (3, kernel.triples)):
        for at in combinations(range(places.shape[1]), size):
            codes = [tuple(row) for row in places[:, at]]
            for value in sorted(set(codes)):
                columns.append([np.sqrt(variance) * (code == value) for code in codes])
    return np.array(columns).T


def test_the_process_is_a_ridge_regression_on_all_indicators() -> None:
    rng = np.random.default_rng(0)
    places, latency = rng.integers(0, 3, (40, 4)), rng.uniform(1.0, 2.0, 40)
    kernel = EdgeKernel(0.5, 0.1, 0.2)
    gp = EdgeGP([kernel]).fit(places[:30], latency[:30])
    columns, mean = indicators(places, kernel), latency[:30].mean()
    relative = latency[:30] / mean
    scaled = columns[:30] / relative[:, None]
    gram = scaled.T @ scaled + kernel.noise * np.eye(columns.shape[1])
    weights = np.linalg.solve(gram, scaled.T @ ((relative - 1.0) / relative))
    expected = mean * (1.0 + columns[30:] @ weights)
    np.testing.assert_allclose(gp.predict(places[30:]), expected, rtol=1e-9)


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    rng = np.random.default_rng(1)
    places, latency = rng.integers(0, 3, (25, 3)), rng.uniform(1.0, 2.0, 25)
    kernel = EdgeKernel(0.3, 0.0, 0.1)
    gp = EdgeGP([kernel]).fit(places, latency)
    table = np.array([0.0, 1.0, 2.3, 3.9])
    mean, errors = latency.mean(), []
    for i in range(25):
        rest = np.arange(25) != i
        gram = table[(places[rest][:, None] == places[rest]).sum(-1)]
        gram = gram + kernel.noise * np.diag((latency[rest] / mean) ** 2)
        weights = np.linalg.solve(gram, latency[rest] / mean - 1.0)
        answer = mean * (1.0 + table[(places[i] == places[rest]).sum(-1)] @ weights)
        errors.append(abs(answer / latency[i] - 1.0))
    assert gp.leave_one_out_mape == pytest.approx(100 * np.mean(errors))


def test_interactions_are_chosen_when_the_labels_have_them() -> None:
    rng = np.random.default_rng(2)
    places = rng.integers(0, 3, (500, 5))
    own = 1.0 + 0.1 * places.sum(axis=1)
    fused = own - 0.3 * ((places[:, 0] == 2) & (places[:, 3] == 1))
    for latency, limit in ((own, 0.2), (fused, 1.5)):
        gp = EdgeGP().fit(places[:400], latency[:400])
        assert mape(gp.predict(places[400:]), latency[400:]) < limit
    plain = EdgeGP([EdgeKernel(0.0, 0.0, 0.03)]).fit(places[:400], fused[:400])
    assert mape(plain.predict(places[400:]), fused[400:]) > 3 * mape(
        gp.predict(places[400:]), fused[400:]
    )


def test_bad_input_is_refused() -> None:
    places = np.zeros((4, 3), dtype=np.int64)
    with pytest.raises(ConfigError, match="at least two"):
        EdgeGP().fit(places[:1], np.ones(1))
    with pytest.raises(ConfigError, match="not a positive"):
        EdgeGP().fit(places, np.array([1.0, 1.0, np.nan, 1.0]))
    with pytest.raises(ConfigError, match="call fit"):
        EdgeGP().predict(places)
    gp = EdgeGP([EdgeKernel(0.1, 0.0, 0.1)]).fit(places, np.ones(4))
    with pytest.raises(ConfigError, match="same form"):
        gp.predict(places[:, :2])


def test_published_cells_of_nnlqp_within_one_percent() -> None:
    cells = read_nnlqp_cells(published("nnlqp/nasbench201_family.csv"))
    places = live_operations([cell.graph for cell in cells], OPERATIONS)
    latency = np.array([cell.latency_s for cell in cells])
    learn = np.array([cell.stage == "train" for cell in cells])
    gp = EdgeGP([EdgeKernel(0.3, 0.03, 0.1)]).fit(places[learn], latency[learn])
    assert gp.leave_one_out_mape < 0.8
    assert mape(gp.predict(places[~learn]), latency[~learn]) < 0.9
