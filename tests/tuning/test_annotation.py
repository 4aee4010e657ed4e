"""The annotated graph is the one that the real passes export."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.compilers.networks_small import NETWORKS, network
from tests.networks import ONNX_NETWORKS, onnx_network
from tests.tuning.passes import (
    annotated_kernels,
    exported_after,
    kernels_after,
    without_annotations,
)
from tvm_costmodel.frontends.onnx import load_onnx, onnx_to_relax
from tvm_costmodel.frontends.relax import from_relax
from tvm_costmodel.profiling.workloads import FAMILIES
from tvm_costmodel.tuning.annotation import Annotator
from tvm_costmodel.tuning.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space import DecisionSpace

FAST_FAMILIES = ("densenet", "shufflenet_v2", "vit")


def _network_candidates(space: DecisionSpace) -> list[Candidate]:
    """Every combination of the network's decisions."""
    choices = space.network_choices
    return [
        Candidate.of(
            {
                (NETWORK, choice.decision.name): value
                for choice, value in zip(choices, values, strict=True)
                if value != choice.decision.default
            }
        )
        for values in itertools.product(*(choice.values for choice in choices))
    ]


def _one_decision_each(space: DecisionSpace) -> list[Candidate]:
    """The default, and every candidate that decides one thing about the network."""
    return [c for c in _network_candidates(space) if len(c.decided) < 2]


def _hold_against_passes(mod, choose=_network_candidates) -> None:
    graph = from_relax(mod)
    space = DecisionSpace.for_graph(graph)
    annotator = Annotator(graph)
    for candidate in choose(space):
        config = space.config(candidate)
        annotated = annotator.annotate(candidate)
        exported = exported_after(mod, config)
        transposes = [
            sum(op.op == "transpose" for op in found.operators) for found in (annotated, exported)
        ]
        assert transposes[0] == transposes[1], candidate
        # operators, wiring, layouts, axes, shapes, dtypes and weights, all in one
        assert without_annotations(annotated).hash == exported.hash, candidate
        assert annotated_kernels(annotated) == kernels_after(mod, config), candidate


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_equal_what_the_passes_export(name):
    _hold_against_passes(network(name))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "squeezenet" else pytest.mark.slow) for n in ONNX_NETWORKS],
)
def test_onnx_networks_equal_what_the_passes_export(name):
    _hold_against_passes(onnx_to_relax(load_onnx(onnx_network(name))), _one_decision_each)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in FAST_FAMILIES else pytest.mark.slow)
        for n in sorted(FAMILIES)
    ],
)
def test_sampled_families_equal_what_the_passes_export(name):
    family = FAMILIES[name]
    mod = family.build(family.sample(np.random.default_rng(0), "tiny"))
    _hold_against_passes(mod, _one_decision_each)
