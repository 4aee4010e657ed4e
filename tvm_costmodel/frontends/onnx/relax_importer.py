"""TVM's ONNX importer, with own converters for forms that compile badly or hide the operator.

TVM 0.27 emits Clip, Pad and Tile as calls of loop programs, which do not name the operator;
Max, Min, Mean and local response normalisation through a stack or pooling with one dimension more,
which keeps layouts from being converted; and Gather with arithmetic on shapes at run time.
This module imports TVM: import it lazily.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

Converter = Callable[[Any, Any, dict[str, Any]], Any]


class Importer(onnx_frontend.ONNXGraphImporter):
    """TVM's importer with `CONVERTERS` tried first, and operators bound in the file's order.

    Attributes:
        branches: Whether the graph has If nodes. What is bound inside a branch would land outside
            of it, so operators are then bound where they are first read, as TVM does always.
    """

    branches = False

    @classmethod
    def convert(cls, model: onnx.ModelProto) -> tvm.IRModule:
        """Imports a static model: one function ``main``, weights as constants.

        Args:
            model: Cleaned model.

        Raises:
            Exception: Whatever TVM's importer raises.
        """
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        importer = cls(None, "float32")
        importer.branches = any(node.op_type == "If" for node in model.graph.node)
        return importer.from_onnx(model.graph, opset)

    def _convert_operator(
        self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        own = CONVERTERS.get(op_name)
        converted = own(self.bb, inputs, attrs) if own else None
        if converted is None:
            converted = super()._convert_operator(op_name, inputs, attrs, opset)
        else:
            converted = self.bb.normalize(converted)
        is_tensor = isinstance(getattr(converted, "ty", None), relax.TensorType)
        if is_tensor and isinstance(converted, tvm.ir.Call) and not self.branches:
            return self.bb.emit(converted)
        return converted


def supported_operators() -> frozenset[str]:
    """Names of the ONNX operators that can be imported."""
    return frozenset(onnx_frontend._get_convert_map()) | set(CONVERTERS) | {"If", "Constant"}


def _constant(value: Any) -> np.ndarray | None:
    return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None


def _operand(inputs: Any, index: int) -> Any:
    return inputs[index] if len(inputs) > index else None


def _clip(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Clip with constant bounds: attributes up to opset 10, operands after."""
    if not str(inputs[0].ty.dtype).startswith("float"):
        return None
    bounds = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        operand = _operand(inputs, index)
        value = attrs.get(name, default) if operand is None else _constant(operand)
        if value is None or np.isnan(value):
            return None
        bounds.append(float(value))
    if bounds == [0.0, np.inf]:
        return relax.op.nn.relu(inputs[0])
    return relax.op.clip(inputs[0], *bounds)


