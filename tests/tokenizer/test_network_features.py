from __future__ import annotations

import numpy as np

from tests.graphs import GraphBuilder, resnet_graph, unknown_graph
from tvm_costmodel.tokenizer.network_features import FEATURE_NAMES, features, group_of


def by_name(graph) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, features([graph])[0], strict=True))


def test_names_are_distinct_and_values_finite() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert np.isfinite(features([resnet_graph(), unknown_graph()])).all()


def test_sums_of_resnet50() -> None:
    graph = resnet_graph()
    values = by_name(graph)
    assert values["dense conv: count"] == 17 and values["pointwise conv: count"] == 36
    assert values["matmul: count"] == 1 and values["matmul: macs"] == 2048 * 1000
    macs = values["dense conv: macs"] + values["pointwise conv: macs"] + values["matmul: macs"]
    assert macs == graph.macs
    assert values["conv count, kernel 7"] == 1
    assert values["conv count, stride 2 and more"] == 7
    assert values["log flops"] == np.log1p(graph.flops)
    assert values["operators"] == 176 and values["branches"] == 16


def test_groups_of_convolutions() -> None:
    builder = GraphBuilder(1, 16, 8, 8)
    ids = [
        builder.conv(0, 16, groups=16),
        builder.conv(0, 32, groups=4),
        builder.conv(0, 8, kernel=1),
        builder.conv(0, 8),
    ]
    graph = builder.graph(ids[-1])
    expected = ["depthwise conv", "grouped conv", "pointwise conv", "dense conv"]
    assert [group_of(graph, i) for i in ids] == expected


def test_unknown_operators_count_and_move_their_bytes() -> None:
    values = by_name(unknown_graph())
    assert values["unknown: count"] == 1
    assert values["unknown: moved"] == 2 * 8 * 16 * 16 * 4 and values["unknown: macs"] == 0


def test_depth_is_the_longest_path() -> None:
    builder = GraphBuilder(1, 4, 4, 4)
    long = builder.relu(builder.relu(0))
    assert by_name(builder.graph(builder.sum(long, builder.relu(0))))["depth"] == 4
