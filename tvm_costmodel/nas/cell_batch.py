"""Cells as one padded set of tensors on a device, from which batches are gathered.

A batch's tokens are computed on the device from a table of encodings: the same numbers as
`nas.cell_tokens.CellTokenizer` gives cell by cell. Copies of a cell with its inner nodes in
another order (information-flow-consistency, NAR-Former) are orders drawn beforehand and gathered.

Shape legend: ``G`` cells of the set, ``N`` nodes of the largest, ``B`` cells of a batch, ``O``
orders of a cell, ``L`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cell_tokens import END, NO_SOURCE, CellTokenConfig, encode_positions


@dataclass(frozen=True, eq=False)
class Structures:
    """Structures of a batch of cells; leading axes ``...`` such as ensemble members and batch.

    Attributes:
        codes: int64 [..., N], an operation's place in its benchmark; padding has the next code.
        adjacency: float32 [..., N, N], row = producer, column = consumer.
        mask: bool [..., N], true on nodes.
    """

    codes: Tensor
    adjacency: Tensor
    mask: Tensor


class CellArrays:
    """All cells of a benchmark, padded to the largest.

    Args:
        cells: The cells.
        operations: The benchmark's operations, such as `nas.cell_tokens.NASBENCH101`.
        device: Where the tensors live.

    Raises:
        GraphError: A cell is empty or has an operation that the benchmark does not.
    """

    def __init__(
        self, cells: Sequence[OpGraph], operations: Sequence[str], device: str = "cpu"
    ) -> None:
        self.operations = tuple(operations)
        self.device = torch.device(device)
        code = {name: place for place, name in enumerate(operations)}
        size = max((len(cell) for cell in cells), default=0)
        self._codes = np.full((len(cells), size), len(operations))
        self._adjacency = np.zeros((len(cells), size, size), dtype=np.float32)
        self._counts = np.array([len(cell) for cell in cells])
        for row, cell in enumerate(cells):
            names = [node.op for node in cell.operators]
            foreign = sorted(set(names) - set(code))
            if foreign or not names:
                raise GraphError(
                    f"operation {foreign[0]!r} is none of {', '.join(operations)}: name the "
                    "benchmark that the cell comes from"
                    if foreign
                    else "the cell has no nodes: read it again from its benchmark"
                )
            self._codes[row, : len(names)] = [code[name] for name in names]
            self._adjacency[row, cell.edges[:, 0], cell.edges[:, 1]] = 1.0
        self.codes = torch.from_numpy(self._codes).to(self.device)
        self.adjacency = torch.from_numpy(self._adjacency).to(self.device)
        self.counts = torch.from_numpy(self._counts).to(self.device)

    def __len__(self) -> int:
        return len(self._counts)

    def batch(self, chosen: Tensor, orders: Tensor | None = None) -> Structures:
        """Cells at ``chosen``, int64 [...], in the given orders of their nodes, [..., N]."""
        codes, adjacency = self.codes[chosen], self.adjacency[chosen]
        if orders is not None:
            codes = codes.gather(-1, orders)
            rows = orders.unsqueeze(-1).expand_as(adjacency)
            columns = orders.unsqueeze(-2).expand_as(adjacency)
            adjacency = adjacency.gather(-2, rows).gather(-1, columns)
        places = torch.arange(self.codes.shape[1], device=self.device)
        return Structures(codes, adjacency, places < self.counts[chosen].unsqueeze(-1))

    def consistent_orders(self, chosen: np.ndarray, count: int, seed: int) -> Tensor:
        """Random orders of nodes that keep every edge pointing forward and both ends in place.

        Each is a random choice among the nodes that are ready, step by step; the identity may be
        among them, as it must for a cell that has no other.

        Args:
            chosen: int64 [C], cells.
            count: Orders ``O`` for each.
            seed: Seed of the choices.

        Returns:
            int64 [C, O, N]: old place of each new node.
        """
        rng = np.random.default_rng(seed)
        size = self._codes.shape[1]
        reads = np.repeat(self._adjacency[chosen] > 0, count, axis=0)  # [C O, N, N]
        last = np.repeat(self._counts[chosen], count) - 1
        rows = np.arange(len(reads))
        places = np.arange(size)
        free = (places > 0) & (places < last[:, None])  # inner nodes that have no place yet
        orders = np.tile(places, (len(reads), 1))
        for place in range(1, size):
            waits = (reads & free[:, :, None]).any(axis=1)
            ready = np.where(free & ~waits, rng.random(free.shape), -1.0)
            first = ready.argmax(axis=1)
            inner = place < last
            orders[inner, place] = first[inner]
            free[rows[inner], first[inner]] = False
        return torch.from_numpy(orders.reshape(len(chosen), count, size)).to(self.device)


class PositionTokens:
    """NAR-Former's tokens of structures, on their device.

    Args:
        config: Make of the tokens.
        operations: Number of operations of the benchmark.
        nodes: Nodes ``N`` of the largest cell.
        device: Where the tables live.
    """

    def __init__(
        self, config: CellTokenConfig, operations: int, nodes: int, device: torch.device
    ) -> None:
        self.config = config

        def table(values: Sequence[float], frequencies: int = config.frequencies) -> Tensor:
            encoded = encode_positions(values, frequencies, config.spacing)
            return torch.from_numpy(encoded).to(device)

        self._numbers = table(range(max(operations + 1, nodes + 1)))
        self._no_source, self._end = table([NO_SOURCE])[0], table([END])[0]
        self._depth = table(range(nodes + 1), config.channels // 2)

    def __call__(self, cells: Structures) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [..., L, channels], their mask [..., L] and the depth token [..., channels]."""
        size = cells.codes.shape[-1]
        place = self._numbers[:size].expand(*cells.codes.shape, -1)
        parts = {"operation": self._numbers[cells.codes], "position": place}
        if "source" in self.config.parts:
            source = cells.adjacency.transpose(-2, -1) @ self._numbers[:size]
            first = torch.arange(size, device=place.device)[:, None] == 0
            parts["source"] = torch.where(first, self._no_source, source)
        tokens = torch.cat([parts[part] for part in self.config.parts], dim=-1)
        tokens = tokens * cells.mask.unsqueeze(-1)
        counts = cells.mask.sum(-1)
        depth = self._depth[counts]
        if not self.config.end_token:
            return tokens, cells.mask, depth
        tokens = torch.cat([tokens, torch.zeros_like(tokens[..., :1, :])], dim=-2)
        places = torch.arange(size + 1, device=place.device)
        ends = (places == counts.unsqueeze(-1)).unsqueeze(-1)  # [..., L, 1]
        tokens = torch.where(ends, self._end.repeat(len(self.config.parts)), tokens)
        return tokens, places <= counts.unsqueeze(-1), depth
