"""Model files as Relay modules, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm

from tests.networks import onnx_network_path
from tests.relay.modules import small_network
from tvm_costmodel.errors import MissingDependencyError, ModelFileError, UnsupportedOperatorError
from tvm_costmodel.frontends import load_model, load_relay_model
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.frontends.relay.export import from_relay


def test_text_and_json_of_a_module_give_its_graph(tmp_path: Path) -> None:
    mod = small_network()
    expected = from_relay(mod)
    (tmp_path / "module.json").write_text(tvm.ir.save_json(mod))
    (tmp_path / "graph.json").write_text(expected.to_json())
    for name in ("module.json", "graph.json"):
        assert load_relay_model(tmp_path / name).graph.hash == expected.hash, name
    x = "def @main(%x: Tensor[(1, 4), float32]) { nn.relu(%x) }"
    (tmp_path / "module.txt").write_text(f'#[version = "0.0.5"]\n{x}\n')
    loaded = load_relay_model(tmp_path / "module.txt")
    assert [o.op for o in loaded.graph.operators] == ["input", "relu"]
    assert loaded.module is not None and load_relay_model(tmp_path / "graph.json").module is None


def test_onnx_networks_arrive_cleaned() -> None:
    graph = load_relay_model(onnx_network_path("squeezenet")).graph
    ops = {o.op for o in graph.operators}
    assert graph.unknown_ops == () and "dropout" not in ops and "bias_add" not in ops
    assert sum(o.op == "conv2d" for o in graph.operators) == 26
    assert all(o.weights for o in graph.operators if o.op == "conv2d")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04....", "torch.export archives are read into Relax; accepted with --compiler"),
        (b'{"nodes": [1], "root": 0}', "cannot read this as Relay"),
        (b'#[version = "0.0.5"]\ndef @main(%x', "cannot read this as Relay"),
        (b'#[version = "0.0.5"]\ndef @other() { 1 }\n', "no module with a Relay function main"),
        (b"\x08\x08\x12\x01", "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_relay_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_operators_that_relay_does_not_import(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="mine")
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOperatorError, match="importer has no mine::Frobnicate"):
        load_relay_model(tmp_path / "model.onnx")


def test_the_relax_front_end_says_where_it_is() -> None:
    with pytest.raises(MissingDependencyError, match="has Relay: add --compiler relay"):
        from_relax(small_network())
    with pytest.raises(MissingDependencyError, match=r"scripts/environment.sh"):
        load_model(onnx_network_path("squeezenet"))
