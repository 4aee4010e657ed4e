"""`KernelFormer` through ONNX Runtime: predictions, kernel costs, tuning without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.graphs import resnet_graph
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.kernel_former import KernelFormerRegressor
from tvm_costmodel.predictors.loading import Predictor, load_predictor
from tvm_costmodel.predictors.onnx_export import TOLERANCE, export_checkpoint
from tvm_costmodel.predictors.onnx_runtime import ExportedKernelFormer, ExportedRegressor
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.predictors.roofline_former import new_networks
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.scoring.loading import load_scorer
from tvm_costmodel.tuning.scoring.scorer import GraphScorer, KernelScorer, scorer_for
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

for name in ("onnxscript", "onnxruntime"):
    pytest.importorskip(name)

DEVICE = "cpu-amd-zen5"
GRAPH = resnet_graph((1, 1), 16, 32, 10)


def a_space(compiler: str = "relax") -> DecisionSpace:
    return DecisionSpace.for_graph(GRAPH, tolerance=1e-2, compiler=compiler)


def some_candidates(space: DecisionSpace, count: int = 40) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [space.default, *(space.explore(rng) for _ in range(count))]


def export(name: str, folder: Path, members: int, context: str) -> Path:
    """Small members with weights that no training gave them, exported."""
    settings = {"channels": 16, "context_channels": 8, "members": members, "context": context}
    settings |= {"blocks": 1, "layers": 1}
    regressor = build_regressor(name, 0, settings)
    assert isinstance(regressor, KernelFormerRegressor)
    regressor.networks = [network.eval() for network in new_networks(regressor.model, members, 0)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for network in regressor.networks:
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    regressor.card["device"] = DEVICE
    written = export_checkpoint(regressor.save(folder / "plain"), folder / "exported")
    assert written.difference <= TOLERANCE
    return written.path


def engines(folder: Path) -> tuple[Predictor, Predictor]:
    """The checkpoint through torch and through ONNX Runtime."""
    exported = load_predictor(folder, engine="onnxruntime")
    assert isinstance(exported.regressor, ExportedRegressor)
    return load_predictor(folder, engine="torch"), exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("kernel_former", tmp_path_factory.mktemp("former"), 2, "types")


def annotated(space: DecisionSpace, candidates: list[Candidate]) -> list[OpGraph]:
    annotator = backend_of(space.compiler).annotator(space.graph)
    return [annotator.annotate(candidate) for candidate in candidates]


def test_annotated_networks_get_the_same_answers(folder: Path) -> None:
    space = a_space()
    graphs = annotated(space, some_candidates(space))
    expected, exported = engines(folder)
    answers = exported.regressor.predict(graphs)
    np.testing.assert_allclose(answers, expected.regressor.predict(graphs), rtol=1e-5)
    assert len(np.unique(answers)) > 20  # decisions count
    shares = [engine.regressor.per_operator(graphs[7]) for engine in (expected, exported)]
    assert shares[0] is not None and shares[1] is not None
    np.testing.assert_allclose(shares[1], shares[0], rtol=1e-5)


def test_kernels_get_the_same_costs(folder: Path) -> None:
    space = a_space()
    candidates = some_candidates(space)
    scorers = [scorer_for(engine, space) for engine in engines(folder)]
    assert all(isinstance(scorer, KernelScorer) for scorer in scorers)
    expected, exported = (scorer.score(candidates) for scorer in scorers)
    np.testing.assert_allclose(exported.latency_s, expected.latency_s, rtol=1e-5)
    np.testing.assert_allclose(exported.spread, expected.spread, atol=1e-5)
    best = [scorer.best_values([space.default]) for scorer in scorers]
    assert best[0] == best[1] != [space.default]
    whole = GraphScorer(engines(folder)[1].regressor, space).score(candidates)
    np.testing.assert_allclose(exported.latency_s, whole.latency_s, rtol=1e-5)


def test_wider_tokens_and_a_context_that_sees_decisions_are_exported_alike(tmp_path: Path) -> None:
    space = a_space("relay")
    graphs = annotated(space, some_candidates(space))
    expected, exported = engines(export("relay_kernel_former", tmp_path, 1, "full"))
    assert exported.name == "relay_kernel_former"
    answers = exported.regressor.predict(graphs)
    np.testing.assert_allclose(answers, expected.regressor.predict(graphs), rtol=1e-5)
    assert len(np.unique(answers)) > 20
    assert isinstance(exported.regressor, ExportedKernelFormer)
    assert exported.regressor.sees_decisions  # so that whole graphs are read
    assert isinstance(scorer_for(exported, space), GraphScorer)


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "tvm"):
    sys.modules[name] = None
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.tuning.scoring.loading import load_scorer
from tvm_costmodel.tuning.search.search import search
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

space = DecisionSpace.for_graph(OpGraph.from_json(sys.stdin.read()), tolerance=1e-2)
scorer, name = load_scorer(sys.argv[1], space, resolve_device("cpu-amd-zen5"))
best = search(space, scorer, candidates=300).ranked[0]
print(json.dumps([name, type(scorer).__name__, best.candidate.to_dict(), best.latency_s]))
"""


def test_candidates_are_searched_where_torch_is_not(folder: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder)],
        input=GRAPH.to_json(),
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    name, kind, best, latency_s = json.loads(completed.stdout)
    assert (name, kind) == ("kernel_former", "KernelScorer")
    scorer, _ = load_scorer(folder, a_space(), resolve_device(DEVICE))
    expected = scorer.score([Candidate.from_dict(best)]).latency_s[0]
    assert latency_s == pytest.approx(expected, rel=1e-5)
