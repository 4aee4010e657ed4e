from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.graphs import labelled_graphs
from tests.models.test_nn_former_cells import layer_norm, masks
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.nn_former_networks import NnFormerNetworks, NnFormerNetworksConfig
from tvm_costmodel.tokenizer import Tokenizer, collate
from tvm_costmodel.training.trainer import forward

SMALL = NnFormerNetworksConfig(channels=16, heads=8, ffn_ratio=2)
GRAPHS = labelled_graphs(4)[0]
TOKENS = [Tokenizer().encode(graph) for graph in GRAPHS]


def network(config: NnFormerNetworksConfig = SMALL) -> NnFormerNetworks:
    torch.manual_seed(0)
    model = NnFormerNetworks(config).eval()
    model.set_output_level(3.0)
    return model


def attention(p: dict[str, np.ndarray], at: str, x: np.ndarray, graph: OpGraph) -> np.ndarray:
    """Head by head; neighbouring heads share a mask."""
    queries, keys, values = np.split(x @ p[f"{at}.project.weight"].T, 3, axis=1)
    width, mixed = x.shape[1] // SMALL.heads, np.zeros_like(x)
    for head in range(SMALL.heads):
        part = slice(head * width, (head + 1) * width)
        scores = queries[:, part] @ keys[:, part].T / np.sqrt(width)
        weights = np.exp(scores) * masks(graph)[head * 4 // SMALL.heads]
        mixed[:, part] = weights / weights.sum(axis=1, keepdims=True) @ values[:, part]
    return mixed @ p[f"{at}.out.weight"].T


def naive(model: NnFormerNetworks, graph: OpGraph) -> float:
    """One network, from the formulas, in float64."""
    p = {name: value.double().numpy() for name, value in model.state_dict().items()}
    tokens = Tokenizer().encode(graph)
    adjacency = np.zeros((len(tokens), len(tokens)))
    for a, b in tokens.edges:
        adjacency[a, b] = 1.0

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def normal(name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = linear("embed", tokens.features.astype(np.float64))
    for block in range(SMALL.blocks):
        at = f"blocks.{block}"
        x = x + attention(p, f"{at}.attention", normal(f"{at}.norm_attention", x), graph)
        y, half = normal(f"{at}.norm_feed_forward", x), SMALL.channels * SMALL.ffn_ratio // 2
        moved = y @ p[f"{at}.feed_forward.convolve.weight"].T
        along = [adjacency @ moved[:, :half], adjacency.T @ moved[:, half:]]
        hidden = y @ p[f"{at}.feed_forward.up.weight"].T + np.concatenate(along, axis=1)
        x = x + np.maximum(hidden, 0.0) @ p[f"{at}.feed_forward.down.weight"].T
    static = np.maximum(linear("static", tokens.static), 0.0)
    y = np.concatenate([normal("norm", x).sum(axis=0), static])
    for layer in (0, 1):
        y = np.maximum(linear(f"head.{layer}", y), 0.0)
    return float(np.log1p(np.exp(linear("head.2", y)))[0])


def test_a_batch_equals_the_formulas_for_each_network() -> None:
    model = network()
    with torch.no_grad():
        answers = forward(model, TOKENS).numpy()
    np.testing.assert_allclose(answers, [naive(model, graph) for graph in GRAPHS], rtol=1e-4)


def test_padding_does_not_change_answers_and_direction_does() -> None:
    model = network()
    with torch.no_grad():
        tight = forward(model, TOKENS)
        batch = collate(TOKENS, max(map(len, TOKENS)) + 7, directed=True)
        arrays = [batch.features, batch.adjacency, batch.mask, batch.static]
        wide = model(*map(torch.from_numpy, arrays))
        arrays[1] = np.ascontiguousarray(batch.adjacency.transpose(0, 2, 1))
        backwards = model(*map(torch.from_numpy, arrays))
    np.testing.assert_allclose(wide, tight, rtol=1e-5)
    assert (backwards / wide - 1.0).abs().min() > 1e-6


def test_several_platforms_each_have_an_answer() -> None:
    model = network(NnFormerNetworksConfig(channels=16, heads=4, platforms=3))
    with torch.no_grad():
        answers = forward(model, TOKENS)
    assert answers.shape == (4, 3) and len(np.unique(answers)) == 12


def test_default_size_is_known() -> None:
    assert sum(p.numel() for p in NnFormerNetworks().parameters()) == 2_346_753


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="platforms 0"):
        NnFormerNetworksConfig(platforms=0)
