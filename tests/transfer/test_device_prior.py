from __future__ import annotations

import numpy as np
import pytest

from tests.published import published
from tvm_costmodel.datasets.nasbench201 import read_nasbench201
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.nas.cell_features import operation_counts
from tvm_costmodel.training.metrics import mape, spearman
from tvm_costmodel.transfer.active_learning import STRATEGIES, most_informative
from tvm_costmodel.transfer.device_prior import DevicePrior, latency_components

BOARDS = [f"board{i // 2}" for i in range(12)]


def devices(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """800 cells with four counts, and 13 devices that weigh them: twelve on six boards, one alone.

    Devices differ in two directions and in their scale, and measure with 2 % of noise.
    """
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 4, (800, 4)).astype(float)
    mean, directions = np.array([0.1, 0.5, 1.0, 0.2]), rng.normal(0, 0.25, (2, 4))
    weights = np.clip(mean + rng.normal(size=(13, 2)) @ directions, 0.02, None)
    scale = np.exp(rng.normal(-5.0, 1.0, 13))
    relative = 1.0 + features @ weights.T
    noise = rng.normal(0, 0.02, relative.shape) * relative.mean(axis=0)
    return features, scale * (relative + noise)


@pytest.fixture(scope="module")
def learned() -> tuple[DevicePrior, np.ndarray, np.ndarray]:
    features, latency = devices()
    return DevicePrior.learn(features, latency[:, :12], BOARDS), features, latency[:, 12]


def test_few_measurements_find_scale_and_ranks(learned) -> None:
    prior, features, truth = learned
    at = prior.choose(features, 5)
    adapted = prior.adapt(features[at], truth[at])
    assert mape(adapted.predict(features), truth) < 4.0
    assert spearman(adapted.predict(features), truth) > 0.98
    expected = prior.standardised(features) @ prior.mean
    assert spearman(expected, truth) < spearman(adapted.predict(features), truth)


def test_the_answer_scales_with_the_measurements(learned) -> None:
    prior, features, truth = learned
    one = prior.adapt(features[:6], truth[:6]).predict(features)
    other = prior.adapt(features[:6], 1e3 * truth[:6]).predict(features)
    np.testing.assert_allclose(other, 1e3 * one, rtol=1e-9)


def test_more_measurements_leave_less_unknown(learned) -> None:
    prior, features, truth = learned
    unsure = []
    for count in (1, 5, 20):
        at = prior.choose(features, count)
        adapted = prior.adapt(features[at], truth[at])
        unsure.append(float((adapted.uncertainty_s(features) / adapted.scale_s).mean()))
    assert unsure[0] > unsure[1] > unsure[2] >= prior.noise
    at = prior.choose(features, 20)
    adapted = prior.adapt(features[at], truth[at])
    inside = np.abs(adapted.predict(features) - truth) < 2 * adapted.uncertainty_s(features)
    assert inside.mean() > 0.9


def test_informative_choices_are_better_than_random_ones(learned) -> None:
    prior, features, truth = learned
    errors = {strategy: [] for strategy in STRATEGIES}
    for seed in range(10):
        for strategy in STRATEGIES:
            at = prior.choose(features, 3, strategy, seed)
            assert len(set(at.tolist())) == 3
            adapted = prior.adapt(features[at], truth[at])
            errors[strategy].append(mape(adapted.predict(features), truth))
    assert np.mean(errors["informative"]) < np.mean(errors["random"])
    assert prior.choose(features, 8, "random", 3).tolist() == (
        prior.choose(features, 8, "random", 3).tolist()
    )


def test_spread_choices_cover_the_range(learned) -> None:
    prior, features, _ = learned
    expected = prior.standardised(features) @ prior.mean
    at = prior.choose(features, 5, "spread")
    ranks = np.searchsorted(np.sort(expected), expected[at]) / len(expected)
    assert np.all(np.abs(ranks - [0.1, 0.3, 0.5, 0.7, 0.9]) < 0.06)


