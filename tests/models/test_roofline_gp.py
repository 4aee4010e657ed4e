"""The roofline gp: its formula kernel by kernel, what it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.graphs import GraphBuilder, labelled_graphs, resnet_graph, synthetic_latency
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.roofline_gp import RooflineGP, RooflineGPConfig
from tvm_costmodel.predictors.roofline_gp import RooflineGPRegressor
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer, PhysicalTokens
from tvm_costmodel.tokenizer.roofline_terms import TERMS, kernel_table
from tvm_costmodel.training.metrics import evaluate

SMALL = RooflineGPConfig(features=8)


def tokens(*graphs: OpGraph) -> list[PhysicalTokens]:
    return [PhysicalTokenizer().encode(graph) for graph in graphs]


def wide_convolution() -> OpGraph:
    """3 x 3, 16 to 32 channels at 8 x 8; its result is clamped, and added to the clamp."""
    b = GraphBuilder(1, 16, 8, 8)
    y = b.conv(0, 32, 3)
    z = b.sum(b.relu(y), y)
    return b.graph(b.relu(z))


def fitted(config: RooflineGPConfig = SMALL) -> tuple[RooflineGP, list[OpGraph]]:
    graphs, latency_s = labelled_graphs(40)
    gp = RooflineGP(config)
    return gp.fit(tokens(*graphs), latency_s * 1e3), graphs


def test_latency_is_the_formula_kernel_by_kernel() -> None:
    """Prices of a convolution with every feature and weight spelled out."""
    gp, _ = fitted()
    config, state = gp.config, gp.state()
    graph = wide_convolution()
    table = kernel_table(tokens(graph))
    kind, weights = int(table.kind[0]), state["weights"].tolist()
    kinds = state["kinds"].tolist()
    assert kind in kinds

    def function(name: str, place: list[float], spread: float, scale: float) -> list[float]:
        directions = state[f"directions.{name}"] / scale
        angles = [float(np.dot(place, direction)) for direction in directions.T]
        amplitude = spread / math.sqrt(len(angles))
        return [amplitude * math.cos(a) for a in angles] + [amplitude * math.sin(a) for a in angles]

    place = table.place[0].tolist()
    product = function("shared", place[:3], config.shared, config.scale)
    product += function("fine", place[:3], config.fine, config.fine_scale)
    own = [place[0], place[1], place[3], place[4], place[5]]
    own_features = function(f"kind{kind}", own, config.own, config.scale)
    each = len(TERMS) + 4 + len(own_features)
    at = len(product) + kinds.index(kind) * each
    latency = 0.0
    for term, name in enumerate(TERMS):
        h = config.constant * weights[at + term]
        if name == "arithmetic":
            h += sum(a * b for a, b in zip(product, weights, strict=False))
            filled = [config.filled * value for value in table.filled[0]]
            rest = [*filled, *own_features]
            h += sum(a * b for a, b in zip(rest, weights[at + len(TERMS) :], strict=False))
        latency += table.amount[0, term] * state["base"][0, term] * math.exp(h)
    assert gp.parts(table)[0] == pytest.approx(latency, rel=1e-4)


def test_parts_are_positive_and_sum_to_the_latency() -> None:
    gp, graphs = fitted()
    table = kernel_table(tokens(*graphs))
    parts = gp.parts(table)
    assert parts.min() > 0
    np.testing.assert_allclose(table.sums(parts), gp.predict(tokens(*graphs)))


def test_learns_a_machine_and_keeps_to_it_on_networks_unlike_any_it_saw() -> None:
    graphs, latency_s = labelled_graphs(300)
    gp = RooflineGP(RooflineGPConfig())
    gp.fit(tokens(*graphs[:250]), latency_s[:250] * 1e3)
    known = evaluate(gp.predict(tokens(*graphs[250:])), latency_s[250:] * 1e3)
    assert known.mape < 2.0  # per cent
    # bottlenecks, normalisation and pooling; several times slower than any training network
    networks = [resnet_graph(layers) for layers in ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3))]
    measured = 1e3 * np.array([synthetic_latency(graph) for graph in networks])
    ratio = gp.predict(tokens(*networks)) / measured
    assert np.all((ratio > 0.7) & (ratio < 1.3))
    assert measured.min() > 4e3 * latency_s.max()


def test_starting_a_kernel_is_priced_where_it_costs_and_only_there() -> None:
    graphs, latency_s = labelled_graphs(150)
    without_s = np.array([latency_s[i] - 2e-6 * len(g.costs) for i, g in enumerate(graphs)])
    prices = [
        RooflineGP(SMALL).fit(tokens(*graphs), 1e3 * labels_s).base[:, TERMS.index("kernels")]
        for labels_s in (latency_s, without_s)
    ]
    assert np.ptp(prices[0]) == np.ptp(prices[1]) == 0.0  # whatever is started
    assert 1e-3 < prices[0][0] < 4e-3  # ms; the machine takes 2e-3
    assert prices[1][0] < 1e-5


def test_a_kernel_that_no_training_network_held_has_a_price() -> None:
    b = GraphBuilder(1, 3, 16, 16)
    only_products = b.graph(b.conv(0, 8))
    gp = RooflineGP(SMALL).fit(tokens(only_products), np.array([0.5]))
    c = GraphBuilder(1, 3, 16, 16)
    pooled = c.graph(c.add("softmax", [0], (1, 3, 16, 16), axis=1))
    assert 0 < gp.predict(tokens(pooled))[0] < 10.0
    assert gp.base.min() >= 0 and gp.base[:, TERMS.index("activations")].min() > 0


def test_state_makes_an_equal_process_and_refuses_another() -> None:
    gp, graphs = fitted()
    state = gp.state()
    equal = RooflineGP(SMALL).load_state(state)
    np.testing.assert_array_equal(equal.predict(tokens(*graphs)), gp.predict(tokens(*graphs)))
    with pytest.raises(ValueError, match=r"\(3,\) weights, not"):
        RooflineGP(SMALL).load_state({**state, "weights": np.zeros(3)})
    del state["directions.shared"]
    with pytest.raises(KeyError, match=r"directions.shared"):
        RooflineGP(SMALL).load_state(state)


def test_more_networks_than_wanted_are_sampled() -> None:
    graphs, latency_s = labelled_graphs(40)
    few = RooflineGP(RooflineGPConfig(features=8, networks=10))
    every = RooflineGP(SMALL)
    predicted = [
        p.fit(tokens(*graphs), latency_s * 1e3).predict(tokens(*graphs)) for p in (few, every)
    ]
    assert not np.allclose(predicted[0], predicted[1], rtol=1e-3)


@pytest.mark.parametrize("label", [math.nan, math.inf, 0.0, -1.0])
def test_latencies_that_are_none_are_refused(label: float) -> None:
    graphs, latency_s = labelled_graphs(3)
    with pytest.raises(ValueError, match="3 networks need as many positive finite latencies"):
        RooflineGP(SMALL).fit(tokens(*graphs), np.array([*latency_s[:2], label]))


@pytest.mark.parametrize(
    "settings",
    [
        {"members": 0},
        {"networks": 1.5},
        {"noise": 0.0},
        {"noise": math.nan},
        {"noise": 1.0},
        {"features": 1},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"members .* noise .* between 0 and 1"):
        RooflineGPRegressor(**settings)  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    graphs, latency_s = labelled_graphs(24)
    folder = RooflineGPRegressor(members=1, features=8).fit(graphs, latency_s).save(tmp_path / "gp")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"damaged|train it again|does not match"):
        RooflineGPRegressor.load(folder)


def test_a_checkpoint_of_another_table_is_refused(tmp_path, monkeypatch) -> None:
    graphs, latency_s = labelled_graphs(24)
    regressor = RooflineGPRegressor(members=1, features=8).fit(graphs, latency_s)
    monkeypatch.setattr("tvm_costmodel.tokenizer.roofline_terms.TABLE_VERSION", 0)
    folder = regressor.save(tmp_path / "gp")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"kernels are of version 0, .* train it again"):
        RooflineGPRegressor.load(folder)
