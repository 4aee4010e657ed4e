"""What may score candidates: names, checkpoints, loaded predictors, random scores."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.compilers.networks_small import network
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.predictors.flops import KernelFlopsRegressor
from tvm_costmodel.predictors.loading import Predictor, load_predictor
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.tuning.annotate.relax import Annotator
from tvm_costmodel.tuning.scoring.loading import RandomScorer, load_scorer
from tvm_costmodel.tuning.search.search import search
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

DEVICE = resolve_device("cpu-amd-zen5")


@pytest.fixture(scope="module")
def space() -> DecisionSpace:
    return DecisionSpace.for_graph(from_relax(network("residual")))


@pytest.fixture(scope="module")
def checkpoint(space: DecisionSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLOPs predictor of annotated graphs, fitted on synthetic latencies."""
    annotator, rng = Annotator(space.graph), np.random.default_rng(0)
    graphs = [annotator.annotate(space.sample(rng)) for _ in range(30)]
    regressor = KernelFlopsRegressor().fit(graphs, np.linspace(1e-3, 2e-3, 30))
    regressor.card["device"] = DEVICE.name
    return regressor.save(tmp_path_factory.mktemp("checkpoint") / "flops")


def test_a_checkpoint_directory_scores_candidates(space, checkpoint) -> None:
    scorer, name = load_scorer(str(checkpoint), space, DEVICE)
    assert name == "flops_kernel"
    direct = Candidate()
    winograd = Candidate.of({(1, "algorithm"): "winograd4"})
    scores = scorer.score([direct, winograd])
    graphs = [Annotator(space.graph).annotate(c) for c in (direct, winograd)]
    regressor = load_predictor(checkpoint).regressor
    assert scores.latency_s == pytest.approx(regressor.predict(graphs))
    result = search(space, scorer, candidates=100)
    assert result.scored == 100 and np.isfinite(result.ranked[0].latency_s)


def test_predictors_regressors_and_scorers_are_taken_as_they_are(space, checkpoint, caplog) -> None:
    loaded = load_predictor(checkpoint)
    for predictor in (loaded, loaded.regressor, checkpoint):
        scorer, name = load_scorer(predictor, space, DEVICE)
        assert name == "flops_kernel" and len(scorer.score([Candidate()]).latency_s) == 1
    known = KnownScorer({})
    assert load_scorer(known, space, DEVICE) == (known, "known")
    with caplog.at_level(logging.WARNING):
        load_scorer(Predictor(loaded.regressor, "rpi4"), space, DEVICE)
    assert "learned from rpi4, not cpu-amd-zen5" in caplog.text


def test_what_cannot_score_is_refused(space, checkpoint) -> None:
    with pytest.raises(CheckpointError, match="was trained for cpu-amd-zen5, and rpi4"):
        load_scorer(checkpoint, space, resolve_device("rpi4"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_scorer(None, space, resolve_device("rpi4"))
    with pytest.raises(CheckpointError, match="no checkpoint 'rpi4' for flops_kernel"):
        load_scorer("flops", space, resolve_device("rpi4"))
    with pytest.raises(ConfigError, match="cannot tell variants apart"):
        load_scorer("roofline_former", space, DEVICE)


def test_random_scores_rank_the_same_way_each_time(space) -> None:
    candidates = [Candidate.of({(NETWORK, "fusion"): v}) for v in ("off", "depth2", "depth4")]
    one, same, other = (RandomScorer(seed).score(candidates).latency_s for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    scorer, name = load_scorer("random", space, DEVICE, seed=3)
    assert name == "random"
    assert scorer.score([Candidate()]).latency_s.tolist() == [1.0]
    assert scorer.best_values([Candidate()]) is None
