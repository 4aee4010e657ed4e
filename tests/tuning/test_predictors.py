"""What may score candidates: names, checkpoints, loaded predictors, chance."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.compilers.networks_small import network
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.baselines.decided_flops import DecidedFlopsRegressor
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.frontends.relax import from_relax
from tvm_costmodel.predictor import Predictor, load_predictor
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.tuning.annotation import Annotator
from tvm_costmodel.tuning.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.predictors import ChanceScorer, load_scorer
from tvm_costmodel.tuning.search import search
from tvm_costmodel.tuning.space import DecisionSpace

DEVICE = resolve_device("cpu-x86-avx512")


@pytest.fixture(scope="module")
def space() -> DecisionSpace:
    return DecisionSpace.for_graph(from_relax(network("residual")))


@pytest.fixture(scope="module")
def checkpoint(space: DecisionSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLOPs predictor of annotated graphs, fitted on made-up latencies."""
    annotator, rng = Annotator(space.graph), np.random.default_rng(0)
    graphs = [annotator.annotate(space.sample(rng)) for _ in range(30)]
    regressor = DecidedFlopsRegressor().fit(graphs, np.linspace(1e-3, 2e-3, 30))
    regressor.card["device"] = DEVICE.name
    return regressor.save(tmp_path_factory.mktemp("checkpoint") / "flops")


def test_a_checkpoint_directory_scores_candidates(space, checkpoint) -> None:
    scorer, name = load_scorer(str(checkpoint), space, DEVICE)
    assert name == "flops_decided"
    direct = Candidate()
    winograd = Candidate.of({(1, "algorithm"): "winograd4"})
    scores = scorer.score([direct, winograd])
    graphs = [Annotator(space.graph).annotate(c) for c in (direct, winograd)]
    regressor = load_predictor(checkpoint).regressor
    assert scores.latency_s == pytest.approx(regressor.predict(graphs))
    found = search(space, scorer, candidates=100)
    assert found.scored == 100 and np.isfinite(found.ranked[0].latency_s)


def test_predictors_regressors_and_scorers_are_taken_as_they_are(space, checkpoint, caplog) -> None:
    loaded = load_predictor(checkpoint)
    for given in (loaded, loaded.regressor, checkpoint):
        scorer, name = load_scorer(given, space, DEVICE)
        assert name == "flops_decided" and len(scorer.score([Candidate()]).latency_s) == 1
    known = KnownScorer({})
    assert load_scorer(known, space, DEVICE) == (known, "known")
    with caplog.at_level(logging.WARNING):
        load_scorer(Predictor(loaded.regressor, "rpi4"), space, DEVICE)
    assert "learned from rpi4, not cpu-x86-avx512" in caplog.text


def test_what_cannot_score_is_refused(space, checkpoint) -> None:
    with pytest.raises(CheckpointError, match="was trained for cpu-x86-avx512, and rpi4"):
        load_scorer(checkpoint, space, resolve_device("rpi4"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_scorer(None, space, resolve_device("rpi4"))
    with pytest.raises(CheckpointError, match="no checkpoint 'rpi4' for flops_decided"):
        load_scorer("flops", space, resolve_device("rpi4"))
    with pytest.raises(ConfigError, match="cannot tell variants apart"):
        load_scorer("roofline_former", space, DEVICE)


def test_chance_ranks_the_same_way_each_time(space) -> None:
    candidates = [Candidate.of({(NETWORK, "fusion"): v}) for v in ("off", "depth2", "depth4")]
    one, same, other = (ChanceScorer(seed).score(candidates).latency_s for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    scorer, name = load_scorer("random", space, DEVICE, seed=3)
    assert name == "random"
    assert scorer.score([Candidate()]).latency_s.tolist() == [1.0]
    assert scorer.best_values([Candidate()]) is None
