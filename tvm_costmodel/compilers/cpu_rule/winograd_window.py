"""The convolutions that Winograd's minimal filtering takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr

from tvm_costmodel.compilers.cpu_rule.expression import constant, is_variable, simplify
from tvm_costmodel.compilers.cpu_rule.minimal_filtering import tile_edge
from tvm_costmodel.compilers.cpu_rule.planning import group_size, split_groups
from tvm_costmodel.compilers.cpu_rule.product import Axis, Product


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A convolution of stride 1 in NHWC whose window minimal filtering takes.

    Attributes:
        product: Its sum of products; spatial axes image, row, column, group (if any), filter.
        outputs: Edge of an output tile.
        products: Edge of a tile of products.
        channels: Axis of the input channels of a group.
        group: Axis of groups, if there are any.
        parameter: Index of the function's parameter that holds the weights.
    """

    product: Product
    outputs: int
    products: int
    channels: Axis
    group: Axis | None
    parameter: int

    @property
    def filters(self) -> Axis:
        """Axis of the output channels of a group."""
        return self.product.spatial[-1]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.group.extent if self.group is not None else 1

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Images, rows and columns of output tiles."""
        images, rows, columns = (axis.extent for axis in self.product.spatial[:3])
        return images, -(-rows // self.outputs), -(-columns // self.outputs)


def match_window(plain: Product, outputs: int, parameter: int) -> Window | None:
    """Recognises a convolution of stride 1, channels last, whose image holds a tile."""
    if len(plain.spatial) != 4 or len(plain.reduce) != 3 or plain.dtype != "float32":
        return None
    product, group = plain, None
    size = group_size(plain, plain.spatial[3])
    if size and size < plain.spatial[3].extent:
        product, group, _ = split_groups(plain, plain.spatial[3], size)
    down, across, channels = product.reduce
    edge = tile_edge(outputs, down.extent)
    image, row, column = product.spatial[:3]
    if edge is None or down.extent != across.extent or min(row.extent, column.extent) < outputs:
        return None
    if image.extent > 1 and not is_variable(product.left.indices[0], image.var):
        return None
    data: list[Expr] = [row.var + down.var, column.var + across.var, channels.var]
    weights: list[Expr] = [down.var, across.var, channels.var, product.spatial[-1].var]
    if group is not None:
        data[2] = group.var * constant(channels.extent) + channels.var
        weights[3] = group.var * constant(size) + product.spatial[-1].var
    if not _equal(product.left.indices[1:], data, product):
        return None
    if not _equal(product.right.indices, weights, product):
        return None
    return Window(product, outputs, edge, channels, group, parameter)


def _equal(got: Sequence[Expr], wanted: Sequence[Expr], product: Product) -> bool:
    """Whether two lists of indices are the same for all values of a product's axes."""
    if len(got) != len(wanted):
        return False
    apart = [simplify(a - b, product.ranges) for a, b in zip(got, wanted, strict=True)]
    return all(isinstance(d, tirx.IntImm) and int(d.value) == 0 for d in apart)