def test_greedy_choice_follows_its_formula() -> None:
    """Against the mean posterior variance written out for every candidate."""
    rng = np.random.default_rng(1)
    rows, covariance, noise = rng.normal(size=(30, 3)), np.diag([1.0, 0.3, 2.0]), 0.5
    chosen: list[int] = []
    for _ in range(4):
        variance = []
        for candidate in range(30):
            if candidate in chosen:
                variance.append(np.inf)
                continue
            seen = rows[[*chosen, candidate]]
            after = np.linalg.inv(np.linalg.inv(covariance) + seen.T @ seen / noise**2)
            variance.append(np.einsum("gf,fh,gh->g", rows, after, rows).mean())
        chosen.append(int(np.argmin(variance)))
    assert most_informative(rows, covariance, noise, 4).tolist() == chosen


def test_cells_that_a_source_did_not_measure_are_skipped() -> None:
    features, latency = devices()
    holes = latency[:, :12].copy()
    holes[::3, 4] = np.nan
    prior = DevicePrior.learn(features, holes, BOARDS)
    whole = DevicePrior.learn(features, latency[:, :12], BOARDS)
    np.testing.assert_allclose(prior.mean, whole.mean, atol=0.02)


def test_components_keep_the_directions_of_devices() -> None:
    _features, latency = devices()
    components = latency_components(latency[:, :12], 3)
    prior = DevicePrior.learn(components, latency[:, :12], BOARDS)
    at = prior.choose(components, 6)
    adapted = prior.adapt(components[at], latency[at, 12])
    assert spearman(adapted.predict(components), latency[:, 12]) > 0.98
    with pytest.raises(ConfigError, match="13 components"):
        latency_components(latency[:, :12], 13)


def test_bad_input_is_refused(learned) -> None:
    prior, features, truth = learned
    _, latency = devices()
    with pytest.raises(ConfigError, match="at least one"):
        prior.adapt(features[:0], truth[:0])
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ConfigError, match="not all positive finite"):
            prior.adapt(features[:2], np.array([1.0, bad]))
        if not np.isnan(bad):
            wrong = latency[:, :12].copy()
            wrong[3, 3] = bad
            with pytest.raises(ConfigError, match="not positive and finite"):
                DevicePrior.learn(features, wrong, BOARDS)
    with pytest.raises(ConfigError, match="at least two"):
        DevicePrior.learn(features, latency[:, :2], ["a", "a"])
    with pytest.raises(ConfigError, match="3 cells for 4 features"):
        DevicePrior.learn(features[:3], latency[:3, :12], BOARDS)
    with pytest.raises(ConfigError, match="one board per device"):
        DevicePrior.learn(features, latency[:, :12], BOARDS[:3])
    with pytest.raises(ConfigError, match="strategy 'best'"):
        prior.choose(features, 3, "best")
    with pytest.raises(ConfigError, match="choose 900 of 800"):
        prior.choose(features, 900)


def test_published_latencies_of_an_unseen_device() -> None:
    """Ten cells on a server CPU, after nine devices of other kinds (HELP's split)."""
    cells = read_nasbench201(published("nasbench201/nasbench201.csv.gz"))[::4]
    known = ("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r")
    known += ("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7")
    latency = np.array([[cell.latency_s[name] for name in known] for cell in cells])
    truth = np.array([cell.latency_s["gold_6226"] for cell in cells])
    operations = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    features = operation_counts([cell.graph for cell in cells], operations)
    boards = [name.partition("_")[0] + name[-4:] * name.startswith("silver") for name in known]
    prior = DevicePrior.learn(features[:900], latency[:900], boards)
    at = prior.choose(features[900:], 10) + 900
    rest = np.setdiff1d(np.arange(len(cells)), at)
    predicted = prior.adapt(features[at], truth[at]).predict(features[rest])
    assert spearman(predicted, truth[rest]) > 0.97
    assert mape(predicted, truth[rest]) < 8.0
