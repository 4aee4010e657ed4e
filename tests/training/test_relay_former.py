"""The kernel former of Relay, from nothing and from what one learned of Relax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.baselines.decided_flops import DecidedFlopsRegressor
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.roofline_former import RooflineFormer, RooflineFormerConfig
from tvm_costmodel.predictor import load_predictor
from tvm_costmodel.tokenizer.kernels import KERNEL_FEATURES
from tvm_costmodel.training.relay_former import RelayKernelFormerRegressor
from tvm_costmodel.training.replicas import ReplicaConfig
from tvm_costmodel.training.roofline import KernelFormerRegressor
from tvm_costmodel.tuning.candidate import Candidate
from tvm_costmodel.tuning.relay_annotation import RelayAnnotator

GRAPHS, LATENCY = labelled_graphs(24)
NARROW = RooflineFormerConfig(features=len(KERNEL_FEATURES), channels=32, context_channels=8)


@pytest.fixture(scope="module")
def relax() -> KernelFormerRegressor:
    recipe = ReplicaConfig(epochs=3, batch_size=8)
    return KernelFormerRegressor(recipe, NARROW, members=2).fit(GRAPHS, LATENCY)


def test_it_begins_at_relaxs_answers_times_one_factor(
    relax: KernelFormerRegressor, tmp_path
) -> None:
    annotated = [RelayAnnotator(graph).annotate(Candidate()) for graph in GRAPHS]
    before = relax.predict(annotated)
    slower = 1.7 * before * np.exp(0.02 * np.random.default_rng(0).standard_normal(24))
    recipe = ReplicaConfig(epochs=1, batch_size=8, learning_rate=1e-9)
    begun = RelayKernelFormerRegressor(recipe, members=5).begin_at(relax)
    begun.fit(annotated[:18], slower[:18], (annotated[18:], slower[18:]))
    factor = np.median(slower[:18] / before[:18])
    np.testing.assert_allclose(begun.predict(annotated), factor * before, rtol=1e-4)
    loaded = load_predictor(begun.save(tmp_path / "relay")).regressor
    assert isinstance(loaded, RelayKernelFormerRegressor) and len(loaded.networks) == 2
    np.testing.assert_array_equal(loaded.predict(annotated), begun.predict(annotated))


def test_it_learns_what_the_marks_tell(relax: KernelFormerRegressor) -> None:
    """Packed channels make every network twice as fast here; Relax's tokens do not tell."""
    packed = [RelayAnnotator(graph).annotate(Candidate()) for graph in GRAPHS]
    apart = Candidate.from_dict({"network": {"alter_layout": "off"}})
    others = [RelayAnnotator(graph).annotate(apart) for graph in GRAPHS]
    before = relax.predict(packed)
    graphs, latency = packed + others, np.concatenate([before, 2 * before])
    recipe = replace(RelayKernelFormerRegressor.recipe, epochs=40, batch_size=8, learning_rate=3e-3)
    begun = RelayKernelFormerRegressor(recipe).begin_at(relax)
    names = [graph.hash for graph in GRAPHS] * 2
    begun.fit(graphs, latency, (graphs, latency), networks=(names, names))
    ratio = begun.predict(others) / begun.predict(packed)
    has_products = np.array([any(c.macs for c in graph.costs) for graph in GRAPHS])
    assert np.median(ratio[has_products]) == pytest.approx(2.0, rel=0.1)
    assert all(type(network).__mro__[1] is RooflineFormer for network in begun.networks)


def test_only_a_kernel_former_can_be_begun_at() -> None:
    for other in (DecidedFlopsRegressor(), RelayKernelFormerRegressor()):
        with pytest.raises(ConfigError, match=f"begins at a kernel_former .* not at {other.name}"):
            RelayKernelFormerRegressor().begin_at(other)  # type: ignore[arg-type]
