"""Networks that tests and benchmarks share: ONNX's own nine with random weights, and small ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_costmodel.frontends.onnx.reader import randomise_weights

if TYPE_CHECKING:
    import tvm

ONNX_NETWORKS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
"""The networks that ship inside the `onnx` package, all for one image of 3 x 224 x 224."""


def onnx_network_path(name: str) -> Path:
    """Path of one of `ONNX_NETWORKS`; every weight in it has the same value."""
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


def onnx_network(name: str) -> onnx.ModelProto:
    return onnx.load(onnx_network_path(name))


def randomised(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model with random weights that keep activations in range; see `randomise_weights`."""
    return randomise_weights(model, seed)


def onnx_inputs(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal float32 values for every input that is no weight; shapes must be static."""
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: rng.standard_normal(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in model.graph.input
        if value.name not in weights
    }


def run_onnxruntime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of onnxruntime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str] | None],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A float32 ONNX model of a few nodes."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model up to what its final Softmax reads: a saturated softmax hides differences."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for value in cut.graph.output:
        producer = next(node for node in cut.graph.node if value.name in node.output)
        if producer.op_type == "Softmax":
            value.name = producer.input[0]
            cut.graph.node.remove(producer)
    return cut


def run_relax(mod: tvm.IRModule, inputs: list[np.ndarray], fast: bool = False) -> list[np.ndarray]:
    """Outputs of a Relax module: by TVM's default pipeline, or the package's own for large ones."""
    import tvm

    from tvm_costmodel.compilers import relax
    from tvm_costmodel.compilers.relax.verification import run

    if fast:
        return run(relax.build(mod, relax.cpu_target(), relax.PipelineConfig()).executable, inputs)
    return run(tvm.compile(mod, tvm.target.Target("llvm")), inputs)
