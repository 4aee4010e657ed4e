"""Winograd's minimal filtering: its transforms, and the weights ready for them.

A tile of ``m x m`` outputs of a kernel ``r x r`` takes ``(m + r - 1)^2`` products instead of
``m^2 r^2``: ``Y = A' [(G g G') * (B' d B)] A`` (Lavin and Gray, arXiv:1509.09308, sections 4.1 to
4.3). ``B`` follows from the points alone: 2x2 outputs of a 5x5 kernel share it with 4x4 of a
3x3 kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from tvm.ir import Expr
from tvm.tirx import FloatImm

# Rows of the filter transform by edge of a tile: a factor, and the point whose powers it scales.
# The last point is infinity.
_POINTS = {
    4: ((1.0, 0), (0.5, 1), (0.5, -1)),
    6: ((1 / 4, 0), (-1 / 6, 1), (-1 / 6, -1), (1 / 24, 2), (1 / 24, -2)),
}


def tile_edge(outputs: int, kernel: int) -> int | None:
    """Edge of a tile of products for tiles of outputs and a kernel; None where none is known."""
    edge = outputs + kernel - 1
    return edge if (outputs, kernel) in ((2, 3), (4, 3), (2, 5)) else None


def _filter_transform(edge: int, kernel: int) -> np.ndarray:
    """Returns ``G``, [edge, kernel]."""
    rows = [[factor * float(point) ** k for k in range(kernel)] for factor, point in _POINTS[edge]]
    last = [0.0] * (kernel - 1) + [1.0]
    return np.array([*rows, last], dtype=np.float32)


def _times(value: float, x: Expr) -> Expr:
    return FloatImm("float32", value) * x


def transform_data(d: Sequence[Expr], outputs: int) -> list[Expr]:
    """``B' d`` for one column (or row) of a tile; it does not depend on ``outputs``.

    Sums that two results share are written the same way, so that LLVM computes them once.
    """
    if len(d) == 4:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    even, odd = d[4] - _times(4.0, d[2]), d[3] - _times(4.0, d[1])
    near, far = d[4] - d[2], _times(2.0, d[3] - d[1])
    return [
        _times(4.0, d[0]) - _times(5.0, d[2]) + d[4],
        even + odd,
        even - odd,
        near + far,
        near - far,
        _times(4.0, d[1]) - _times(5.0, d[3]) + d[5],
    ]


def transform_result(v: Sequence[Expr], outputs: int) -> list[Expr]:
    """``A' v`` for one column (or row) of products: ``outputs`` values."""
    if len(v) == 4:
        return [v[0] + (v[1] + v[2]), (v[1] - v[2]) - v[3]]
    even, odd = v[1] + v[2], v[1] - v[2]
    even2, odd2 = v[3] + v[4], v[3] - v[4]
    if outputs == 2:
        return [v[0] + even + even2, odd + _times(2.0, odd2) + v[5]]
    return [
        v[0] + even + even2,
        odd + _times(2.0, odd2),
        even + _times(4.0, even2),
        odd + _times(8.0, odd2) + v[5],
    ]


@dataclasses.dataclass(frozen=True)
class WinogradWeights:
    """How the constant weights of a convolution are stored for minimal filtering.

    Attributes:
        parameter: Index of the function's parameter that holds them, [kernel, kernel, C, K].
        outputs: ``m``, the edge of an output tile.
        elements: For each panel, the output channels of a group that it holds.
            shape [panels, size]
        dtype: Type in which they are stored.
        groups: Groups of the convolution; C is the number of channels of one.
    """

    parameter: int
    outputs: int
    elements: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    groups: int = 1

    def shape(self, plain: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored weights: [groups * products * panels, C, size]."""
        products = (self.outputs + plain[0] - 1) ** 2
        panels = self.groups * products * len(self.elements)
        return (panels, plain[2], len(self.elements[0]))

    def pack(self, plain: np.ndarray) -> np.ndarray:
        """Transforms the weights. [kernel, kernel, C, K] -> `shape`."""
        kernel, _, channels, filters = plain.shape
        g = _filter_transform(self.outputs + kernel - 1, kernel)
        rows = (g @ plain.reshape(kernel, -1)).reshape(len(g), kernel, channels * filters)
        transformed = g @ rows  # [edge, edge, C * K]
        transformed = transformed.reshape(-1, channels, self.groups, filters // self.groups)
        positions = np.asarray(self.elements).reshape(-1)
        if not np.array_equal(positions, np.arange(transformed.shape[-1])):
            transformed = np.take(transformed, positions, axis=-1)
        panels, size = np.asarray(self.elements).shape
        panelled = transformed.reshape(len(transformed), channels, self.groups, panels, size)
        stored = panelled.transpose(2, 0, 3, 1, 4).reshape(-1, channels, size)
        return np.ascontiguousarray(stored.astype(self.dtype, copy=False))

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON-able values."""
        return {"kind": "filtering", **dataclasses.asdict(self)}
