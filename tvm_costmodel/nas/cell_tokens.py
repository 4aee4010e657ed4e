"""Tokens of NAS cells: position encodings of operations, places and sources.

Yi et al., "NAR-Former", CVPR 2023, arXiv 2211.08024 (operation, own position, source position), and
NAR-Former V2, arXiv 2306.10792 (operation and own position). A cell is an `OpGraph` whose operators
carry the benchmark's own operation names, in the benchmark's node order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvm_costmodel.errors import ConfigError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph

PARTS = ("operation", "position", "source")
SPACINGS = ("linear", "geometric")

NASBENCH101 = ("input", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output")
"""Operations of NAS-Bench-101; an operation's code is its place here, as published."""

NASBENCH201 = (
    "input",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "none",
    "output",
)
"""Operations of NAS-Bench-201, each a node of its own; codes as published."""

DARTS = (
    "input",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "add",
    "output",
)
"""Operations of DARTS cells. Nobody published codes for these: the order is this package's own."""

DARTS_PAIR = (*DARTS, *(f"reduction_{name}" for name in DARTS))
"""Operations of a normal and a reduction cell side by side, see `side_by_side`."""

END = 1e5
"""What the end token encodes in each of its parts."""

NO_SOURCE = -1.0
"""Source of the input node."""


@dataclass(frozen=True)
class CellTokenConfig:
    """Make of a cell's tokens. The defaults are NAR-Former's published ones, 192 channels.

    Attributes:
        parts: What each token encodes, of `PARTS`, in this order.
        frequencies: Frequencies of each part; each gives a sine and a cosine.
        spacing: ``linear``, frequencies pi * (1 .. 2^(n - 1)) in equal steps, as released; or
            ``geometric``, 10000^(-j / n), the released alternative.
        end_token: Whether a token that encodes 1e5 closes the cell.
    """

    parts: tuple[str, ...] = PARTS
    frequencies: int = 32
    spacing: str = "linear"
    end_token: bool = True

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigError(f"parts {self.parts}: give some of {', '.join(PARTS)}, each once")
        if self.spacing not in SPACINGS or self.frequencies < 1:
            raise ConfigError(
                f"spacing {self.spacing!r} must be one of {', '.join(SPACINGS)}, "
                f"frequencies {self.frequencies} at least 1"
            )

    @property
    def channels(self) -> int:
        """Channels of one token."""
        return len(self.parts) * 2 * self.frequencies


NAR_FORMER_CELLS = CellTokenConfig()
"""Tokens of NAR-Former: 3 x 64 channels and an end token."""

NAR_FORMER_V2_CELLS = CellTokenConfig(parts=("operation", "position"), end_token=False)
"""Tokens of NAR-Former V2 on cells: 2 x 64 channels."""


def encode_positions(
    values: np.ndarray | Sequence[float], frequencies: int, spacing: str = "linear"
) -> np.ndarray:
    """Sine and cosine of each number at each frequency.

    With linear spacing the angles reach 1e14 and more, so the result is a hash of the number that
    depends on the precision of every step. It is float32 throughout: the exact frequencies rounded
    to float32, then ``(value * pi) * frequency``, each product rounded. (NAR-Former's release
    steps through its frequencies in float32, which moves some of them by one unit in the last
    place; NAR-Former V2's rounds them as here.)

    Args:
        values: Numbers, any shape ``[...]``.
        frequencies: Number of frequencies ``n``.
        spacing: ``linear`` or ``geometric``.

    Returns:
        float32 ``[..., 2 n]``, ordered sin f0, cos f0, sin f1, ...
    """
    number = np.asarray(values, dtype=np.float32)[..., None]
    if spacing == "linear":
        bands = np.linspace(1.0, 2.0 ** (frequencies - 1), frequencies).astype(np.float32)
        angles = (number * np.float32(np.pi)) * bands
    else:
        bands = (10000.0 ** (-np.arange(frequencies) / frequencies)).astype(np.float32)
        angles = number * bands
    encoded = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # [..., n, 2]
    return encoded.reshape(*number.shape[:-1], 2 * frequencies)


@dataclass(frozen=True, eq=False)
class CellTokens:
    """One cell as arrays.

    Attributes:
        features: float32 [L, channels], one token per node, then the end token if there is one.
        depth: float32 [channels], the encoded number of nodes.
        adjacency: float32 [N, N], 1 where node i feeds node j (row i, column j).
    """

    features: np.ndarray
    depth: np.ndarray
    adjacency: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


