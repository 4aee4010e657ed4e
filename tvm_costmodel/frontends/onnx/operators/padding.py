"""Padding of convolutions and pooling written out as numbers, and ``output_shape``.

TVM's importer reads ``auto_pad`` as a separate padding for some operators and as something else for
others, and ignores ``output_shape``. Here both become ``pads``, as ONNX defines them.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tvm_costmodel.frontends.onnx.operators.editor import (
    GraphEditor,
    attributes_of,
    with_attributes,
)


def rewrite_auto_pad(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Conv, MaxPool, AveragePool and LpPool: ``auto_pad`` as ``pads``."""
    attrs = attributes_of(node)
    mode = attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return None
    shape = graph.shape(node.input[0])
    kernel = _kernel(node, graph, attrs)
    if shape is None or kernel is None:
        graph.refuse(node, f"auto_pad={mode} of an unknown shape", "export it with pads")
    rank = len(kernel)
    strides = attrs.get("strides", [1] * rank)
    dilations = attrs.get("dilations", [1] * rank)
    if node.op_type != "Conv" and mode != "VALID" and max(dilations) > 1:
        graph.refuse(node, f"auto_pad={mode} of a dilated window", "export it with pads")
    totals = []
    for extent, size, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        target = -(-extent // stride)
        totals.append(max((target - 1) * stride + reach - extent, 0))
    changed = with_attributes(node, ("auto_pad", "pads", "ceil_mode"))
    if mode == "VALID":
        totals = [0] * rank
        changed = with_attributes(node, ("auto_pad", "pads"))
    pads = _pads(totals, mode)
    return [with_attributes(changed, pads=pads) if any(pads) else changed]


def rewrite_power_pool(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """LpPool: ``auto_pad`` and ``ceil_mode`` as ``pads``, as TVM counts what is in the image."""
    attrs = attributes_of(node)
    if attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return rewrite_auto_pad(node, graph)
    shape, output = graph.shape(node.input[0]), graph.shape(node.output[0])
    if not attrs.get("ceil_mode"):
        return None
    if shape is None or output is None:
        graph.refuse(node, "ceil_mode of an unknown shape", "export it with pads")
    rank, kernel = len(shape) - 2, attrs["kernel_shape"]
    pads = list(attrs.get("pads", [0] * 2 * rank))
    strides, dilations = (attrs.get(key, [1] * rank) for key in ("strides", "dilations"))
    for i, extent in enumerate(shape[2:]):
        reach = (output[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        pads[rank + i] += max(reach - extent - pads[i] - pads[rank + i], 0)
    return [with_attributes(node, ("ceil_mode",), pads=pads)]


def rewrite_transposed(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """ConvTranspose: ``auto_pad`` and ``output_shape`` as ``pads`` and ``output_padding``."""
    attrs = attributes_of(node)
    mode = attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET" and "output_shape" not in attrs:
        return None
    shape = graph.shape(node.input[0])
    kernel = _kernel(node, graph, attrs)
    if shape is None or kernel is None:
        graph.refuse(node, "an output shape of unknown operands", "export it with pads")
    rank = len(kernel)
    strides = attrs.get("strides", [1] * rank)
    dilations = attrs.get("dilations", [1] * rank)
    extra = list(attrs.get("output_padding", [0] * rank))
    if "output_shape" in attrs:
        targets = list(attrs["output_shape"])[-rank:]
    elif mode == "VALID":
        return [with_attributes(node, ("auto_pad", "pads"))]
    else:
        targets = [e * s for e, s in zip(shape[2:], strides, strict=True)]
    totals = []
    for i, extent in enumerate(shape[2:]):
        reach = (kernel[i] - 1) * dilations[i] + 1
        total = strides[i] * (extent - 1) + extra[i] + reach - targets[i]
        extra[i] += max(-total, 0)
        totals.append(max(total, 0))
    if any(more >= max(s, d) for more, s, d in zip(extra, strides, dilations, strict=True)):
        graph.refuse(node, f"output_shape {targets} is more than it reaches", "pad its output")
    changed = with_attributes(node, ("auto_pad", "output_shape", "pads", "output_padding"))
    changed = with_attributes(changed, pads=_pads(totals, mode)) if any(totals) else changed
    return [with_attributes(changed, output_padding=extra) if any(extra) else changed]


def _pads(totals: list[int], mode: str) -> list[int]:
    """Padding before and after each axis; the odd one comes first for ``SAME_LOWER``."""
    first = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    return first + [total - before for total, before in zip(totals, first, strict=True)]


def _kernel(
    node: onnx.NodeProto, graph: GraphEditor, attrs: dict[str, list[int]]
) -> list[int] | None:
    if "kernel_shape" in attrs:
        return list(attrs["kernel_shape"])
    shape = graph.shape(node.input[1]) if len(node.input) > 1 else None
    return None if shape is None else list(shape[2:])


def drop_unread_indices(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """MaxPool with its indices, which TVM does not give: dropped where nothing reads them."""
    if len(node.output) < 2 or not node.output[1]:
        return rewrite_auto_pad(node, graph)
    if graph.is_read(node.output[1]):
        graph.refuse(node, "its indices are read", "export the model without them")
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.output[1:]
    return [copy]


REWRITES: dict[str, Callable[[onnx.NodeProto, GraphEditor], list[onnx.NodeProto] | None]] = {
    "Conv": rewrite_auto_pad,
    "AveragePool": rewrite_auto_pad,
    "LpPool": rewrite_power_pool,
    "MaxPool": drop_unread_indices,
    "ConvTranspose": rewrite_transposed,
}
"""Function by name of the operator."""
