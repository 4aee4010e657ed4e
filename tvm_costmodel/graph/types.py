"""The parts of an OpGraph: tensor types, operators, edges."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

AttrValue = int | float | str | bool | tuple["AttrValue", ...]
"""Value of an attribute."""

Edge = tuple[int, int]
"""``(producer, output index)``."""

_BITS = re.compile(r"^(?:bfloat|float|uint|int|e\dm\d_float)(\d+)")


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type of one value.

    Attributes:
        shape: Extents; -1 is a dimension unknown until run time, ``()`` a scalar.
        dtype: TVM's name of the element type, such as ``"float32"``; ``"shape"`` and ``"object"``
            for the values of a program that are no tensors.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Number of elements; a dynamic dimension counts as 1."""
        return abs(math.prod(self.shape))

    @property
    def bits(self) -> int:
        """Bits of one element; 64 for an extent of a shape, 0 for an opaque object."""
        return _bits(self.dtype)

    @property
    def bytes(self) -> int:
        """Bytes that the value takes densely packed."""
        return (self.elements * self.bits + 7) // 8


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a network.

    Attributes:
        op: Canonical name from `tvm_costmodel.ops`; an operator unknown there keeps its source's
            name.
        inputs: ``(producer, output index)`` of each activation that it reads, in argument order.
        outputs: Types of its results.
        weights: Types of its constant operands, in argument order.
        attrs: Canonical attributes (see `tvm_costmodel.ops.OpSpec`).
        name: Name for messages and reports; never part of the content hash.
    """

    op: str
    inputs: tuple[Edge, ...]
    outputs: tuple[TensorType, ...]
    weights: tuple[TensorType, ...] = ()
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    name: str = ""


@functools.cache
def _bits(dtype: str) -> int:
    match = _BITS.match(dtype)
    return int(match.group(1)) if match else {"bool": 8, "shape": 64}.get(dtype, 0)