class CellTokenizer:
    """Encodes cells.

    Args:
        operations: The benchmark's operations, such as `NASBENCH101`; the code of an operation is
            its place.
        config: Make of the tokens.
    """

    def __init__(self, operations: Sequence[str], config: CellTokenConfig | None = None) -> None:
        self.operations = tuple(operations)
        self.config = config or NAR_FORMER_CELLS

    def encode(self, cell: OpGraph) -> CellTokens:
        """Encodes one cell, its nodes in the graph's order.

        Raises:
            GraphError: The cell is empty or has an operation that the benchmark does not.
        """
        if not len(cell):
            raise GraphError("the cell has no nodes: read it again from its benchmark")
        foreign = sorted({node.op for node in cell.operators} - set(self.operations))
        if foreign:
            raise GraphError(
                f"operation {foreign[0]!r} is none of {', '.join(self.operations)}: "
                "name the benchmark that the cell comes from"
            )
        config, count = self.config, len(cell)
        adjacency = np.zeros((count, count), dtype=np.float32)
        adjacency[cell.edges[:, 0], cell.edges[:, 1]] = 1.0
        codes = [self.operations.index(node.op) for node in cell.operators]
        encoded = {
            "operation": self._encode(codes),
            "position": self._encode(range(count)),
            "source": self._sources(adjacency),
        }
        features = np.concatenate([encoded[part] for part in config.parts], axis=1)
        if config.end_token:
            end = np.tile(self._encode([END]), (1, len(config.parts)))
            features = np.concatenate([features, end])
        depth = encode_positions([count], config.channels // 2, config.spacing)[0]
        return CellTokens(features, depth, adjacency)

    def _encode(self, values: Sequence[float]) -> np.ndarray:
        return encode_positions(list(values), self.config.frequencies, self.config.spacing)

    def _sources(self, adjacency: np.ndarray) -> np.ndarray:
        """float32 [N, 2 frequencies]: sum of the encoded positions of each node's predecessors."""
        places = self._encode(range(len(adjacency)))
        sources: np.ndarray = adjacency.T @ places
        sources[0] = self._encode([NO_SOURCE])[0]
        return sources


@dataclass(frozen=True, eq=False)
class CellBatch:
    """Cells padded to the largest one.

    Attributes:
        features: float32 [B, L, channels], padding all 0.
        mask: bool [B, L], true on tokens.
        depth: float32 [B, channels].
        adjacency: float32 [B, L, L], directed, padding (and end tokens) all 0.
    """

    features: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    adjacency: np.ndarray


def collate_cells(cells: Sequence[CellTokens], length: int | None = None) -> CellBatch:
    """Pads cells into one batch.

    Args:
        cells: At least one cell, all of one configuration.
        length: Tokens ``L`` to pad to; the largest cell's when not given.
    """
    size = max(length or 0, max(len(cell) for cell in cells))
    features = np.zeros((len(cells), size, cells[0].features.shape[1]), dtype=np.float32)
    mask = np.zeros((len(cells), size), dtype=bool)
    adjacency = np.zeros((len(cells), size, size), dtype=np.float32)
    for row, cell in enumerate(cells):
        nodes = len(cell.adjacency)
        features[row, : len(cell)] = cell.features
        mask[row, : len(cell)] = True
        adjacency[row, :nodes, :nodes] = cell.adjacency
    return CellBatch(features, mask, np.stack([cell.depth for cell in cells]), adjacency)


def reorder(cell: OpGraph, order: Sequence[int]) -> OpGraph:
    """The same cell, content hash included, with its nodes in another order.

    Args:
        cell: The cell.
        order: Old place of each new node.

    Raises:
        GraphError: A node would come before one that it reads.
    """
    place = {old: new for new, old in enumerate(order)}
    operators = []
    for old in order:
        node = cell.operators[old]
        reads = tuple((place[source], index) for source, index in node.inputs)
        operators.append(replace(node, inputs=reads))
    outputs = tuple((place[source], index) for source, index in cell.outputs)
    return OpGraph(tuple(operators), outputs, cell.name)


def consistent_copies(cell: OpGraph) -> Iterator[OpGraph]:
    """Other node orders of a cell that keep every edge pointing forward.

    The information-flow-consistency augmentation of NAR-Former: first and last node stay, the
    inner nodes are permuted; copies equal to the cell or to an earlier copy are left out.

    Args:
        cell: The cell; its first node is its input and its last node its output.

    Yields:
        The copies, in lexicographic order of the permutation.
    """
    seen = {_arrangement(cell)}
    last = len(cell) - 1
    for inner in _inner_orders(cell, (0,)):
        copy = reorder(cell, (*inner, last)) if last else cell
        arrangement = _arrangement(copy)
        if arrangement not in seen:
            seen.add(arrangement)
            yield copy


def _inner_orders(cell: OpGraph, chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Orders of all nodes but the last, that begin with ``chosen`` and keep edges forward."""
    if len(chosen) >= len(cell) - 1:
        yield chosen
        return
    for node in range(1, len(cell) - 1):
        ready = all(source in chosen for source, _ in cell.operators[node].inputs)
        if node not in chosen and ready:
            yield from _inner_orders(cell, (*chosen, node))


def _arrangement(cell: OpGraph) -> tuple[tuple[str, frozenset[int]], ...]:
    return tuple((node.op, frozenset(s for s, _ in node.inputs)) for node in cell.operators)


def side_by_side(normal: OpGraph, reduction: OpGraph) -> OpGraph:
    """A normal and a reduction cell as one graph of two parts, for `DARTS_PAIR`.

    The reduction cell's nodes come second and carry ``reduction_`` before their operations.
    """
    offset = len(normal)
    moved = tuple(
        replace(
            node,
            op=f"reduction_{node.op}",
            inputs=tuple((source + offset, index) for source, index in node.inputs),
        )
        for node in reduction.operators
    )
    outputs = tuple((source + offset, index) for source, index in reduction.outputs)
    return OpGraph((*normal.operators, *moved), (*normal.outputs, *outputs), normal.name)
