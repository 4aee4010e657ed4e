"""TVM's ONNX importer, with own converters for forms that compile badly or hide the operator.

TVM 0.27 emits Clip, Pad and Tile as calls of loop programs, which do not name the operator;
Max, Min, Mean and local response normalisation through a stack or pooling with one dimension more,
which keeps layouts from being converted; and Gather with arithmetic on shapes at run time.
This module imports TVM: import it lazily.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_costmodel.errors import CostModelError, ModelFileError
from tvm_costmodel.frontends.onnx.operators.decompositions import ALWAYS
from tvm_costmodel.frontends.onnx.operators.editor import node_name
from tvm_costmodel.frontends.onnx.rewrites import component_of, mark_imported, note_rewrite

_OPERATOR = re.compile(r'ir\.Op\(span=.*?name="([\w.]+)".*?support_level=\d+\)')
"""How TVM writes an operator in a message."""

Converter = Callable[[Any, Any, dict[str, Any]], Any]


class Importer(onnx_frontend.ONNXGraphImporter):
    """TVM's importer with `CONVERTERS` tried first, and operators bound in the file's order.

    Attributes:
        branches: Whether the graph has If nodes. What is bound inside a branch would land outside
            of it, so operators are then bound where they are first read, as TVM does always.
        at: Operator and name of the node that is being converted.
        named: Operators that were bound by name, of which TVM would make loop programs.
    """

    branches = False
    at: tuple[str, ...] = ()
    named: set[str]

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
        importer.named = set()
        importer.branches = any(node.op_type == "If" for node in model.graph.node)
        for node in model.graph.node:
            node.name = node_name(node)
        try:
            module = importer.from_onnx(model.graph, opset)
        except CostModelError:
            raise
        except Exception as error:
            if not importer.at:
                raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            first = _OPERATOR.sub(r"\1", first)
            raise ModelFileError(
                f"TVM cannot import this model: its ONNX importer has no {importer.at[0]} as node "
                f'"{importer.at[1]}" has it ({first}); export the model with another form of it'
            ) from error
        for operator in importer.named:
            note_rewrite(model, component_of(operator))
        return mark_imported(module, model)

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        super()._construct_nodes(graph)
        self.at = ()
        for output in graph.output:
            value = self._nodes.get(output.name)
            if isinstance(getattr(value, "ty", None), relax.ShapeType):
                self._nodes[output.name] = self.bb.emit(relax.op.shape_to_tensor(value))

    def _convert_operator(
        self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        self.at = op_name, str(attrs.get("tvm_custom", {}).get("name", ""))
        own = CONVERTERS.get(op_name)
        converted = own(self.bb, inputs, attrs) if own else None
        if converted is None:
            converted = super()._convert_operator(op_name, inputs, attrs, opset)
        else:
            converted = self.bb.normalize(converted)
            if op_name in NAMED_ALWAYS or attrs.get("mode", b"constant") != b"constant":
                self.named.add(op_name)
        is_tensor = isinstance(getattr(converted, "ty", None), relax.TensorType)
        if is_tensor and isinstance(converted, tvm.ir.Call) and not self.branches:
            return self.bb.emit(converted)
        return converted


def supported_operators() -> frozenset[str]:
    """Names of the ONNX operators that can be imported."""
    known = frozenset(onnx_frontend._get_convert_map()) | set(CONVERTERS) | {"If", "Constant"}
    return known | ALWAYS


def _constant(value: Any) -> np.ndarray | None:
    return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None


def _operand(inputs: Any, index: int) -> Any:
    return inputs[index] if len(inputs) > index else None


def _clip(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Clip with constant bounds: attributes up to opset 10, operands after."""
    if not str(inputs[0].ty.dtype).startswith("float"):
        return _clip_integers(bb, inputs)
    bounds: list[float] = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        operand = _operand(inputs, index)
        value = attrs.get(name, default) if operand is None else _constant(operand)
        if value is None or np.size(value) != 1 or np.isnan(value).any():
            return None
        bounds.append(float(np.reshape(value, ())))
    if bounds == [0.0, np.inf]:
        return relax.op.nn.relu(inputs[0])
    return relax.op.clip(inputs[0], *bounds)


