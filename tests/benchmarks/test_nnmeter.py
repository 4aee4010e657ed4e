"""What the nn-Meter benchmark keeps of a network is what each predictor's tokenizer makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.nn_meter import nnmeter_ablation
from benchmarks.nn_meter.nnmeter import run_gp
from benchmarks.nn_meter.nnmeter_encoding import Encoded, _plain_tokens
from benchmarks.nn_meter.nnmeter_networks import NETWORKS, run_networks, token_arrays
from benchmarks.nn_meter.nnmeter_tables import label_noise, tables
from tests.graphs import labelled_graphs
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.flops import power_law_columns
from tvm_costmodel.tokenizer import Tokenizer, TokenizerConfig
from tvm_costmodel.tokenizer.nnlp import NnlpTokenizer
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer
from tvm_costmodel.training.splits import Split

GRAPHS, LATENCY = labelled_graphs(12)
PLAIN = Tokenizer(TokenizerConfig(frequencies=0))
ARRAYS = {
    **_plain_tokens([PLAIN.encode(graph) for graph in GRAPHS]),
    "columns": power_law_columns(GRAPHS),
    "latency_ms": np.stack([LATENCY * 1e3, np.where(np.arange(12) == 2, np.nan, LATENCY)], 1),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_kept_tokens_are_the_tokenizers_own(name: str) -> None:
    own = NnlpTokenizer() if name == "nnlp" else Tokenizer(NETWORKS[name].tokens)
    for graph, kept in zip(GRAPHS, token_arrays(ARRAYS, name), strict=True):
        tokens = own.encode(graph)
        np.testing.assert_allclose(kept.features, tokens.features, atol=1e-6)
        np.testing.assert_allclose(kept.static, tokens.static, atol=1e-6)
        np.testing.assert_array_equal(kept.edges, tokens.edges)


def test_a_network_answers_for_every_device_of_every_split() -> None:
    at = np.arange(12)
    splits = [(0, Split("a", at[:8], at[8:10], at[10:])), (1, Split("b", at[4:], at[:2], at[2:4]))]
    settings = {"epochs": 2, "batch_size": 4}
    found = run_networks(ARRAYS, "nnlp", splits, settings, "cpu")
    assert [answers.shape for answers in found] == [(2, 2), (2, 2)]
    assert all(np.isfinite(answers).all() and (answers > 0).all() for answers in found)
    ratio = found[0][:, 0] / found[0][:, 1]
    assert (ratio > 100).all() and (ratio < 10000).all()  # labels are 1000 times apart
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        run_networks(ARRAYS, "nnlp", splits, {"epoch": 2}, "cpu")


def encoded_graphs() -> Encoded:
    """What is kept of the graphs for predictors that read physical tokens."""
    tokens = [PhysicalTokenizer().encode(graph) for graph in GRAPHS]
    joined = {
        name: np.concatenate([getattr(t, name) for t in tokens])
        for name in ("slot", "numbers", "work", "anchor", "edges")
    }
    return Encoded(
        {
            **joined,
            "latency_ms": ARRAYS["latency_ms"],
            "devices": np.array(["one", "other"]),
            "node_ptr": np.cumsum([0, *(len(t) for t in tokens)]),
            "edge_ptr": np.cumsum([0, *(len(t.edges) for t in tokens)]),
        }
    )


def test_a_gp_answers_for_every_device_from_the_networks_that_it_measured(
    tmp_path: Path,
) -> None:
    cache, at = tmp_path / "encoded.npz", np.arange(12)
    np.savez(cache, **encoded_graphs().arrays)
    split = Split("a", at[:8], at[8:10], at[10:])  # the other device did not measure network 2
    found = run_gp((cache, 0, split, {"features": 8}))
    assert found.shape == (2, 2) and (found > 0).all()
    ratio = found[:, 0] / found[:, 1]
    assert (ratio > 500).all() and (ratio < 2000).all()  # labels are 1000 times apart
    plain = run_gp((cache, 0, split, {"steps": 0}))
    assert not np.allclose(plain, found, rtol=1e-3)
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        run_gp((cache, 0, split, {"noises": 2}))


def test_an_ablation_changes_what_it_says_and_tells_known_families_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nnmeter_ablation, "RECIPE", {"epochs": 2, "batch_size": 4})
    encoded = encoded_graphs()
    at = np.arange(12)
    splits = [Split("vggs", at[:8], at[8:10], at[10:]), Split("resnets", at[4:], at[:2], at[2:4])]
    rows = [
        row
        for name in ("as it is", "no extents and channels", "a network for each device")
        for row in nnmeter_ablation.run(encoded, splits, name, 1, 0, "cpu")
    ]
    unknown = [row for row in rows if row["families"] == "unknown"]
    assert len(unknown) == 3 * 2 * 2
    assert {row["device"] for row in rows if row["families"] == "known"} == {
        nnmeter_ablation.ALL, "one", "other",
    }  # fmt: skip
    by_variant = {row["variant"]: row["mape"] for row in unknown if row["family"] == "vggs"}
    assert len(set(by_variant.values())) == 3
    table = nnmeter_ablation.tables(rows)
    assert "| no extents and channels   |" in table and "## Families known" in table


def test_a_table_shows_means_and_spreads_over_seeds() -> None:
    row = {"predictor": "nnlp", "split": "random", "part": "random", "device": "cpu"}
    rows = [{**row, "seed": s, "mape": 2.0 + s, "within_10": 90.0 + s} for s in (0, 1, 2)]
    assert "| nnlp        | 3.00 ± 1.00 / 91.0 |" in tables(rows)


def test_noise_is_what_a_predictor_of_the_true_latency_would_show() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(1.0, 100.0, 400)
    group = np.repeat(np.arange(400), 2 + np.arange(400) % 3)
    labels = true[group] * np.exp(rng.normal(0, 0.03, len(group)))
    hashes = [*map(str, group), "alone"]
    latency = np.append(labels, 5.0)[:, None]
    (row,) = label_noise(hashes, latency, ["cpu"])
    assert (row["networks"], row["groups"]) == (len(group), 400)
    assert row["mape"] == pytest.approx(100 * np.abs(true[group] / labels - 1).mean(), rel=0.08)
    (row,) = label_noise(["a", "a", "b"], np.array([[1.0], [3.0], [2.0]]), ["cpu"])
    assert row["mape"] == pytest.approx(100 * (2.0 + 2 / 3) / 2 * np.sqrt(0.5))
    assert row["within_10"] == 0.0
