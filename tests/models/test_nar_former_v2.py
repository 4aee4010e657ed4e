from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.graphs import labelled_graphs, resnet_graph
from tvm_costmodel.models.layers import Dropout, GroupedLinear, seed_dropout
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.tokenizer import TokenArrays, Tokenizer, collate
from tvm_costmodel.training.trainer import forward

SMALL = NarFormerV2Config(channels=32, groups=4)


def tokens(count: int = 6) -> list[TokenArrays]:
    encode = Tokenizer().encode
    return [encode(graph) for graph in labelled_graphs(count)[0]]


def network(config: NarFormerV2Config = SMALL, seed: int = 0) -> NarFormerV2:
    """Random weights, biases and gains, so that no term of the formulas vanishes."""
    torch.manual_seed(seed)
    model = NarFormerV2(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(
    model: NarFormerV2, graphs: list[TokenArrays], length: int | None = None
) -> torch.Tensor:
    batch = collate(graphs, length)
    arrays = (batch.features, batch.adjacency, batch.mask, batch.static)
    with torch.no_grad():
        return model(*(torch.from_numpy(array) for array in arrays))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    spread = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return (x - x.mean()) / spread * weight + bias


def grouped(x: np.ndarray, p: dict[str, np.ndarray], name: str, groups: int) -> np.ndarray:
    parts = []
    for g, part in enumerate(np.split(x, groups)):
        y = part @ p[f"{name}.weight"][g] + p[f"{name}.bias"][g, 0]
        parts.append(layer_norm(y, p[f"{name}.norm.weight"], p[f"{name}.norm.bias"]))
    return np.concatenate(parts)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def naive(model: NarFormerV2, graph: TokenArrays) -> float:
    """One network, one operator at a time, from the formulas of the paper, in float64."""
    p = {name: value.double().numpy() for name, value in model.state_dict().items()}
    neighbours: list[set[int]] = [set() for _ in range(len(graph))]
    for a, b in graph.edges:
        neighbours[a].add(int(b))
        neighbours[b].add(int(a))
    x = graph.features.astype(np.float64)
    for block in range(model.config.blocks):
        at = f"blocks.{block}.attention"
        rows, z = [], []
        for i in range(len(graph)):
            gain = p[f"{at}.degree.weight"][:, 0] * len(neighbours[i]) + p[f"{at}.degree.bias"]
            rows.append(x[i] * sigmoid(gain))
            z.append(sigmoid(p[f"{at}.project.weight"] @ rows[i] + p[f"{at}.project.bias"]))
        out = []
        for i in range(len(graph)):
            score = {j: z[i] @ z[j] / math.sqrt(len(z[i])) for j in neighbours[i]}
            total = sum(score.values()) + 1e-6
            mixed = sum((score[j] / total * rows[j] for j in score), np.zeros_like(rows[i]))
            y = p[f"{at}.neighbours.weight"] @ mixed + p[f"{at}.neighbours.bias"]
            y = y + p[f"{at}.root.weight"] @ rows[i]
            y = np.maximum(y / np.linalg.norm(y), 0.0)
            ffn = f"blocks.{block}.feed_forward"
            h = layer_norm(y, p[f"{ffn}.norm.weight"], p[f"{ffn}.norm.bias"])
            h = np.maximum(grouped(h, p, f"{ffn}.up", model.config.groups), 0.0)
            h = grouped(h, p, f"{ffn}.down", model.config.groups)
            out.append(y + p[f"blocks.{block}.gamma"] * h)
        x = np.array(out)
    static = np.maximum(p["static.weight"] @ graph.static + p["static.bias"], 0.0)
    y = np.concatenate([x.sum(axis=0), static])
    y = np.maximum(p["head.0.weight"] @ y + p["head.0.bias"], 0.0)
    y = np.maximum(p["head.1.weight"] @ y + p["head.1.bias"], 0.0)
    return float(np.log1p(np.exp(p["head.2.weight"] @ y + p["head.2.bias"]))[0])


def test_published_configuration_has_the_published_number_of_parameters() -> None:
    model = NarFormerV2()
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_310_921
    assert [linear.weight.shape for linear in model.head] == [(512, 1024), (512, 512), (1, 512)]
    assert model.static.weight.shape == (512, 40)
    assert all((block.gamma == 1e-4).all() for block in model.blocks)


@pytest.mark.parametrize("config", [SMALL, NarFormerV2Config()], ids=["small", "published"])
def test_forward_equals_a_loop_over_the_formulas(config: NarFormerV2Config) -> None:
    model, graphs = network(config), tokens(4)
    expected = [naive(model, graph) for graph in graphs]
    np.testing.assert_allclose(padded(model, graphs).numpy(), expected, rtol=2e-5)
    with torch.no_grad():
        np.testing.assert_allclose(forward(model, graphs).numpy(), expected, rtol=2e-5)


def test_padding_and_batch_order_change_nothing() -> None:
    model, graphs = network(), tokens()
    together = padded(model, graphs)
    torch.testing.assert_close(padded(model, graphs, length=77), together)
    torch.testing.assert_close(padded(model, graphs[::-1]).flip(0), together)
    for row, graph in enumerate(graphs):
        torch.testing.assert_close(padded(model, [graph])[0], together[row])


def test_merging_equal_operators_changes_nothing() -> None:
    model = network()
    graphs = [*tokens(), Tokenizer().encode(resnet_graph((2, 3, 3, 2), image=64))]
    expected = padded(model, graphs)
    with torch.no_grad():
        for share in (True, False):
            torch.testing.assert_close(forward(model, graphs, share), expected)


def test_gradients_are_the_same_padded_and_merged() -> None:
    model, graphs = network(), tokens(4)
    batch = collate(graphs)
    arrays = (batch.features, batch.adjacency, batch.mask, batch.static)
    model(*(torch.from_numpy(array) for array in arrays)).log().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    forward(model, graphs).log().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4)


def test_starts_at_the_given_level() -> None:
    model = NarFormerV2(SMALL)
    for level in (0.05, 3.0, 400.0):
        model.set_output_level(level)
        bias = model.head[2].bias.detach()
        assert torch.nn.functional.softplus(bias).item() == pytest.approx(level, rel=1e-4)


def test_grouped_linear_refuses_channels_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="10 and 16 must be divisible by groups 4"):
        GroupedLinear(10, 16, 4)


def test_dropout_drops_its_share_keeps_the_mean_and_repeats_with_its_seed() -> None:
    layer, x = Dropout(0.05), torch.ones(1001, 999, requires_grad=True)
    layer.seed(1, 2)
    first = layer(x)
    assert (first == 0).float().mean().item() == pytest.approx(0.05, abs=1e-3)
    assert first.mean().item() == pytest.approx(1.0, abs=2e-3)
    first.sum().backward()
    torch.testing.assert_close(x.grad, first.detach())
    layer.seed(1, 2)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)
    assert layer.eval()(x) is x


def test_every_dropout_layer_has_a_sequence_of_its_own() -> None:
    model = NarFormerV2(SMALL)
    seed_dropout(model, 7)
    layers = [layer for layer in model.modules() if isinstance(layer, Dropout)]
    masks = [layer.train()(torch.ones(100, 100)) for layer in layers]
    assert len(masks) == 5 and not torch.equal(masks[0], masks[1])
