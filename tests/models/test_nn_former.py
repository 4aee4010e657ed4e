from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.cells import diamond, random_cells
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.nn_former import (
    DirectedAttention,
    DirectedFeedForward,
    NnFormerBlock,
    directed_masks,
)

CELLS = random_cells(4, seed=5)


def adjacency_of(cells: list[OpGraph], length: int | None = None) -> torch.Tensor:
    size = length or max(len(cell) for cell in cells)
    adjacency = torch.zeros(len(cells), size, size)
    for row, cell in enumerate(cells):
        for a, b in cell.edges:
            adjacency[row, a, b] = 1.0
    return adjacency


def features_of(cells: list[OpGraph], length: int | None = None) -> torch.Tensor:
    size = length or max(len(cell) for cell in cells)
    x = torch.zeros(len(cells), size, 16)
    for row, cell in enumerate(cells):
        generator = torch.Generator().manual_seed(row)
        x[row, : len(cell)] = torch.randn(len(cell), 16, generator=generator)
    return x


def relatives(cell: OpGraph) -> list[list[set[int]]]:
    """For each group of heads and each node, what it sees, walked along the edges."""
    feeds: list[set[int]] = [set() for _ in range(len(cell))]
    reads: list[set[int]] = [set() for _ in range(len(cell))]
    for a, b in cell.edges:
        feeds[a].add(int(b))
        reads[b].add(int(a))
    nodes = range(len(cell))
    return [
        [{i} | feeds[i] for i in nodes],
        [{i} | reads[i] for i in nodes],
        [{i} | {k for consumer in feeds[i] for k in reads[consumer]} for i in nodes],
        [{i} | {k for producer in reads[i] for k in feeds[producer]} for i in nodes],
    ]


def naive_attention(layer: DirectedAttention, x: np.ndarray, cell: OpGraph) -> np.ndarray:
    q, k, v = np.split(layer.project.weight.detach().double().numpy() @ x.T, 3)
    size, groups = q.shape[0] // layer.heads, relatives(cell)
    out = np.zeros_like(x)
    for i in range(len(cell)):
        mixed = []
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            seen = sorted(groups[head // (layer.heads // 4)][i])
            weights = [math.exp(q[part, i] @ k[part, j] / math.sqrt(size)) for j in seen]
            total = sum(weights)
            mixed.append(sum(w / total * v[part, j] for w, j in zip(weights, seen, strict=True)))
        out[i] = layer.out.weight.detach().double().numpy() @ np.concatenate(mixed)
    return out


def naive_feed_forward(layer: DirectedFeedForward, x: np.ndarray, cell: OpGraph) -> np.ndarray:
    up, convolve, down = (
        part.weight.detach().double().numpy() for part in (layer.up, layer.convolve, layer.down)
    )
    half, groups = len(up) // 2, relatives(cell)
    out = np.zeros_like(x)
    for i in range(len(cell)):
        hidden = up @ x[i]
        for consumer in groups[0][i] - {i}:
            hidden[:half] += (convolve @ x[consumer])[:half]
        for producer in groups[1][i] - {i}:
            hidden[half:] += (convolve @ x[producer])[half:]
        out[i] = down @ np.maximum(hidden, 0.0)
    return out


def test_masks_of_a_diamond() -> None:
    """input(0) -> 1, 2; 1, 2 -> 3; 0, 3 -> 4."""
    masks = directed_masks(adjacency_of([diamond()]))[0]
    seen = [[np.flatnonzero(row).tolist() for row in mask] for mask in masks.numpy()]
    assert seen[0] == [[0, 1, 2, 4], [1, 3], [2, 3], [3, 4], [4]]
    assert seen[1] == [[0], [0, 1], [0, 2], [1, 2, 3], [0, 3, 4]]
    assert seen[2] == [[0, 3], [1, 2], [1, 2], [0, 3], [4]]
    assert seen[3] == [[0], [1, 2, 4], [1, 2, 4], [3], [1, 2, 4]]


@pytest.mark.parametrize("heads", [4, 8])
def test_attention_equals_a_loop_over_the_edges(heads: int) -> None:
    torch.manual_seed(0)
    layer = DirectedAttention(16, heads).eval()
    x, masks = features_of(CELLS), directed_masks(adjacency_of(CELLS))
    output = layer(x, masks).detach().numpy()
    for row, cell in enumerate(CELLS):
        expected = naive_attention(layer, x[row, : len(cell)].double().numpy(), cell)
        np.testing.assert_allclose(output[row, : len(cell)], expected, rtol=1e-4, atol=1e-6)


def test_feed_forward_equals_a_loop_over_the_edges() -> None:
    torch.manual_seed(0)
    layer = DirectedFeedForward(16, 32).eval()
    x, adjacency = features_of(CELLS), adjacency_of(CELLS)
    output = layer(x, adjacency).detach().numpy()
    for row, cell in enumerate(CELLS):
        expected = naive_feed_forward(layer, x[row, : len(cell)].double().numpy(), cell)
        np.testing.assert_allclose(output[row, : len(cell)], expected, rtol=1e-4, atol=1e-6)


def test_block_adds_both_layers_to_what_comes_in() -> None:
    torch.manual_seed(0)
    block = NnFormerBlock(16, 4).eval()
    x, adjacency = features_of(CELLS), adjacency_of(CELLS)
    middle = x + block.attention(block.norm_attention(x), directed_masks(adjacency))
    expected = middle + block.feed_forward(block.norm_feed_forward(middle), adjacency)
    torch.testing.assert_close(block(x, adjacency), expected)


def test_padding_changes_nothing_and_stays_finite() -> None:
    torch.manual_seed(0)
    block = NnFormerBlock(16, 4).eval()
    short = block(features_of(CELLS), adjacency_of(CELLS))
    long = block(features_of(CELLS, 12), adjacency_of(CELLS, 12))
    torch.testing.assert_close(long[:, : short.shape[1]], short)
    assert long.isfinite().all()


def test_the_direction_of_edges_matters() -> None:
    torch.manual_seed(0)
    block = NnFormerBlock(16, 4).eval()
    x, adjacency = features_of(CELLS), adjacency_of(CELLS)
    assert (block(x, adjacency) - block(x, adjacency.mT)).abs().max() > 0.01


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="heads 6 must be a multiple of 4"):
        DirectedAttention(24, 6)
    with pytest.raises(ValueError, match="hidden 7 must be even"):
        DirectedFeedForward(8, 7)
