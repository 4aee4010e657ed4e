from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.cells import random_cells
from tests.models.test_nar_former_v2 import sigmoid
from tests.models.test_nn_former import adjacency_of
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.nn_former_cells import NnFormerCells, NnFormerCellsConfig
from tvm_costmodel.nas.cell_batch import CellArrays
from tvm_costmodel.nas.cell_tokens import NASBENCH101

SMALL = NnFormerCellsConfig(len(NASBENCH101), channels=16, heads=8, ffn_ratio=2, blocks=3)
CELLS = random_cells(5, seed=8)


def network(config: NnFormerCellsConfig = SMALL) -> NnFormerCells:
    torch.manual_seed(0)
    model = NnFormerCells(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def answers(model: NnFormerCells, cells: list[OpGraph], padding: int = 0) -> torch.Tensor:
    size = max(len(cell) for cell in cells) + padding
    operations = torch.zeros(len(cells), size, len(NASBENCH101))
    mask = torch.zeros(len(cells), size, dtype=torch.bool)
    for row, cell in enumerate(cells):
        mask[row, : len(cell)] = True
        for place, node in enumerate(cell.operators):
            operations[row, place, NASBENCH101.index(node.op)] = 1.0
    with torch.no_grad():
        return model(operations, adjacency_of(cells, size), mask)


def masks(cell: OpGraph) -> list[np.ndarray]:
    """I + A, I + A^T, I + A A^T, I + A^T A as matmuls."""
    a = np.zeros((len(cell), len(cell)))
    a[cell.edges[:, 0], cell.edges[:, 1]] = 1.0
    return [(np.eye(len(cell)) + part) > 0 for part in (a, a.T, a @ a.T, a.T @ a)]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Of each row."""
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias


def naive_attention(
    p: dict[str, np.ndarray], x: np.ndarray, cell: OpGraph, heads: int
) -> np.ndarray:
    queries, keys, values = np.split(x @ p["project.weight"].T, 3, axis=1)
    width, mixed = x.shape[1] // heads, np.zeros_like(x)
    for head in range(heads):
        part, seen = slice(head * width, (head + 1) * width), masks(cell)[head * 4 // heads]
        for i in range(len(cell)):
            near = np.flatnonzero(seen[i])
            score = [math.exp(queries[i, part] @ keys[j, part] / math.sqrt(width)) for j in near]
            for j, weight in zip(near, score, strict=True):
                mixed[i, part] += weight / sum(score) * values[j, part]
    return mixed @ p["out.weight"].T


def naive_feed_forward(p: dict[str, np.ndarray], x: np.ndarray, cell: OpGraph) -> np.ndarray:
    hidden, convolved = x @ p["up.weight"].T, x @ p["convolve.weight"].T
    half = hidden.shape[1] // 2
    for producer, consumer in cell.edges:
        hidden[producer, :half] += convolved[consumer, :half]
        hidden[consumer, half:] += convolved[producer, half:]
    return np.maximum(hidden, 0.0) @ p["down.weight"].T


def naive(model: NnFormerCells, cell: OpGraph) -> float:
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def of(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    x = np.stack([state["embed.weight"][:, NASBENCH101.index(n.op)] for n in cell.operators])
    x = x + state["embed.bias"]
    for block in range(model.config.blocks):
        p, at = of(f"blocks.{block}."), f"blocks.{block}."
        y = layer_norm(x, p["norm_attention.weight"], p["norm_attention.bias"])
        x = x + naive_attention(of(f"{at}attention."), y, cell, model.config.heads)
        y = layer_norm(x, p["norm_feed_forward.weight"], p["norm_feed_forward.bias"])
        x = x + naive_feed_forward(of(f"{at}feed_forward."), y, cell)
    mean = layer_norm(x, state["norm.weight"], state["norm.bias"]).mean(axis=0)
    return float(sigmoid(state["head.weight"] @ mean + state["head.bias"])[0])


def test_forward_equals_a_loop_over_the_formulas() -> None:
    model = network()
    expected = [naive(model, cell) for cell in CELLS]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(answers(model, CELLS).numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize(("operations", "parameters"), [(5, 4_924_321), (7, 4_924_641)])
def test_parameters_of_the_default_size(operations: int, parameters: int) -> None:
    """12 blocks of 4 D^2 + 3 * 4 D^2 and two norms, embedding, last norm and head, D = 160."""
    model = NnFormerCells(NnFormerCellsConfig(operations))
    width = 160
    block = 4 * width**2 + 12 * width**2 + 4 * width
    assert 12 * block + (operations + 1) * width + 2 * width + width + 1 == parameters
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_padding_and_batch_order_change_nothing() -> None:
    model = network()
    together = answers(model, CELLS)
    torch.testing.assert_close(answers(model, CELLS, padding=4), together)
    torch.testing.assert_close(answers(model, CELLS[::-1]).flip(0), together)
    for row, cell in enumerate(CELLS):
        torch.testing.assert_close(answers(model, [cell])[0], together[row])


def test_the_order_of_the_operators_changes_nothing() -> None:
    model, arrays = network(), CellArrays(CELLS, NASBENCH101)
    orders = arrays.consistent_orders(np.arange(5), 6, seed=0)
    chosen = torch.arange(5)[:, None].expand(5, 6)
    batch = arrays.batch(chosen, orders)
    assert (batch.adjacency != arrays.batch(chosen).adjacency).any()
    one_hot = torch.nn.functional.one_hot(batch.codes, len(NASBENCH101) + 1)[..., :-1].float()
    with torch.no_grad():
        predicted = model(
            one_hot.flatten(0, 1), batch.adjacency.flatten(0, 1), batch.mask.flatten(0, 1)
        )
    expected = answers(model, CELLS)[:, None].expand(5, 6)
    torch.testing.assert_close(predicted.reshape(5, 6), expected)
