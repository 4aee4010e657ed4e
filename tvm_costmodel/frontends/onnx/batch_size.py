"""An ONNX file at another batch size than it was exported with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.onnx.reader import drop_initialiser_inputs, from_onnx, read_onnx
from tvm_costmodel.frontends.onnx.weights import check_weights_defined
from tvm_costmodel.graph.op_graph import OpGraph

if TYPE_CHECKING:
    import onnx


def from_onnx_at_batch(path: str | os.PathLike[str], batch: int) -> OpGraph:
    """Reads a network at a batch size; its weights may lack their content.

    Args:
        path: The ONNX file.
        batch: First extent of every input and output.

    Raises:
        ModelFileError: The file is missing or damaged, or cannot be imported at this batch size.
        UnsupportedOperatorError: It has operators that TVM's importer does not know.
    """
    model = read_onnx(path)
    _set_batch(model, batch, str(path))
    try:
        graph = from_onnx(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path} at batch {batch}: {error}") from error
    return OpGraph(graph.operators, graph.outputs, Path(path).stem)


def _set_batch(model: onnx.ModelProto, batch: int, label: str) -> None:
    """Changes the first extent of inputs and outputs, and drops the shapes inferred from it."""
    drop_initialiser_inputs(model)
    check_weights_defined(model, label)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_value = batch
    del model.graph.value_info[:]
