"""Writing a network in ONNX: what is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.models.roofline_former import RooflineFormerConfig
from tvm_costmodel.predictors import onnx_export
from tvm_costmodel.predictors.checkpoint import CARD, EXPORT
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.onnx_export import OPSET, TOLERANCE, WrittenExport, export_checkpoint
from tvm_costmodel.predictors.roofline_former import RooflineFormerRegressor, new_networks
from tvm_costmodel.predictors.token_networks import NarFormerV2Regressor

for name in ("onnxscript", "onnxruntime"):
    pytest.importorskip(name)
onnx = pytest.importorskip("onnx")

GRAPHS, LATENCY = labelled_graphs(12)


def small_roofline_former(seed: int = 0) -> RooflineFormerRegressor:
    """One small member with weights that no training gave it."""
    import torch

    config = RooflineFormerConfig(channels=16, context_channels=8, blocks=1, layers=1)
    regressor = RooflineFormerRegressor(model=config, members=1)
    regressor.networks = [network.eval() for network in new_networks(config, 1, seed)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in regressor.networks[0].parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    regressor.card["device"] = "cpu-test"
    return regressor


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> WrittenExport:
    folder = tmp_path_factory.mktemp("export")
    return export_checkpoint(small_roofline_former().save(folder / "plain"), folder / "exported")


def test_an_export_is_the_checkpoint_with_its_network_in_onnx(exported: WrittenExport) -> None:
    plain, folder = exported.path.parent / "plain", exported.path
    assert sorted(p.name for p in folder.parent.iterdir()) == ["exported", "plain"]
    assert sorted(p.name for p in folder.iterdir()) == [CARD, EXPORT, "model.safetensors"]
    before, card = (json.loads((path / CARD).read_text()) for path in (plain, folder))
    origin = card.pop("onnx")
    assert card == before
    assert origin["opset"] == OPSET and origin["onnx"] == onnx.__version__
    assert origin["largest_difference"] == exported.difference <= TOLERANCE
    assert (folder / EXPORT).stat().st_size == exported.size


def test_an_exported_network_answers_as_the_network_does(exported: WrittenExport) -> None:
    expected = load_predictor(exported.path, engine="torch").regressor
    answered = load_predictor(exported.path, engine="onnxruntime").regressor
    np.testing.assert_allclose(answered.predict(GRAPHS), expected.predict(GRAPHS), rtol=1e-5)
    shares = [regressor.per_operator(GRAPHS[3]) for regressor in (answered, expected)]
    assert shares[0] is not None and shares[1] is not None
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-5)


def test_an_exported_network_names_its_inputs_and_no_machine(exported: WrittenExport) -> None:
    content = (exported.path / EXPORT).read_bytes()
    model = onnx.load_from_string(content)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]

    def axes(value: Any) -> list[str | int]:
        return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]

    assert {value.name: axes(value) for value in model.graph.input} == {
        "slot": ["operators"],
        "numbers": ["operators", 48],
        "work": ["operators", 3],
        "source": ["edges"],
        "target": ["edges"],
    }
    assert {v.name: axes(v) for v in model.graph.output} == {"operator_ms": [1, "operators", 1]}
    assert b".py" not in content and str(Path.cwd()).encode() not in content


def test_an_export_of_other_weights_differs(exported: WrittenExport) -> None:
    content = (exported.path / EXPORT).read_bytes()
    form = onnx_export._roofline_form(small_roofline_former(seed=1))
    assert onnx_export.compare(form, content) > 1e-2
    form = onnx_export._roofline_form(small_roofline_former(seed=0))
    assert onnx_export.compare(form, content) == exported.difference


@pytest.mark.parametrize("difference", [2e-5, float("nan")])
def test_an_export_that_differs_is_not_written(
    exported: WrittenExport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, difference: float
) -> None:
    def constant(result: Any) -> Callable[..., Any]:
        return lambda *_: result

    monkeypatch.setattr(onnx_export, "to_onnx", constant(b""))
    monkeypatch.setattr(onnx_export, "compare", constant(difference))
    with pytest.raises(CheckpointError, match="nothing was written"):
        export_checkpoint(exported.path, tmp_path / "differs")
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_its_own_checkpoint_and_nothing_else(
    exported: WrittenExport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = (exported.path / EXPORT).read_bytes()
    monkeypatch.setattr(onnx_export, "to_onnx", lambda form: content)
    folder = small_roofline_former().save(tmp_path / "mine")
    assert export_checkpoint(folder, folder).path == folder
    assert load_predictor(folder, engine="onnxruntime").predict(GRAPHS[0]).latency_s > 0
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        export_checkpoint(folder, other)
    assert [path.name for path in other.iterdir()] == ["chapter1.tex"]


def test_what_needs_no_export_says_so(tmp_path: Path) -> None:
    folder = FlopsRegressor().fit(GRAPHS, LATENCY).save(tmp_path / "flops")
    with pytest.raises(ConfigError, match=r"flops needs no export: .*exported are: roofline"):
        export_checkpoint(folder, tmp_path / "out")


@pytest.mark.slow
def test_nar_former_v2_answers_as_the_network_does(tmp_path: Path) -> None:
    import torch

    config = NarFormerV2Config(channels=16, groups=4)
    regressor = NarFormerV2Regressor(model=config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        regressor.network = NarFormerV2(config).eval()
    regressor.power_law = np.array([-4.0, 0.5, 0.2])
    written = export_checkpoint(regressor.save(tmp_path / "plain"), tmp_path / "exported")
    answered = load_predictor(written.path, engine="onnxruntime").regressor
    np.testing.assert_allclose(answered.predict(GRAPHS), regressor.predict(GRAPHS), rtol=1e-5)
