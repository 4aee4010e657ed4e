"""The convolutions that Winograd's minimal filtering can compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import Axis, Contraction
from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant, is_variable, simplify
from tvm_costmodel.compilers.cpu_rule.plan.contraction_plan import group_size, split_groups
from tvm_costmodel.compilers.cpu_rule.templates.winograd_transforms import tile_edge


@dataclasses.dataclass(frozen=True, eq=False)
class WinogradConv:
    """A convolution of stride 1 in NHWC that minimal filtering can compute.

    Attributes:
        contraction: Its sum of products; spatial axes image, row, column, group (if any), filter.
        outputs: Edge of an output tile.
        edge: Edge of a tile of products.
        channels: Axis of the input channels of a group.
        group: Axis of groups, if there are any.
        parameter: Index of the function's parameter that holds the weights.
    """

    contraction: Contraction
    outputs: int
    edge: int
    channels: Axis
    group: Axis | None
    parameter: int

    @property
    def filters(self) -> Axis:
        """Axis of the output channels of a group."""
        return self.contraction.spatial[-1]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.group.extent if self.group is not None else 1

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Images, rows and columns of output tiles."""
        images, rows, columns = (axis.extent for axis in self.contraction.spatial[:3])
        return images, -(-rows // self.outputs), -(-columns // self.outputs)


def match_winograd(plain: Contraction, outputs: int, parameter: int) -> WinogradConv | None:
    """Recognises a convolution of stride 1, channels last, whose image holds a tile."""
    if len(plain.spatial) != 4 or len(plain.reduce) != 3 or plain.dtype != "float32":
        return None
    contraction, group = plain, None
    size = group_size(plain, plain.spatial[3])
    if size and size < plain.spatial[3].extent:
        contraction, group, _ = split_groups(plain, plain.spatial[3], size)
    down, across, channels = contraction.reduce
    edge = tile_edge(outputs, down.extent)
    image, row, column = contraction.spatial[:3]
    if edge is None or down.extent != across.extent or min(row.extent, column.extent) < outputs:
        return None
    if image.extent > 1 and not is_variable(contraction.left.indices[0], image.var):
        return None
    data: list[Expr] = [row.var + down.var, column.var + across.var, channels.var]
    weights: list[Expr] = [down.var, across.var, channels.var, contraction.spatial[-1].var]
    if group is not None:
        data[2] = group.var * constant(channels.extent) + channels.var
        weights[3] = group.var * constant(size) + contraction.spatial[-1].var
    if not _equal(contraction.left.indices[1:], data, contraction):
        return None
    if not _equal(contraction.right.indices, weights, contraction):
        return None
    return WinogradConv(contraction, outputs, edge, channels, group, parameter)


def _equal(indices: Sequence[Expr], expected: Sequence[Expr], contraction: Contraction) -> bool:
    """Whether two lists of indices are the same for all values of a contraction's axes."""
    if len(indices) != len(expected):
        return False
    differences = [
        simplify(a - b, contraction.ranges) for a, b in zip(indices, expected, strict=True)
    ]
    return all(isinstance(d, tirx.IntImm) and int(d.value) == 0 for d in differences)
