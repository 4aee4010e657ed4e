"""The annotated graph is the one that the real passes export."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from tests.compilers.networks_small import NETWORKS, network, staged
from tests.networks import ONNX_NETWORKS, onnx_network
from tests.tuning.passes import (
    annotated_kernels,
    kernels_after,
    through_passes,
    without_annotations,
)
from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.profiling.workloads import FAMILIES
from tvm_costmodel.tuning.annotate.relax import Annotator
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import STAGE_LAYOUTS

FAST_FAMILIES = ("densenet", "shufflenet_v2", "vit")


def _combinations(space: DecisionSpace, names: Sequence[str]) -> list[Candidate]:
    """Every valid combination of some of the network's decisions."""
    choices = [c for c in space.network_choices if c.decision.name in names]
    candidates = [
        Candidate.of(
            {
                choice.place: value
                for choice, value in zip(choices, values, strict=True)
                if value != choice.decision.default
            }
        )
        for values in itertools.product(*(choice.values for choice in choices))
    ]
    return [candidate for candidate in candidates if space.is_valid(candidate)]


def _all_combinations(space: DecisionSpace) -> list[Candidate]:
    return _combinations(space, [choice.decision.name for choice in space.network_choices])


def _one_decision_each(space: DecisionSpace) -> list[Candidate]:
    """The default, every candidate that decides one thing about the network, and a mixture."""
    alone = [c for choice in space.network_choices for c in _combinations(space, [choice.place[1]])]
    mixed = {"stage2_layout": "NCHW", "stage4_layout": "NCHW", "precision": "float16"}
    mixture = Candidate.of(
        {(NETWORK, name): v for name, v in mixed.items() if (NETWORK, name) in space.by_place}
    )
    return list(dict.fromkeys([*alone, mixture]))


def _compare_with_passes(mod, choose=_all_combinations) -> None:
    graph = from_relax(mod)
    space = DecisionSpace.for_graph(graph, tolerance=1e-2, half_arithmetic=True)
    annotator = Annotator(graph)
    for candidate in choose(space):
        config = space.config(candidate)
        annotated = annotator.annotate(candidate)
        passed = through_passes(mod, config)
        exported = from_relax(passed)
        transposes = [
            sum(op.op == "transpose" for op in graph.operators) for graph in (annotated, exported)
        ]
        assert transposes[0] == transposes[1], candidate
        # operators, wiring, layouts, axes, shapes, dtypes and weights, all in one
        assert without_annotations(annotated).hash == exported.hash, candidate
        assert annotated_kernels(annotated) == kernels_after(passed, config), candidate


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_equal_what_the_passes_export(name):
    _compare_with_passes(network(name))


def test_layouts_of_stages_equal_what_the_passes_export():
    names = (*STAGE_LAYOUTS, "layout", "transposes", "precision")
    _compare_with_passes(staged(), lambda space: _combinations(space, names))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "squeezenet" else pytest.mark.slow) for n in ONNX_NETWORKS],
)
def test_onnx_networks_equal_what_the_passes_export(name):
    _compare_with_passes(onnx_to_relax(load_onnx(onnx_network(name))), _one_decision_each)


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
    _compare_with_passes(mod, _one_decision_each)
