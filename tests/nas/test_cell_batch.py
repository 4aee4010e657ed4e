from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cells import diamond, random_cells
from tvm_costmodel.errors import GraphError
from tvm_costmodel.nas.cell_batch import CellArrays, PositionTokens
from tvm_costmodel.nas.cell_tokens import (
    NAR_FORMER_CELLS,
    NAR_FORMER_V2_CELLS,
    NASBENCH101,
    NASBENCH201,
    CellTokenConfig,
    CellTokenizer,
    collate_cells,
    consistent_copies,
)

CELLS = [diamond(), *random_cells(12, seed=1)]


@pytest.mark.parametrize("config", [NAR_FORMER_CELLS, NAR_FORMER_V2_CELLS])
def test_tokens_of_a_batch_are_the_tokenizers(config: CellTokenConfig) -> None:
    arrays = CellArrays(CELLS, NASBENCH101)
    nodes = arrays.codes.shape[1]
    tokens = PositionTokens(config, len(NASBENCH101), nodes, arrays.device)
    chosen = torch.arange(len(CELLS)).reshape(1, -1)  # a leading axis, as ensemble members have
    features, mask, depth = tokens(arrays.batch(chosen))
    encoded = [CellTokenizer(NASBENCH101, config).encode(cell) for cell in CELLS]
    expected = collate_cells(encoded, nodes + config.end_token)
    np.testing.assert_array_equal(mask[0].numpy(), expected.mask)
    np.testing.assert_allclose(features[0].numpy(), expected.features, atol=1e-6)
    np.testing.assert_array_equal(depth[0].numpy(), expected.depth)
    adjacency = arrays.batch(chosen).adjacency[0].numpy()
    np.testing.assert_array_equal(adjacency, expected.adjacency[:, :nodes, :nodes])


def test_orders_are_those_of_the_consistent_copies() -> None:
    arrays = CellArrays(CELLS, NASBENCH101)
    orders = arrays.consistent_orders(np.arange(len(CELLS)), 64, seed=0)
    for row, cell in enumerate(CELLS):
        expected = set()
        for copy in (cell, *consistent_copies(cell)):
            edges = tuple(map(tuple, sorted(copy.edges.tolist())))
            expected.add((tuple(node.op for node in copy.operators), edges))
        batch = arrays.batch(torch.full((64,), row), orders[row])
        arrangements = set()
        for codes, adjacency in zip(batch.codes, batch.adjacency, strict=True):
            names = tuple(NASBENCH101[code] for code in codes[: len(cell)].tolist())
            arrangements.add((names, tuple(map(tuple, adjacency.nonzero().tolist()))))
        assert arrangements <= expected
        assert len(arrangements) == len(expected) or len(expected) > 12


def test_foreign_operations_are_refused() -> None:
    with pytest.raises(GraphError, match="'conv1x1-bn-relu' is none of input, nor_conv_1x1"):
        CellArrays([diamond()], NASBENCH201)
