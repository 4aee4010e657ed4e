"""Constant operands re-ordered into the order in which a register tile reads them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import Axis
from tvm_costmodel.compilers.cpu_rule.analysis.expression import is_variable
from tvm_costmodel.compilers.cpu_rule.templates.winograd_transforms import WinogradWeights

# PrimFunc attribute: JSON list of PackedParameter fields.
PACKED_PARAMETERS = "tvm_costmodel.packed_parameters"


@dataclasses.dataclass(frozen=True)
class PackedParameter:
    """How one constant parameter is stored for a scheduled function.

    Attributes:
        parameter: Index of the parameter.
        axis: Dimension of the plain constant along which panels are cut.
        elements: For each panel, the positions along ``axis`` that it holds. shape [panels, size]
        order: The plain constant's other dimensions, in the panel's order.
        dtype: Type in which it is stored.
        flat: Whether the other dimensions are stored as one.
    """

    parameter: int
    axis: int
    elements: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    dtype: str = "float32"
    flat: bool = False

    def shape(self, plain: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the packed constant: [panels, other dimensions..., size]."""
        others = tuple(plain[d] for d in self.order)
        if self.flat:
            others = (math.prod(others),)
        return (len(self.elements), *others, len(self.elements[0]))

    def pack(self, plain: np.ndarray) -> np.ndarray:
        """Re-orders a constant. [plain] -> [panels, other dimensions..., size]."""
        dimensions = (*self.order, self.axis)
        ones = tuple(d for d in range(plain.ndim) if d not in dimensions)  # dimensions of extent 1
        transposed = np.transpose(plain, (*ones, *dimensions)).reshape(
            [plain.shape[d] for d in dimensions]
        )
        positions = np.asarray(self.elements).reshape(-1)
        flat = transposed
        if not np.array_equal(positions, np.arange(transposed.shape[-1])):
            flat = np.take(transposed, positions, axis=-1)
        flat = flat.reshape(*transposed.shape[:-1], len(self.elements), len(self.elements[0]))
        panels = np.moveaxis(flat, -2, 0).reshape(self.shape(plain.shape))
        return np.ascontiguousarray(panels, _stored(plain.dtype, self.dtype))

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON-able values."""
        fields = dataclasses.asdict(self)
        for name, default in (("dtype", "float32"), ("flat", False)):
            if fields[name] == default:
                del fields[name]
        return fields


def _stored(plain: np.dtype, dtype: str) -> np.dtype:
    return np.dtype(dtype) if dtype == "float16" else plain


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """How a register tile reads weights that were re-ordered for it.

    Attributes:
        shape: Shape of the buffer: [lead axes..., panels, axes..., size].
        axes: The contraction's axes of the middle dimensions.
        packed: How the constant is re-ordered; None where the function itself copies it.
        by_rows: Whether panels follow the tile's rows, not its lanes.
        group: For a packed constant, an outer axis whose every value has panels of its own.
        lead: For a copy, the outer axes along which the operand changes.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    packed: PackedParameter | WinogradWeights | None = None
    by_rows: bool = False
    group: Axis | None = None
    lead: tuple[Axis, ...] = ()


def dump_packed(packed: Sequence[PackedParameter | WinogradWeights]) -> str:
    """Writes the attribute's text."""
    return json.dumps([entry.to_json() for entry in packed])


def load_packed(text: str) -> list[PackedParameter | WinogradWeights]:
    """Reads the attribute's text."""
    return [_load(entry) for entry in json.loads(text)]


def _load(entry: dict[str, Any]) -> PackedParameter | WinogradWeights:
    elements = tuple(tuple(row) for row in entry["elements"])
    dtype = entry.get("dtype", "float32")
    if entry.get("kind") == "filtering":
        groups = int(entry["groups"])
        return WinogradWeights(
            int(entry["parameter"]), int(entry["outputs"]), elements, dtype, groups
        )
    return PackedParameter(
        int(entry["parameter"]),
        int(entry["axis"]),
        elements,
        tuple(entry["order"]),
        dtype,
        bool(entry.get("flat", False)),
    )


def plain_dimensions(load: TensorLoad, axes: tuple[Axis, ...]) -> dict[int, int] | None:
    """Maps each dimension of an operand to the position in ``axes`` of the axis that indexes it.

    Dimensions of extent 1 are left out.

    Returns:
        The map, or None where some index is anything but one of the axes.
    """
    positions = {}
    for dimension, index in enumerate(load.indices):
        if int(load.source.ty.shape[dimension]) == 1:
            continue
        matches = [i for i, axis in enumerate(axes) if is_variable(index, axis.var)]
        if len(matches) != 1 or int(load.source.ty.shape[dimension]) != axes[matches[0]].extent:
            return None
        positions[dimension] = matches[0]
    return positions
