"""The accuracy benchmark's draws: nothing is on two sides, and the stored lists are the drawn."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from benchmarks.nas.accuracy import merged, quartered, summary
from benchmarks.nas.accuracy_draws import (
    SIZES_201,
    Benchmark,
    development,
    draws,
    noise_ceiling,
    read,
    retrained_ceiling,
    stored_draws,
)
from tests.cells import diamond
from tests.published import published
from tvm_costmodel.nas.accuracy_networks import NETWORKS
from tvm_costmodel.nas.cell_paths import CellStructure

STORED = Path(__file__).resolve().parents[2] / "results" / "accuracy.splits.json"


def benchmark(name: str, count: int, networks: int = 1) -> Benchmark:
    structures = [CellStructure(str(i % networks), np.zeros(1), {}) for i in range(count)]
    return Benchmark(name, (), [diamond()] * count, np.linspace(50.0, 90.0, count), structures)


@pytest.mark.parametrize("name", ["nasbench201", "nasbench101", "darts"])
def test_no_cell_is_on_two_sides(name: str) -> None:
    made = benchmark(name, 4000)
    held = set(development(made).tolist())
    assert len(held) == (1563 if name == "nasbench201" else 0)
    every = draws(made, 3, [])
    for draw in every:
        train, test = set(draw.train.tolist()), set(draw.test.tolist())
        assert len(train) == len(draw.train) and len(test) == len(draw.test)
        assert not train & test and not (train | test) & held
        assert train | test | held == set(range(4000))
    assert len({(d.size, d.seed, d.test.tobytes()) for d in every}) == len(every)


def test_sizes_and_seeds_of_nasbench201() -> None:
    every = draws(benchmark("nasbench201", 4000), 3, [])
    assert [(d.seed, len(d.train)) for d in every] == [(s, n) for s in range(3) for n in SIZES_201]
    for small, large in combinations(every[:4], 2):
        assert small.train.tolist() == large.train[: len(small.train)].tolist()
    assert every[0].train.tolist() != every[4].train[:156].tolist()
    assert [d.size for d in draws(benchmark("nasbench201", 4000), 2, [469])] == ["469", "469"]


def test_each_cell_of_darts_is_tested_once_per_seed() -> None:
    every = draws(benchmark("darts", 725), 2, [])
    for seed in range(2):
        tested = np.concatenate([d.test for d in every if d.seed == seed])
        assert sorted(tested) == list(range(725))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("nasbench101", "nasbench101/nasbench101_500.json"),
        ("darts", "darts/darts_725.json"),
        pytest.param("nasbench201", "nasbench201/nasbench201.csv.gz", marks=pytest.mark.slow),
    ],
)
def test_the_stored_lists_are_what_is_drawn(name: str, file: str) -> None:
    found = read(name, published(file).parents[1])
    stored = json.loads(STORED.read_text())[name]
    assert stored_draws(found, draws(found, 3, [])) == stored
    assert len({cell.hash for cell in found.cells}) == len(found.cells)
    held = {found.cells[i].hash for i in development(found)}
    for draw in stored:
        hashes = draw.get("train", draw.get("test"))
        assert len(set(hashes)) == len(hashes) and not held & set(hashes)


def test_noise_ceiling_compares_cells_with_others_of_their_network() -> None:
    made = benchmark("nasbench101", 40, networks=20)  # i and i + 20 are one network
    assert noise_ceiling(made) == (pytest.approx(0.0, abs=0.1), 40)
    made.accuracy[20:] = made.accuracy[:20]
    assert noise_ceiling(made) == (1.0, 40)
    tau, cells = noise_ceiling(benchmark("nasbench101", 40, networks=40))
    assert np.isnan(tau) and cells == 0


def test_retrained_ceiling_is_what_noise_leaves_to_one_who_knows_every_network() -> None:
    made = benchmark("nasbench101", 400, networks=200)
    rng = np.random.default_rng(5)
    made.accuracy[:] = np.tile(90.0 + rng.standard_normal(200), 2)
    assert retrained_ceiling(made) == 1.0  # labels without noise
    made.accuracy[:] = made.accuracy + rng.standard_normal(400)
    # means of two vary by 1 + 1/2, a new label around them by 1: correlation (1.5 / 2.5)^0.5
    expected = 2 / np.pi * np.arcsin(np.sqrt(1.5 / 2.5))
    assert retrained_ceiling(made) == pytest.approx(expected, abs=0.05)


def row(seed: int, tau: float, model: str = "nn_former") -> dict[str, object]:
    taus = {"tau": tau, "tau_unseen": tau, "tau_all": tau}
    shape = {"model": model, "benchmark": "darts", "size": "5 folds", "seed": seed}
    return {**shape, **taus, "n_test": 145, "n_unseen": 145, "fit_s": 2.0}


def test_rows_taken_again_replace_earlier_ones() -> None:
    kept = row(0, 0.5, "nar_former")
    assert merged([[row(0, 0.1), kept]], [row(0, 0.6)]) == [kept, row(0, 0.6)]


def test_the_table_averages_folds_then_seeds_and_names_a_network_of_one_answer() -> None:
    rows = [row(0, 0.4), row(0, 0.6), row(1, 0.7), row(0, 0.4, "nar_former"), row(0, np.nan)]
    line = summary(rows[:3], "darts").splitlines()[-1]
    assert line.startswith("| 5 folds | nn_former | 0.6000 ± 0.1414 | 0.6000 ± 0.1414 |")
    assert "| nn_former | one answer for all |" in summary(rows, "darts")


def test_darts_takes_a_quarter_of_the_cells_and_of_the_rate() -> None:
    made = quartered(NETWORKS["nn_former"].recipe)
    assert made.batch_size == 32 and made.learning_rate == pytest.approx(2.5e-5)