def _clip_integers(bb: relax.BlockBuilder, inputs: Any) -> Any:
    """Clip of integers, whose bounds float32 may not hold."""
    result = inputs[0]
    for index, op in ((1, relax.op.maximum), (2, relax.op.minimum)):
        bound = _operand(inputs, index)
        if bound is not None:
            result = bb.normalize(op(result, bound))
    return result


def _fold(op: Callable[[Any, Any], Any]) -> Converter:
    def convert(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
        operands = [inputs[i] for i in range(len(inputs))]
        return functools.reduce(lambda a, b: bb.normalize(op(a, b)), operands)

    return convert


def _mean(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    total = _fold(relax.op.add)(bb, inputs, attrs)
    return relax.op.multiply(total, relax.const(1.0 / len(inputs), str(inputs[0].ty.dtype)))


NAMED_ALWAYS = ("CumSum", "Einsum", "IsInf")
"""Operators of `CONVERTERS` that TVM's importer made loop programs of."""
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Pad by constant widths; negative ones cut."""
    x = inputs[0]
    mode = attrs.get("mode", b"constant")
    mode = _PAD_MODES.get(mode.decode() if isinstance(mode, bytes) else str(mode), "")
    operand, filler, axes = (_operand(inputs, i) for i in (1, 2, 3))
    widths = attrs.get("pads", attrs.get("paddings")) if operand is None else _constant(operand)
    value = np.asarray(attrs.get("value", 0.0)) if filler is None else _constant(filler)
    chosen = range(x.ty.ndim) if axes is None else _constant(axes)
    if widths is None or value is None or chosen is None:
        raise ValueError("its widths, value or axes are computed at run time")
    if not mode:
        return None
    if mode == "constant" and operand is None and filler is None and "pads" not in attrs:
        return None
    pairs = [0] * (2 * x.ty.ndim)
    for i, axis in enumerate(chosen):
        at = 2 * (int(axis) % x.ty.ndim)
        pairs[at : at + 2] = int(widths[i]), int(widths[i + len(chosen)])
    if min(pairs) < 0:
        x, pairs = _cut(bb, x, pairs)
    if not _pads_within(x, pairs, mode):
        if mode == "reflect":
            raise ValueError("it reflects more than the tensor holds")
        return None
    return relax.op.nn.pad(x, pairs, mode, float(value.reshape(-1)[0]) if value.size else 0.0)


def _cut(bb: relax.BlockBuilder, x: Any, pairs: list[int]) -> tuple[Any, list[int]]:
    """Slices off what negative widths take away."""
    shape = [int(extent) for extent in x.ty.shape]
    begin = [max(-before, 0) for before in pairs[::2]]
    end = [n - max(-after, 0) for n, after in zip(shape, pairs[1::2], strict=True)]
    cut = bb.emit(relax.op.strided_slice(x, list(range(len(shape))), begin, end))
    return cut, [max(width, 0) for width in pairs]


def _pads_within(x: Any, pairs: list[int], mode: str) -> bool:
    """Whether a padding that repeats the image stays within one copy of it."""
    if mode not in ("reflect", "circular"):
        return True
    spare = 1 if mode == "reflect" else 0
    extents = [_static_extent(x, axis) for axis in range(x.ty.ndim)]
    return all(
        extent is not None and max(pairs[2 * i : 2 * i + 2]) <= extent - spare
        for i, extent in enumerate(extents)
    )


def _cumsum(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Sums along a constant axis."""
    axis = _constant(inputs[1])
    if axis is None:
        raise ValueError("its axis is computed at run time")
    x, along = inputs[0], int(axis.reshape(-1)[0]) % inputs[0].ty.ndim
    if attrs.get("reverse"):
        x = bb.emit(relax.op.flip(x, axis=along))
    dtype = str(x.ty.dtype)
    total = relax.op.cumsum(x, along, dtype, bool(attrs.get("exclusive", 0)))
    return relax.op.flip(bb.emit(total), axis=along) if attrs.get("reverse") else total


def _isinf(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """IsInf of one sign alone."""
    signs = bool(attrs.get("detect_negative", 1)), bool(attrs.get("detect_positive", 1))
    dtype = str(inputs[0].ty.dtype)
    if signs == (True, True):
        return None
    if signs == (False, False):
        return relax.op.zeros_like(inputs[0], "bool")
    infinity = relax.const(np.asarray(-np.inf if signs[0] else np.inf, dtype), dtype)
    return relax.op.equal(inputs[0], infinity)


def _einsum(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    operands = [inputs[i] for i in range(len(inputs))]
    equation = attrs["equation"].decode().replace(" ", "")
    # NumPy checks what TVM does not, on operands that take no memory.
    shapes = [[int(extent) for extent in x.ty.shape] for x in operands]
    np.einsum_path(equation, *(np.broadcast_to(np.int8(0), shape) for shape in shapes))
    return relax.op.einsum(operands, equation)


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
        wrapped = np.where(values < 0, values + extent, values)
        if wrapped.size and not 0 <= wrapped.min() <= wrapped.max() < extent:
            raise ValueError(f"an index lies outside of the {extent} along axis {axis}")
        return relax.op.take(table, relax.const(wrapped), axis)
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
    # Slices that start in the padding behind the last channel hold zeros.
    for start in range(max(0, before - shape[1] + 1), min(size, before + shape[1])):
        part = bb.emit(relax.op.strided_slice(squares, [1], [start], [start + shape[1]]))
        total = part if total is None else bb.emit(relax.op.add(total, part))
    scale = relax.const(float(attrs.get("alpha", 1e-4)) / size, dtype)
    bias = relax.const(float(attrs.get("bias", 1.0)), dtype)
    base = bb.emit(relax.op.add(bb.emit(relax.op.multiply(total, scale)), bias))
    power = bb.emit(relax.op.power(base, relax.const(float(attrs.get("beta", 0.75)), dtype)))
    return relax.op.divide(x, power)


def _upsample(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Upsample, and Resize of operator set 10: two operands, samples by ``asymmetric``."""
    operand = _operand(inputs, 1)
    scales = attrs.get("scales") if operand is None else _constant(operand)
    if len(inputs) > 2 or scales is None:
        return None
    sizes = [int(float(s) * int(n)) for s, n in zip(scales, inputs[0].ty.shape, strict=True)][2:]
    mode = attrs.get("mode", b"nearest").decode()
    return relax.op.image.resize2d(
        inputs[0],
        relax.ShapeExpr(sizes),
        roi=[0.0] * 4,
        layout="NCHW",
        method={"nearest": "nearest_neighbor", "bilinear": "linear"}.get(mode, mode),
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor" if mode == "nearest" else "round",
    )


def _slice(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Slice before operator set 10, whose bounds are attributes."""
    x, starts = inputs[0], attrs.get("starts")
    if starts is None:
        return None
    axes = [int(axis) % x.ty.ndim for axis in attrs.get("axes", range(len(starts)))]
    return relax.op.strided_slice(x, axes, list(starts), list(attrs["ends"]))


def _topk(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """TopK in order, which also suits who asks for none."""
    operand = _operand(inputs, 1)
    count = np.asarray(attrs.get("k", 1)) if operand is None else _constant(operand)
    if count is None:
        raise ValueError("how many it takes is computed at run time")
    axis, largest = int(attrs.get("axis", -1)), bool(attrs.get("largest", 1))
    k = int(count.reshape(-1)[0])
    return relax.op.topk(inputs[0], k, axis, ret_type="both", largest=largest, dtype="int64")


def _softmax(bb: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any]) -> Any:
    """Softmax over the last axis, the same in every opset, without reshapes around it."""
    rank = inputs[0].ty.ndim
    if attrs.get("axis", rank - 1 if rank == 2 else None) not in (-1, rank - 1):
        return None
    return relax.op.nn.softmax(inputs[0], axis=-1)


CONVERTERS: dict[str, Converter] = {
    "Clip": _clip,
    "CumSum": _cumsum,
    "Einsum": _einsum,
    "Gather": _gather,
    "Gemm": _gemm,
    "IsInf": _isinf,
    "LRN": _lrn,
    "Max": _fold(relax.op.maximum),
    "Mean": _mean,
    "Min": _fold(relax.op.minimum),
    "Pad": _pad,
    "Resize": _upsample,
    "Slice": _slice,
    "Softmax": _softmax,
    "Sum": _fold(relax.op.add),
    "Tile": _tile,
    "TopK": _topk,
    "Upsample": _upsample,
}
