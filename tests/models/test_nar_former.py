from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.cells import random_cells
from tvm_costmodel.models.layers import seed_dropout
from tvm_costmodel.models.nar_former import NarFormer, NarFormerConfig
from tvm_costmodel.nas.cell_tokens import (
    NASBENCH101,
    CellTokenConfig,
    CellTokenizer,
    CellTokens,
    collate_cells,
)

SMALL = NarFormerConfig(channels=24, heads=3, hidden=40, depths=(2, 1, 2, 1))
WHOLE = NarFormerConfig(channels=24, heads=3, hidden=40, depths=(1, 1, 1), static_channels=8)
Parameters = dict[str, np.ndarray]


def cells(config: NarFormerConfig, count: int = 5) -> list[CellTokens]:
    tokenizer = CellTokenizer(NASBENCH101, CellTokenConfig(frequencies=config.channels // 6))
    return [tokenizer.encode(cell) for cell in random_cells(count, seed=2)]


def network(config: NarFormerConfig) -> NarFormer:
    """Random weights, biases and gains, so that no term of the formulas vanishes."""
    torch.manual_seed(0)
    model = NarFormer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(
    model: NarFormer, tokens: list[CellTokens], length: int | None = None, static=None
) -> torch.Tensor:
    batch = collate_cells(tokens, length)
    arrays = (batch.features, batch.mask, batch.depth)
    with torch.no_grad():
        return model(*(torch.from_numpy(array) for array in arrays), static)


def linear(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def norm(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    spread = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return (x - x.mean()) / spread * p[f"{name}.weight"] + p[f"{name}.bias"]


def feed_forward(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    hidden = np.maximum(linear(norm(x, p, f"{name}.norm"), p, f"{name}.up"), 0.0)
    return x + linear(hidden, p, f"{name}.down")


def attend(
    query: np.ndarray, memory: list[np.ndarray], p: Parameters, name: str, heads: int
) -> np.ndarray:
    """One query over a list of keys, one head and one key at a time."""
    if f"{name}.query.weight" in p:
        query = linear(query, p, f"{name}.query")
    keys = [np.split(linear(x, p, f"{name}.key"), heads) for x in memory]
    values = [np.split(linear(x, p, f"{name}.value"), heads) for x in memory]
    mixed = []
    for head, part in enumerate(np.split(query, heads)):
        weights = [math.exp(part @ key[head] / math.sqrt(len(part))) for key in keys]
        mixed.append(
            sum(w * value[head] for w, value in zip(weights, values, strict=True)) / sum(weights)
        )
    return linear(np.concatenate(mixed), p, f"{name}.out")


def encoder_block(
    memory: list[np.ndarray], p: Parameters, name: str, heads: int
) -> list[np.ndarray]:
    normed = [norm(x, p, f"{name}.norm") for x in memory]
    attention = f"{name}.attention"
    return [
        feed_forward(x + attend(y, normed, p, attention, heads), p, f"{name}.feed_forward")
        for x, y in zip(memory, normed, strict=True)
    ]


def naive(model: NarFormer, cell: CellTokens, static: np.ndarray | None = None) -> float:
    """One cell, one token at a time, from the formulas of the paper, in float64."""
    p = {name: value.double().numpy() for name, value in model.state_dict().items()}
    config, heads = model.config, model.config.heads
    depth = np.maximum(linear(cell.depth.astype(np.float64), p, "depth"), 0.0)
    memory = [depth, *cell.features.astype(np.float64)]
    for i in range(config.depths[0]):
        memory = encoder_block(memory, p, f"blocks.{i}", heads)
    keys, x_of_stage = memory, memory
    for s, depth_of_stage in enumerate(config.depths[1:]):
        if s:
            unit = f"fuse_units.{s - 1}"
            stage_one = [norm(x, p, f"{unit}.norm_memory") for x in memory]
            keys = [
                feed_forward(
                    attend(norm(x, p, f"{unit}.norm"), stage_one, p, f"{unit}.attention", heads),
                    p,
                    f"{unit}.feed_forward",
                )
                for x in x_of_stage
            ]
        stage = f"stages.{s}"
        normed = [norm(x, p, f"{stage}.norm") for x in keys]
        x_of_stage = [
            feed_forward(
                attend(query, normed, p, f"{stage}.attention", heads), p, f"{stage}.feed_forward"
            )
            for query in p[f"{stage}.queries"]
        ]
        for b in range(depth_of_stage - 1):
            x_of_stage = encoder_block(x_of_stage, p, f"{stage}.blocks.{b}", heads)
    (last,) = x_of_stage
    last = norm(last, p, "norm")
    if static is None:
        return float(1.0 / (1.0 + np.exp(-linear(last, p, "head.0")))[0])
    last = np.concatenate([last, static])
    for layer in (0, 3, 6, 9):
        last = np.maximum(linear(last, p, f"head.{layer}"), 0.0)
    return float(linear(last, p, "head.12")[0])


def test_published_configuration_has_the_published_number_of_parameters() -> None:
    model = NarFormer()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_822_081
    assert [tuple(stage.queries.shape) for stage in model.stages] == [(4, 192), (2, 192), (1, 192)]
    assert len(model.blocks) == 6 and len(model.fuse_units) == 2


def test_head_of_whole_networks_narrows_as_published() -> None:
    model = NarFormer(NarFormerConfig(960, heads=6, hidden=64, depths=(1, 1), static_channels=256))
    sizes = [layer.weight.shape[0] for layer in model.head if hasattr(layer, "weight")]
    assert sizes == [1216, 608, 304, 152, 1]


@pytest.mark.parametrize("config", [SMALL, NarFormerConfig()], ids=["small", "published"])
def test_forward_equals_a_loop_over_the_formulas(config: NarFormerConfig) -> None:
    model, tokens = network(config), cells(config)
    expected = [naive(model, cell) for cell in tokens]
    np.testing.assert_allclose(padded(model, tokens).numpy(), expected, rtol=2e-5)
    assert np.ptp(expected) > 1e-4


def test_whole_networks_equal_a_loop_over_the_formulas() -> None:
    model, tokens = network(WHOLE), cells(WHOLE)
    static = np.random.default_rng(0).normal(size=(len(tokens), 8)).astype(np.float32)
    expected = [naive(model, cell, row) for cell, row in zip(tokens, static, strict=True)]
    predicted = padded(model, tokens, static=torch.from_numpy(static))
    np.testing.assert_allclose(predicted.numpy(), expected, rtol=2e-5, atol=1e-6)
    with pytest.raises(ValueError, match="give static"):
        padded(model, tokens)


def test_padding_and_batch_order_change_nothing() -> None:
    model, tokens = network(SMALL), cells(SMALL)
    together = padded(model, tokens)
    torch.testing.assert_close(padded(model, tokens, length=17), together)
    torch.testing.assert_close(padded(model, tokens[::-1]).flip(0), together)
    for row, cell in enumerate(tokens):
        torch.testing.assert_close(padded(model, [cell])[0], together[row])


def test_eight_cells_are_learned_by_heart() -> None:
    config = NarFormerConfig(channels=48, heads=3, hidden=96, depths=(2, 1, 1), dropout=0.0)
    torch.manual_seed(0)
    model, tokens = NarFormer(config), cells(config, 8)
    batch = collate_cells(tokens)
    arrays = [torch.from_numpy(a) for a in (batch.features, batch.mask, batch.depth)]
    target = torch.linspace(0.1, 0.9, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(150):
        loss = torch.mean((model(*arrays) - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_dropout_repeats_with_its_seed() -> None:
    model, tokens = network(SMALL).train(), cells(SMALL)
    seed_dropout(model, 1)
    first = padded(model, tokens)
    seed_dropout(model, 1)
    torch.testing.assert_close(padded(model, tokens), first)
    assert not torch.equal(padded(model, tokens), first)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="channels 10 not divisible by heads 3"):
        NarFormerConfig(channels=10, heads=3)
    with pytest.raises(ValueError, match="two or more stages"):
        NarFormerConfig(depths=(6,))
