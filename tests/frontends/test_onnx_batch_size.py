from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.published import published
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.onnx.batch_size import from_onnx_at_batch


def stripped_network(path: Path) -> None:
    """Convolution and ReLU at batch 1, without the weight's content."""
    weight = numpy_helper.from_array(np.zeros((6, 3, 3, 3), np.float32), "w")
    weight.ClearField("raw_data")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["y"], ["z"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8]), value("w", TensorProto.FLOAT, [6, 3, 3, 3])],
        [value("z", TensorProto.FLOAT, [1, 6, 8, 8])],
        [weight],
        value_info=[value("y", TensorProto.FLOAT, [1, 6, 8, 8])],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())


def test_networks_are_read_at_the_batch_that_is_given(tmp_path: Path) -> None:
    stripped_network(tmp_path / "net.onnx")
    graph = from_onnx_at_batch(tmp_path / "net.onnx", 8)
    assert [operator.op for operator in graph.operators] == ["input", "conv2d", "relu"]
    assert graph.operators[0].outputs[0].shape == (8, 3, 8, 8)
    assert graph.operators[2].outputs[0].shape == (8, 6, 8, 8)
    assert graph.macs == 8 * 6 * 8 * 8 * 3 * 9 and graph.name == "net"
    with pytest.raises(ModelFileError, match=r"no such file|cannot be read"):
        from_onnx_at_batch(tmp_path / "other.onnx", 8)


def test_a_published_network_without_weights() -> None:
    path = published("nnlqp/resnet18-v1-7-no-weight.onnx")
    assert not onnx.load(str(path)).graph.initializer[0].raw_data
    graph = from_onnx_at_batch(path, 4)
    assert graph.operators[0].outputs[0].shape == (4, 3, 224, 224)
    assert graph.macs / 4e9 == pytest.approx(1.82, rel=0.01)  # ResNet-18 at batch 4
    assert graph.unknown_ops == ()
