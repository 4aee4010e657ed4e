from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.graphs import GraphBuilder, labelled_graphs, resnet_graph
from tvm_costmodel.models.nnlp import Nnlp, NnlpConfig
from tvm_costmodel.tokenizer import VOCABULARY, TokenArrays, collate
from tvm_costmodel.tokenizer.nnlp import NnlpTokenizer
from tvm_costmodel.training.trainer import forward

SMALL = NnlpConfig(channels=32)
GRAPHS = [NnlpTokenizer().encode(graph) for graph in labelled_graphs(5)[0]]


def network(config: NnlpConfig) -> Nnlp:
    torch.manual_seed(0)
    model = Nnlp(config).eval()
    model.set_output_level(3.0)
    return model


def padded(model: Nnlp, graphs: list[TokenArrays], length: int | None = None) -> torch.Tensor:
    batch = collate(graphs, length)
    arrays = (batch.features, batch.adjacency, batch.mask, batch.static)
    with torch.no_grad():
        return model.platforms(*(torch.from_numpy(array) for array in arrays))


def naive(model: Nnlp, graph: TokenArrays) -> list[float]:
    """One network, one operator at a time, from the formulas, in float64."""
    p = {name: value.double().numpy() for name, value in model.state_dict().items()}
    neighbours: list[set[int]] = [set() for _ in range(len(graph))]
    for a, b in graph.edges:
        neighbours[a].add(int(b))
        neighbours[b].add(int(a))
    x = graph.features.astype(np.float64)
    for block in range(model.config.layers):
        at, out = f"blocks.{block}", []
        for i, near in enumerate(neighbours):
            mean = sum((x[j] for j in near), np.zeros_like(x[i])) / max(1, len(near))
            y = p[f"{at}.neighbours.weight"] @ mean + p[f"{at}.neighbours.bias"]
            y = y + p[f"{at}.root.weight"] @ x[i]
            out.append(np.maximum(y / np.linalg.norm(y), 0.0))
        x = np.array(out)
    static = np.maximum(p["static.weight"] @ graph.static + p["static.bias"], 0.0)
    answers = []
    for head in range(model.config.platforms):
        y = np.concatenate([x.sum(axis=0), static])
        for layer in (0, 3):
            y = p[f"heads.{head}.{layer}.weight"] @ y + p[f"heads.{head}.{layer}.bias"]
            y = np.maximum(y, 0.0)
        y = p[f"heads.{head}.6.weight"] @ y + p[f"heads.{head}.6.bias"]
        answers.append(float(np.log1p(np.exp(y))[0]))
    return answers


def test_published_configuration_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in Nnlp().parameters()) == 1_360_897


def test_golden_tokens_are_normalised_as_published() -> None:
    builder = GraphBuilder(2, 3, 16, 16)
    tokens = NnlpTokenizer().encode(builder.graph(builder.conv(0, 12, kernel=5, stride=2)))
    conv = tokens.features[1]
    assert tokens.features.shape == (2, 44) and tokens.features.dtype == np.float32
    assert np.flatnonzero(conv[:32]).tolist() == [VOCABULARY.index("conv2d")]
    attributes = [(5 - 2.53) / 56, (2 - 1.16) / 56, (2 - 0.75) / 6, 0.0, (1 - 15.08) / 6144, -0.77]
    np.testing.assert_allclose(conv[32:38], attributes, rtol=1e-5)
    dims = [(2 - 12.25) / 1024, (12 - 286.96) / 2496, (8 - 32.62) / 256, (8 - 31.8) / 256]
    np.testing.assert_allclose(conv[40:], dims, rtol=1e-5)
    assert not tokens.features[0, 32:40].any()  # an input has no attributes


def test_static_numbers_go_in_as_they_are() -> None:
    graph = resnet_graph()
    static = NnlpTokenizer().encode(graph).static
    assert static.shape == (4,) and static[0] == 1
    np.testing.assert_allclose(static[[1, 3]], [graph.flops / 1e9, graph.macs / 1e9], rtol=1e-6)
    assert static[2] == pytest.approx(0.0256, rel=0.02)  # ResNet-50's parameters, in 10^9


@pytest.mark.parametrize("config", [SMALL, NnlpConfig(), NnlpConfig(channels=32, platforms=3)])
def test_forward_equals_a_loop_over_the_formulas(config: NnlpConfig) -> None:
    model = network(config)
    expected = [naive(model, graph) for graph in GRAPHS]
    np.testing.assert_allclose(padded(model, GRAPHS).numpy(), expected, rtol=2e-5)


def test_padding_and_batch_order_change_nothing() -> None:
    model = network(SMALL)
    together = padded(model, GRAPHS)
    torch.testing.assert_close(padded(model, GRAPHS, length=77), together)
    torch.testing.assert_close(padded(model, GRAPHS[::-1]).flip(0), together)


def test_merging_equal_operators_changes_nothing() -> None:
    model = network(SMALL)
    graphs = [*GRAPHS, NnlpTokenizer().encode(resnet_graph((2, 3, 3, 2), image=64))]
    with torch.no_grad():
        for share in (True, False):
            merged = forward(model, graphs, share)  # type: ignore[arg-type]
            torch.testing.assert_close(merged, padded(model, graphs)[:, 0])


def test_a_new_platform_leaves_the_others_as_they_are() -> None:
    model = network(NnlpConfig(channels=32, platforms=2))
    before = padded(model, GRAPHS)
    assert model.add_platform() == 2
    after = padded(model, GRAPHS)
    assert after.shape == (5, 3)
    torch.testing.assert_close(after[:, :2], before)


def test_a_new_head_is_learned_with_the_trunk_at_rest() -> None:
    model = network(NnlpConfig(channels=32, dropout=0.0))
    batch = collate(GRAPHS)
    arrays = (batch.features, batch.adjacency, batch.mask, batch.static)
    inputs = [torch.from_numpy(array) for array in arrays]
    before, head = padded(model, GRAPHS), model.add_platform()
    for parameter in model.trunk_parameters():
        parameter.requires_grad_(False)
    target = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    optimizer = torch.optim.Adam(model.heads[head].parameters(), lr=3e-3)
    for _ in range(300):
        loss = torch.mean((model.platforms(*inputs)[:, head] / target - 1.0) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2
    torch.testing.assert_close(padded(model, GRAPHS)[:, 0], before[:, 0])
