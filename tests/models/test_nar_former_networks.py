from __future__ import annotations

import numpy as np
import torch

from tests.graphs import GraphBuilder, labelled_graphs
from tvm_costmodel.models.nar_former_networks import (
    NarFormerNetworks,
    NarFormerNetworksConfig,
    encode,
)
from tvm_costmodel.nas.cell_tokens import encode_positions
from tvm_costmodel.tokenizer import Tokenizer, TokenizerConfig, collate
from tvm_costmodel.training.trainer import forward

SMALL = NarFormerNetworksConfig(frequencies=4, hidden=32, blocks=1)
TOKENIZER = Tokenizer(TokenizerConfig(frequencies=4))


def network(config: NarFormerNetworksConfig = SMALL) -> NarFormerNetworks:
    torch.manual_seed(0)
    model = NarFormerNetworks(config).eval()
    model.set_output_level(3.0)
    return model


def test_published_tokens_have_960_channels() -> None:
    assert NarFormerNetworksConfig().channels == 960
    assert Tokenizer(TokenizerConfig(frequencies=32)).config.channels == 32 + 12 * 64


def test_numbers_are_encoded_as_the_cells_positions_are() -> None:
    numbers = [0.0, 1.0, 7.0, 224.0, -1.0]
    expected = encode_positions(numbers, 32, "geometric")
    np.testing.assert_allclose(encode(torch.tensor(numbers), 32), expected, atol=1e-4)


def test_the_transformer_reads_operation_numbers_source_and_own_position() -> None:
    builder = GraphBuilder(1, 3, 8, 8)
    left, right = builder.conv(0, 4), builder.conv(0, 4)
    graph = builder.graph(builder.sum(left, right))
    tokens, model, seen = TOKENIZER.encode(graph), network(), []
    model.former.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        forward(model, [tokens])
    x, mask, depth, static = (part[0].numpy() for part in seen[0])

    def code(value: float) -> np.ndarray:
        return encode_positions([value], 4, "geometric")[0]

    assert x.shape == (4, 120) and mask.all() and static.shape == (32,)
    np.testing.assert_allclose(x[3, :8], code(float(tokens.op_id[3])), atol=1e-5)
    np.testing.assert_allclose(x[:, 8:104], tokens.features[:, 32:], atol=1e-5)
    np.testing.assert_allclose(x[0, 104:112], code(-1.0), atol=1e-5)
    np.testing.assert_allclose(x[3, 104:112], code(1.0) + code(2.0), atol=1e-5)
    np.testing.assert_allclose(x[2, 112:], code(2.0), atol=1e-5)
    np.testing.assert_allclose(depth, encode_positions([4], 60, "geometric")[0], atol=1e-5)


def test_padding_and_neighbours_in_the_batch_do_not_change_answers() -> None:
    tokens = [TOKENIZER.encode(graph) for graph in labelled_graphs(4)[0]]
    model = network()
    with torch.no_grad():
        batch = collate(tokens, max(map(len, tokens)) + 5, directed=True)
        arrays = (batch.features, batch.adjacency, batch.mask, batch.static)
        together = model(*map(torch.from_numpy, arrays)).numpy()
        alone = [forward(model, [graph]).item() for graph in tokens]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert together.shape == (4,) and (together > 0).all()


def test_several_platforms_each_have_an_answer() -> None:
    model = network(NarFormerNetworksConfig(frequencies=4, hidden=32, blocks=1, platforms=3))
    tokens = [TOKENIZER.encode(graph) for graph in labelled_graphs(4)[0]]
    with torch.no_grad():
        answers = forward(model, tokens)
    assert answers.shape == (4, 3) and len(np.unique(answers)) == 12
