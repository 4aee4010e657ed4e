from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.cells import cell_graph, diamond, random_cells
from tvm_costmodel.errors import ConfigError, GraphError
from tvm_costmodel.nas.cell_tokens import (
    NAR_FORMER_CELLS,
    NAR_FORMER_V2_CELLS,
    NASBENCH101,
    CellTokenConfig,
    CellTokenizer,
    collate_cells,
    consistent_copies,
    encode_positions,
    reorder,
)


def linear(value: float, frequencies: int = 32) -> list[float]:
    """The released encoding of one number, one float32 rounding at a time."""
    top, single = 2.0 ** (frequencies - 1), np.float32
    step = (top - 1.0) / (frequencies - 1)
    angles = [
        float(single(single(value) * single(math.pi)) * single(1.0 + j * step))
        for j in range(frequencies)
    ]
    rounded = [float(single(angle)) for angle in angles]
    return [f(angle) for angle in rounded for f in (math.sin, math.cos)]


def geometric(value: float, frequencies: int) -> list[float]:
    bands = [10000.0 ** (-j / frequencies) for j in range(frequencies)]
    return [f(value * band) for band in bands for f in (math.sin, math.cos)]


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, 4.0, 7.0, 1e5])
def test_linear_frequencies_are_the_released_hash_of_an_index(value: float) -> None:
    encoded = encode_positions([value], 32)
    assert encoded.shape == (1, 64) and encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[0], linear(value), atol=2e-6)


def test_the_precision_is_part_of_the_encoding() -> None:
    """Nothing but float32 gives these numbers: in float64 an integer times pi has another sine."""
    bands = np.linspace(1.0, 2.0**31, 32)
    double = np.sin(3.0 * np.pi * bands)
    assert np.abs(encode_positions([3.0], 32)[0, ::2] - double).max() > 0.5


def test_geometric_frequencies() -> None:
    encoded = encode_positions([3.0, 6.0], 5, "geometric")
    np.testing.assert_allclose(encoded, [geometric(3, 5), geometric(6, 5)], atol=1e-6)


def test_golden_tokens_of_a_cell() -> None:
    tokens = CellTokenizer(NASBENCH101).encode(diamond())
    assert tokens.features.shape == (6, 192) and NAR_FORMER_CELLS.channels == 192
    pool = tokens.features[3]
    np.testing.assert_allclose(pool[:64], linear(3), atol=2e-6)  # the code of maxpool3x3
    np.testing.assert_allclose(pool[64:128], linear(3), atol=2e-6)  # its place
    both = np.add(linear(1), linear(2))  # its predecessors' places
    np.testing.assert_allclose(pool[128:], both, atol=4e-6)
    np.testing.assert_allclose(tokens.features[0, 128:], linear(-1), atol=2e-6)
    np.testing.assert_allclose(tokens.features[5], linear(1e5) * 3, atol=2e-6)
    np.testing.assert_allclose(tokens.depth, linear(5, 96), atol=2e-6)


def test_version_2_tokens_have_no_source_and_no_end() -> None:
    first = CellTokenizer(NASBENCH101).encode(diamond())
    second = CellTokenizer(NASBENCH101, NAR_FORMER_V2_CELLS).encode(diamond())
    np.testing.assert_array_equal(second.features, first.features[:5, :128])


def test_batches_are_padded_with_zeros() -> None:
    cells = [CellTokenizer(NASBENCH101).encode(cell) for cell in (diamond(), *random_cells(3))]
    batch = collate_cells(cells, length=11)
    assert batch.features.shape == (4, 11, 192) and batch.adjacency.shape == (4, 11, 11)
    assert batch.mask.sum(axis=1).tolist() == [len(cell) for cell in cells]
    assert not batch.features[~batch.mask].any()
    edges = [[0, 1], [0, 2], [0, 4], [1, 3], [2, 3], [3, 4]]
    assert np.argwhere(batch.adjacency[0]).tolist() == edges


def test_copies_keep_information_flow_and_leave_out_repeats() -> None:
    copies = list(consistent_copies(diamond()))
    assert [[node.op[:7] for node in copy.operators] for copy in copies] == [
        ["input", "conv3x3", "conv1x1", "maxpool", "output"]
    ]
    assert sorted(copies[0].edges.tolist()) == sorted(diamond().edges.tolist())
    assert copies[0].hash == diamond().hash
    twins = cell_graph(["input", "maxpool3x3", "maxpool3x3", "output"], [(0, 1), (0, 2), (2, 3)])
    assert [copy.operators[3].inputs for copy in consistent_copies(twins)] == [((1, 0),)]


def test_copies_are_all_permutations_that_stay_upper_triangular() -> None:
    for cell in random_cells(6, seed=3):
        adjacency = np.zeros((len(cell), len(cell)), dtype=int)
        adjacency[cell.edges[:, 0], cell.edges[:, 1]] = 1
        names = np.array([node.op for node in cell.operators])
        expected = set()
        for inner in itertools.permutations(range(1, len(cell) - 1)):
            order = [0, *inner, len(cell) - 1]
            moved = adjacency[np.ix_(order, order)]
            if not np.tril(moved).any():
                expected.add((moved.tobytes(), tuple(names[order])))
        copies = [cell, *consistent_copies(cell)]
        arrangements = set()
        for copy in copies:
            matrix = np.zeros_like(adjacency)
            matrix[copy.edges[:, 0], copy.edges[:, 1]] = 1
            arrangements.add((matrix.tobytes(), tuple(node.op for node in copy.operators)))
        assert arrangements == expected and len(copies) == len(expected)


def test_a_wrong_order_is_refused() -> None:
    with pytest.raises(GraphError, match="does not come before"):
        reorder(diamond(), [0, 3, 1, 2, 4])


def test_foreign_operations_and_settings_are_refused() -> None:
    with pytest.raises(GraphError, match="'conv7x7' is none of input, conv1x1"):
        CellTokenizer(NASBENCH101).encode(cell_graph(["input", "conv7x7"], [(0, 1)]))
    with pytest.raises(ConfigError, match="operation, position, source"):
        CellTokenConfig(parts=("colour",))
    with pytest.raises(ConfigError, match="linear, geometric"):
        CellTokenConfig(spacing="cubic")
