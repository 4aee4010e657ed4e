"""`KernelFormer` of Relay, from random weights and initialised from one of Relax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.roofline_former import RooflineFormer, RooflineFormerConfig
from tvm_costmodel.predictors.flops import KernelFlopsRegressor
from tvm_costmodel.predictors.kernel_former import KernelFormerRegressor
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.relay_kernel_former import RelayKernelFormerRegressor
from tvm_costmodel.tokenizer.kernel_features import KERNEL_FEATURES
from tvm_costmodel.training.ensemble_trainer import EnsembleConfig
from tvm_costmodel.tuning.annotate.relay import RelayAnnotator
from tvm_costmodel.tuning.space.candidate import Candidate

GRAPHS, LATENCY = labelled_graphs(24)
NARROW = RooflineFormerConfig(features=len(KERNEL_FEATURES), channels=32, context_channels=8)


@pytest.fixture(scope="module")
def relax() -> KernelFormerRegressor:
    recipe = EnsembleConfig(epochs=3, batch_size=8)
    return KernelFormerRegressor(recipe, NARROW, members=2).fit(GRAPHS, LATENCY)


def test_it_starts_from_relaxs_answers_times_one_factor(
    relax: KernelFormerRegressor, tmp_path
) -> None:
    annotated = [RelayAnnotator(graph).annotate(Candidate()) for graph in GRAPHS]
    before = relax.predict(annotated)
    slower = 1.7 * before * np.exp(0.02 * np.random.default_rng(0).standard_normal(24))
    recipe = EnsembleConfig(epochs=1, batch_size=8, learning_rate=1e-9)
    regressor = RelayKernelFormerRegressor(recipe, members=5).init_from(relax)
    regressor.fit(annotated[:18], slower[:18], (annotated[18:], slower[18:]))
    factor = np.median(slower[:18] / before[:18])
    np.testing.assert_allclose(regressor.predict(annotated), factor * before, rtol=1e-4)
    loaded = load_predictor(regressor.save(tmp_path / "relay")).regressor
    assert isinstance(loaded, RelayKernelFormerRegressor) and len(loaded.networks) == 2
    np.testing.assert_array_equal(loaded.predict(annotated), regressor.predict(annotated))


def test_it_learns_from_the_marks_of_relay(relax: KernelFormerRegressor) -> None:
    """Packed channels make every network twice as fast here; Relax's tokens do not show it."""
    packed = [RelayAnnotator(graph).annotate(Candidate()) for graph in GRAPHS]
    unpacked = Candidate.from_dict({"network": {"alter_layout": "off"}})
    others = [RelayAnnotator(graph).annotate(unpacked) for graph in GRAPHS]
    before = relax.predict(packed)
    graphs, latency = packed + others, np.concatenate([before, 2 * before])
    recipe = replace(RelayKernelFormerRegressor.recipe, epochs=20, batch_size=8, learning_rate=5e-3)
    regressor = RelayKernelFormerRegressor(recipe).init_from(relax)
    names = [graph.hash for graph in GRAPHS] * 2
    regressor.fit(graphs, latency, (graphs, latency), networks=(names, names))
    ratio = regressor.predict(others) / regressor.predict(packed)
    has_matmuls = np.array([any(c.macs for c in graph.costs) for graph in GRAPHS])
    assert np.median(ratio[has_matmuls]) == pytest.approx(2.0, rel=0.1)
    assert all(type(network).__mro__[1] is RooflineFormer for network in regressor.networks)


def test_it_is_initialised_from_a_kernel_former_only() -> None:
    for other in (KernelFlopsRegressor(), RelayKernelFormerRegressor()):
        with pytest.raises(ConfigError, match=f"from a kernel_former .* not from {other.name}"):
            RelayKernelFormerRegressor().init_from(other)  # type: ignore[arg-type]
