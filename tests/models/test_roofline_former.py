"""`RooflineFormer` against its formulas, operator by operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.roofline_former import (
    CONTEXT,
    GraphBatch,
    RooflineFormer,
    RooflineFormerConfig,
)
from tvm_costmodel.tokenizer.operator_features import CATEGORY_OF_SLOT, FEATURES
from tvm_costmodel.tokenizer.vocabulary import VOCABULARY

EDGES = ((0, 1), (0, 2), (1, 3), (2, 3))


def network(seed: int = 0, wild: bool = True, **changes: object) -> RooflineFormer:
    """A small one; ``wild`` moves every parameter away from where training starts."""
    sizes = {"channels": 8, "context_channels": 8, "heads": 4, "devices": 2, "device_channels": 3}
    torch.manual_seed(seed)
    model = RooflineFormer(RooflineFormerConfig(**{**sizes, **changes}))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters() if wild else ():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def batch(nodes: int = 4, edges: tuple = EDGES, seed: int = 0) -> GraphBatch:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.tensor([*((i, i) for i in range(nodes)), *edges])
    return GraphBatch(
        slot=torch.randint(len(VOCABULARY), (nodes,), generator=generator),
        numbers=torch.randn(nodes, len(FEATURES), generator=generator),
        work=torch.rand(nodes, 3, generator=generator),
        source=pairs[:, 0],
        target=pairs[:, 1],
        graph=torch.zeros(nodes, dtype=torch.long),
        graphs=1,
    )


def feed_forward(x: Tensor, weights: dict[str, Tensor], at: str) -> Tensor:
    x = F.layer_norm(x, x.shape, weights[f"{at}.0.weight"], weights[f"{at}.0.bias"])
    x = F.gelu(weights[f"{at}.1.weight"] @ x + weights[f"{at}.1.bias"])
    return weights[f"{at}.4.weight"] @ x + weights[f"{at}.4.bias"]


def attention(x: list[Tensor], w: dict[str, Tensor], at: str, heads: int) -> list[Tensor]:
    """Every operator over itself and its producers, and over itself and its consumers."""
    normed = [F.layer_norm(r, r.shape, w[f"{at}.norm.weight"], w[f"{at}.norm.bias"]) for r in x]
    projected = [(w[f"{at}.project.weight"] @ r).view(3, heads, -1) for r in normed]
    outputs = []
    for i in range(len(x)):
        parts = []
        for head in range(heads):
            if head < heads // 2:
                reads = [i] + [src for src, dst in EDGES if dst == i]
            else:
                reads = [i] + [dst for src, dst in EDGES if src == i]
            scores = []
            for j in reads:
                q, k = projected[i][0, head], projected[j][1, head]
                cosine = q @ k / (q.norm() * k.norm())
                own = w[f"{at}.own"][head] if i == j else 0.0
                scores.append(cosine * w[f"{at}.temperature"][head] + own)
            share = torch.softmax(torch.stack(scores), dim=0)
            values = [projected[j][2, head] for j in reads]
            parts.append(sum(s * v for s, v in zip(share, values, strict=True)))
        outputs.append(w[f"{at}.out.weight"] @ torch.cat(parts) + w[f"{at}.out.bias"])  # type: ignore[arg-type]
    return outputs


def by_hand(net: RooflineFormer, graph: GraphBatch) -> Tensor:
    """Milliseconds [R, P] from the formulas, one operator and device at a time."""
    w, config = dict(net.named_parameters()), net.config
    c = []
    for i, slot in enumerate(graph.slot.tolist()):
        see = w["see.weight"] @ graph.numbers[i, CONTEXT] + w["see.bias"]
        c.append(w["slot.weight"][slot] + w["category.weight"][CATEGORY_OF_SLOT[slot]] + see)
    for block in range(config.blocks):
        moved = attention(c, w, f"attention.{block}", config.heads)
        c = [a + b for a, b in zip(c, moved, strict=True)]
        c = [a + feed_forward(a, w, f"mix.{block}") for a in c]
    rows = []
    for i, own in enumerate(c):
        x = w["embed.weight"] @ graph.numbers[i] + w["embed.bias"]
        x = x + w["join.weight"] @ own + w["join.bias"]
        for layer in range(config.layers):
            x = x + feed_forward(x, w, f"layers.{layer}")
        h = F.layer_norm(x, x.shape, w["trunk.0.weight"], w["trunk.0.bias"])
        h = F.gelu(w["trunk.1.weight"] @ h + w["trunk.1.bias"])
        row = []
        for device in range(config.devices):
            scale, shift = (w["film.weight"] @ w["device.weight"][device]).chunk(2)
            raw = w["head.weight"] @ torch.tanh(h * (1 + scale) + shift) + w["head.bias"]
            bounded = config.bound * torch.tanh(raw / config.bound)
            terms = graph.work[i] * torch.exp(w["level"][device] + bounded)
            row.append(terms.sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_the_network_is_its_formulas() -> None:
    net, graph = network(), batch()
    with torch.no_grad():
        whole, parts, _ = net(graph)
        expected = by_hand(net, graph)
    assert parts.shape == (4, 2) and whole.shape == (1, 2)
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(parts[:, 0], parts[:, 1], rtol=0.01)  # devices differ


@pytest.mark.parametrize("context", ["types", "full", "none"])
@pytest.mark.parametrize("roofline", [True, False])
def test_parts_are_positive_and_sum_to_the_whole(context: str, roofline: bool) -> None:
    whole, parts, correction = network(context=context, roofline=roofline)(batch())
    assert (parts > 0).all() and torch.isfinite(parts).all() and correction.ndim == 0
    torch.testing.assert_close(whole[0], parts.sum(0))


def join(first: GraphBatch, second: GraphBatch) -> GraphBatch:
    rows = len(first.slot)
    pairs = [
        torch.cat([a, b + rows])
        for a, b in ((first.source, second.source), (first.target, second.target))
    ]
    return GraphBatch(
        *(torch.cat(both) for both in zip(first[:3], second[:3], strict=True)),
        *pairs,
        torch.cat([first.graph, second.graph + 1]),
        2,
    )


def test_a_batch_answers_as_each_graph_alone() -> None:
    net = network()
    first, second = batch(), batch(3, ((0, 1), (1, 2)), seed=1)
    together = net(join(first, second))[0]
    torch.testing.assert_close(together[0], net(first)[0][0])
    torch.testing.assert_close(together[1], net(second)[0][0])


def test_the_direction_of_edges_matters() -> None:
    graph = batch(2, ((0, 1),))
    reversed_edge = graph._replace(source=graph.target, target=graph.source)
    net = network()
    assert not torch.allclose(net(graph)[1], net(reversed_edge)[1], rtol=1e-3)


def test_context_is_of_neighbours_within_reach_of_the_blocks() -> None:
    chain = batch(4, ((0, 1), (1, 2), (2, 3)))
    slot = chain.slot.clone()
    slot[0] = (slot[0] + 11) % len(VOCABULARY)
    for context, blocks, changed in (("types", 1, 2), ("types", 2, 3), ("none", 2, 1)):
        net = network(context=context, blocks=blocks)
        before, after = net(chain)[1], net(chain._replace(slot=slot))[1]
        moved = (before != after).any(dim=1)
        assert moved.tolist() == [i < changed for i in range(4)], (context, blocks)


def test_neighbours_see_sizes_only_with_full_context() -> None:
    graph, larger = batch(), batch()
    larger.numbers[0, FEATURES.index("macs")] += 1.0
    for context, seen in (("types", False), ("full", True)):
        net = network(context=context)
        before, after = net(graph)[1], net(larger)[1]
        assert not torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1]) is not seen
    full, plain = network(context="full", channels=16), network(context="none")
    assert full.see.in_features == len(FEATURES) and full.see.out_features == 16
    assert network().see.in_features == len(CONTEXT) < len(FEATURES)
    assert not plain.attention and not plain.mix


def test_an_operator_never_seen_counts_as_its_category_at_first() -> None:
    net, graph = network(wild=False), batch()

    def parts(name: str) -> Tensor:
        slot = graph.slot.clone()
        slot[1] = VOCABULARY.index(name)
        return net(graph._replace(slot=slot))[1]

    assert torch.equal(parts("tanh"), parts("gelu"))
    assert torch.equal(parts("unknown"), parts("other"))
    assert not torch.equal(parts("tanh"), parts("softmax"))


def test_numbers_beyond_reach_count_no_further() -> None:
    net, graph = network(reach=2.0), batch()
    net.set_scaling(torch.randn(50, len(FEATURES)) * 3 + 1)
    column = FEATURES.index("macs")

    def whole(deviations: float) -> Tensor:
        numbers = graph.numbers.clone()
        numbers[0, column] = net.center[column] + deviations * net.spread[column]
        return net(graph._replace(numbers=numbers))[0]

    assert not torch.equal(whole(1.0), whole(2.0))
    torch.testing.assert_close(whole(2.0), whole(50.0))
    torch.testing.assert_close(whole(-2.0), whole(-1e6))


def test_corrections_are_bounded() -> None:
    net, graph = network(bound=1.0), batch()
    net.set_level(torch.tensor([[0.5, 1.0, -2.0], [0.0, 0.0, 0.0]]))
    with torch.no_grad():
        net.head.weight.mul_(1e3)
    physical = graph.work @ torch.exp(net.level.detach()).T
    ratio = net(graph)[1] / physical
    assert (ratio <= torch.e * 1.0001).all() and (ratio >= 0.9999 / torch.e).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads 3"),
        ({"heads": 0}, "heads 0"),
        ({"context_channels": 30}, "30 channels"),
        ({"context": "full", "channels": 30}, "30 channels"),
        ({"context": "sizes"}, "unknown context 'sizes'; known: types, full, none"),
        ({"devices": 0}, "devices"),
        ({"blocks": -1}, "blocks -1"),
        ({"bound": 0.0}, "bound 0.0"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RooflineFormerConfig(**changes)
