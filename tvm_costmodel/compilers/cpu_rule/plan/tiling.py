"""Shapes of register tiles: how an axis is cut, and which cut is cheapest."""

from __future__ import annotations

import dataclasses

from tvm import tirx
from tvm.ir import Expr

from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant


@dataclasses.dataclass(frozen=True)
class Cut:
    """An axis cut into equal pieces, the last one moved back until it fits.

    Elements that two pieces share are computed twice, to the same value; that costs less than
    masks or a second copy of the loop.

    Attributes:
        extent: Length of the axis.
        width: Elements of one vector, 1 on an axis that is not vectorised.
        vectors: Vectors (or single elements) in one piece.
    """

    extent: int
    width: int
    vectors: int

    @property
    def size(self) -> int:
        """Elements of one piece."""
        return self.width * self.vectors

    @property
    def pieces(self) -> int:
        """How many pieces cover the axis."""
        return -(-self.extent // self.size)

    @property
    def moves_vectors(self) -> bool:
        """Whether only the last vector is moved back, rather than the whole last piece."""
        return -(-self.extent // self.width) % self.vectors == 0

    def start(self, piece: Expr, vector: Expr) -> Expr:
        """First element of a vector of a piece."""
        plain = (piece * constant(self.vectors) + vector) * constant(self.width)
        if self.extent % self.size == 0:
            return plain
        if self.moves_vectors:
            return tirx.Min(plain, constant(self.extent - self.width))
        base = tirx.Min(piece * constant(self.size), constant(self.extent - self.size))
        return base + vector * constant(self.width)

    def elements(self) -> list[list[int]]:
        """The axis positions that each piece covers, one list of ``size`` per piece."""
        positions = []
        for piece in range(self.pieces):
            row: list[int] = []
            for vector in range(self.vectors):
                if self.moves_vectors:
                    start = (piece * self.vectors + vector) * self.width
                    start = min(start, self.extent - self.width)
                else:
                    start = min(piece * self.size, self.extent - self.size) + vector * self.width
                row.extend(range(start, start + self.width))
            positions.append(row)
        return positions


def lane_widths(extent: int, lanes: int) -> list[int]:
    """Vector widths worth trying on an axis: the widest that fits and its half."""
    width = lanes
    while width > extent:
        width //= 2
    return [w for w in (width, width // 2) if w >= 1]


def cuts(extent: int, width: int, most: int) -> list[Cut]:
    """All cuts of an axis into pieces of 1 to ``most`` vectors that fit the axis."""
    whole = -(-extent // width)
    fitting = []
    for vectors in range(1, min(most, whole) + 1):
        cut = Cut(extent, width, vectors)
        if cut.size <= extent or cut.moves_vectors:
            fitting.append(cut)
    return fitting


@dataclasses.dataclass(frozen=True)
class Tile:
    """A register tile: rows by vectors of lanes.

    Attributes:
        rows: How the axis of rows is cut.
        lanes: How the vectorised axis is cut.
    """

    rows: Cut
    lanes: Cut

    @property
    def accumulators(self) -> int:
        """Vector registers that hold partial sums."""
        return self.rows.vectors * self.lanes.vectors


def choose_tile(
    rows: int,
    lanes: int,
    steps: int,
    *,
    vector: int,
    registers: int,
    accumulators: int = 0,
    vectors: int = 0,
    store_cost: float = 2.0,
) -> Tile:
    """Chooses the register tile with the least estimated cycles.

    One step of the reduction costs the larger of its multiply-adds and its loads, two of each a
    cycle, and never less than the latency of one multiply-add.

    Args:
        rows: Extent of the axis of rows.
        lanes: Extent of the vectorised axis.
        steps: Multiply-adds per output element.
        vector: Lanes of the machine's vectors.
        registers: Vector registers of the machine.
        accumulators: Number of accumulators, 0 to choose.
        vectors: Vectors per tile, 0 to choose.
        store_cost: Cycles to finish and store one vector.
    """
    best: tuple[float, Tile] | None = None
    # One register for the broadcast row value, one for each vector of the panel.
    for width in lane_widths(lanes, vector):
        for lane_cut in cuts(lanes, width, vectors or 6):
            if vectors and lane_cut.vectors != min(vectors, -(-lanes // width)):
                continue
            limit = accumulators or registers - 1
            most = max(1, min(limit, registers - 1 - lane_cut.vectors) // lane_cut.vectors)
            for row_cut in cuts(rows, 1, most):
                tile = Tile(row_cut, lane_cut)
                cost = cycles(tile, steps, store_cost)
                if best is None or cost < best[0] * 0.999:
                    best = (cost, tile)
    if best is None:
        return Tile(Cut(rows, 1, 1), Cut(lanes, lane_widths(lanes, vector)[0], 1))
    return best[1]


def cycles(tile: Tile, steps: int, store_cost: float) -> float:
    """Estimates the cycles of a whole contraction, per value of its other axes."""
    accumulators = tile.accumulators
    row_values = tile.rows.vectors
    panel = tile.lanes.vectors
    step = max(accumulators / 2, (row_values + panel) / 2, 4.0 if accumulators < 8 else 0.0) + 0.5
    pieces = tile.rows.pieces * tile.lanes.pieces
    return pieces * (steps * step + accumulators * store_cost + 20)
