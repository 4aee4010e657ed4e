from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.cells import random_cells
from tests.models.test_nar_former_v2 import grouped, layer_norm, sigmoid
from tvm_costmodel.models.nar_former_v2_cells import NarFormerV2Cells, NarFormerV2CellsConfig
from tvm_costmodel.nas.cell_tokens import (
    NAR_FORMER_V2_CELLS,
    NASBENCH101,
    CellTokenizer,
    CellTokens,
    collate_cells,
)

SMALL = NarFormerV2CellsConfig(channels=32, groups=4, blocks=3)
TOKENIZER = CellTokenizer(NASBENCH101, NAR_FORMER_V2_CELLS)
CELLS = [TOKENIZER.encode(cell) for cell in random_cells(5, seed=4)]


def network(config: NarFormerV2CellsConfig) -> NarFormerV2Cells:
    torch.manual_seed(0)
    model = NarFormerV2Cells(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(model: NarFormerV2Cells, cells: list[CellTokens], length: int | None = None):
    batch = collate_cells(cells, length)
    with torch.no_grad():
        arrays = (batch.features, batch.adjacency, batch.mask)
        return model(*(torch.from_numpy(array) for array in arrays))


def naive_block(
    p: dict[str, np.ndarray], x: np.ndarray, neighbours: list[set[int]], block: int, groups: int
) -> np.ndarray:
    """One block, one node at a time, in float64."""
    at, ffn, out = f"blocks.{block}.attention", f"blocks.{block}.feed_forward", []
    degrees = np.array([len(near) for near in neighbours])[:, None]
    x = x * sigmoid(degrees * p[f"{at}.degree.weight"][:, 0] + p[f"{at}.degree.bias"])
    z = sigmoid(x @ p[f"{at}.project.weight"].T + p[f"{at}.project.bias"])
    for i, near in enumerate(neighbours):
        score = {j: z[i] @ z[j] / math.sqrt(z.shape[1]) for j in near}
        total = sum(score.values()) + 1e-6
        mixed = sum((score[j] / total * x[j] for j in near), np.zeros_like(x[i]))
        y = p[f"{at}.neighbours.weight"] @ mixed + p[f"{at}.neighbours.bias"]
        y = y + p[f"{at}.root.weight"] @ x[i]
        y = np.maximum(y / np.linalg.norm(y), 0.0)
        h = layer_norm(y, p[f"{ffn}.norm.weight"], p[f"{ffn}.norm.bias"])
        h = np.maximum(grouped(h, p, f"{ffn}.up", groups), 0.0)
        out.append(y + p[f"blocks.{block}.gamma"] * grouped(h, p, f"{ffn}.down", groups))
    return np.array(out)


def naive(model: NarFormerV2Cells, cell: CellTokens) -> float:
    p = {name: value.double().numpy() for name, value in model.state_dict().items()}
    neighbours: list[set[int]] = [set() for _ in cell.features]
    for a, b in np.argwhere(cell.adjacency):
        neighbours[a].add(int(b))
        neighbours[b].add(int(a))
    x, means = cell.features.astype(np.float64), []
    for block in range(model.config.blocks):
        x = naive_block(p, x, neighbours, block, model.config.groups)
        means.append(x.mean(axis=0))
    w = np.maximum(p["weigh.0.weight"] @ np.concatenate(means) + p["weigh.0.bias"], 0.0)
    w = sigmoid(p["weigh.2.weight"] @ w + p["weigh.2.bias"])
    y = sum(weight * mean for weight, mean in zip(w, means, strict=True))
    for layer in (0, 3):
        y = np.maximum(p[f"head.{layer}.weight"] @ y + p[f"head.{layer}.bias"], 0.0)
    return float(np.log1p(np.exp(p["head.6.weight"] @ y + p["head.6.bias"]))[0])


def test_published_configuration_has_the_published_number_of_parameters() -> None:
    model = NarFormerV2Cells()
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_582_535
    assert model.weigh[0].weight.shape == (768, 3072) and model.weigh[2].weight.shape == (6, 768)


@pytest.mark.parametrize("config", [SMALL, NarFormerV2CellsConfig()], ids=["small", "published"])
def test_forward_equals_a_loop_over_the_formulas(config: NarFormerV2CellsConfig) -> None:
    model = network(config)
    expected = [naive(model, cell) for cell in CELLS]
    np.testing.assert_allclose(padded(model, CELLS).numpy(), expected, rtol=2e-5)


def test_padding_and_batch_order_change_nothing() -> None:
    model = network(SMALL)
    together = padded(model, CELLS)
    torch.testing.assert_close(padded(model, CELLS, length=13), together)
    torch.testing.assert_close(padded(model, CELLS[::-1]).flip(0), together)
    for row, cell in enumerate(CELLS):
        torch.testing.assert_close(padded(model, [cell])[0], together[row])