def _fold(op: Callable[[Any, Any], Any]) -> Converter:
    def convert(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
        operands = [inputs[i] for i in range(len(inputs))]
        return functools.reduce(lambda a, b: bb.normalize(op(a, b)), operands)

    return convert


def _mean(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    total = _fold(relax.op.add)(bb, inputs, attrs)
    return relax.op.multiply(total, relax.const(1.0 / len(inputs), str(inputs[0].ty.dtype)))


def _pad(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Pad by a constant, with constant widths over all axes."""
    mode = attrs.get("mode", b"constant")
    operand = _operand(inputs, 1)
    widths = attrs.get("pads") if operand is None else _constant(operand)
    filler = _operand(inputs, 2)
    value = attrs.get("value", 0.0) if filler is None else _constant(filler)
    if mode != b"constant" or widths is None or value is None or _operand(inputs, 3) is not None:
        return None
    widths = [int(width) for width in widths]
    if min(widths) < 0:
        return None
    rank = len(widths) // 2
    pairs = [w for axis in range(rank) for w in (widths[axis], widths[axis + rank])]
    return relax.op.nn.pad(inputs[0], pairs, "constant", float(value))


def _tile(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    repeats = _constant(_operand(inputs, 1))
    if repeats is None or repeats.ndim != 1:
        return None
    return relax.op.tile(inputs[0], [int(count) for count in repeats])


def _gather(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Gather along an axis of known length, without computing that length at run time."""
    table, indices = inputs[0], inputs[1]
    axis = int(attrs.get("axis", 0))
    extent = _static_extent(table, axis)
    if extent is None or not isinstance(getattr(indices, "ty", None), relax.TensorType):
        return None
    values, dtype = _constant(indices), str(indices.ty.dtype)
    if values is not None:
        return relax.op.take(
            table, relax.const(np.where(values < 0, values + extent, values)), axis
        )
    negative = bb.normalize(relax.op.less(indices, relax.const(0, dtype)))
    wrapped = bb.normalize(relax.op.add(indices, relax.const(extent, dtype)))
    return relax.op.take(table, bb.normalize(relax.op.where(negative, wrapped, indices)), axis)


def _static_extent(value: Any, axis: int) -> int | None:
    if not isinstance(getattr(value, "ty", None), relax.TensorType) or value.ty.shape is None:
        return None
    extent = value.ty.shape[axis]
    return int(extent) if isinstance(extent, tvm.tirx.IntImm) else None


def _gemm(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Gemm whose factors go to its constant operands, where folding removes them."""
    matrix, bias = inputs[1], _operand(inputs, 2)
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if _constant(matrix) is None or (beta != 1.0 and bias is not None and _constant(bias) is None):
        return None
    dtype = str(inputs[0].ty.dtype)
    left = relax.op.permute_dims(inputs[0], [1, 0]) if attrs.get("transA") else inputs[0]
    right = relax.op.permute_dims(matrix, [1, 0]) if attrs.get("transB") else matrix
    if alpha != 1.0:
        right = relax.op.multiply(bb.normalize(right), relax.const(alpha, dtype))
    matmul = relax.op.matmul(bb.normalize(left), bb.normalize(right))
    if bias is None:
        return matmul
    if beta != 1.0:
        bias = bb.normalize(relax.op.multiply(bias, relax.const(beta, dtype)))
    return relax.op.add(bb.normalize(matmul), bias)


def _lrn(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Local response normalisation over channels (axis 1), as a sum of shifted slices.

    ``y = x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels) ^ beta``, the
    window reaching ``(size - 1) // 2`` channels back (Krizhevsky et al., 2012).
    """
    x, size = inputs[0], int(attrs["size"])
    shape = [int(extent) for extent in x.ty.shape]
    dtype = str(x.ty.dtype)
    before = (size - 1) // 2
    widths = [0] * (2 * len(shape))
    widths[2:4] = [before, size - 1 - before]
    squares = bb.normalize(relax.op.nn.pad(bb.normalize(relax.op.multiply(x, x)), widths))
    squares = bb.emit(squares)
    total = None
    for start in range(size):
        part = bb.emit(relax.op.strided_slice(squares, [1], [start], [start + shape[1]]))
        total = part if total is None else bb.emit(relax.op.add(total, part))
    scale = relax.const(float(attrs.get("alpha", 1e-4)) / size, dtype)
    bias = relax.const(float(attrs.get("bias", 1.0)), dtype)
    base = bb.emit(relax.op.add(bb.emit(relax.op.multiply(total, scale)), bias))
    power = bb.emit(relax.op.power(base, relax.const(float(attrs.get("beta", 0.75)), dtype)))
    return relax.op.divide(x, power)


def _softmax(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Softmax over the last axis, the same in every opset, without reshapes around it."""
    rank = inputs[0].ty.ndim
    if attrs.get("axis", rank - 1 if rank == 2 else None) not in (-1, rank - 1):
        return None
    return relax.op.nn.softmax(inputs[0], axis=-1)


CONVERTERS: dict[str, Converter] = {
    "Clip": _clip,
    "Gather": _gather,
    "Gemm": _gemm,
    "LRN": _lrn,
    "Max": _fold(relax.op.maximum),
    "Mean": _mean,
    "Min": _fold(relax.op.minimum),
    "Pad": _pad,
    "Softmax": _softmax,
    "Sum": _fold(relax.op.add),
    "Tile": _tile,
}
