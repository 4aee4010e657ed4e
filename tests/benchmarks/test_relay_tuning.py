"""The benchmark of tuning with Relay: its stages on made-up latencies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.graph_tuning import tuning_pool
from benchmarks.relay.relay_networks import read_graph, refuse_labelled
from benchmarks.relay.relay_tuning import CONFIRMED, POOL, VERIFIED, Bench, relay_device
from tests.graphs import resnet_graph
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.compilers.relay.config import RelayConfig
from tvm_costmodel.profiling.measuring.record import Measurement, Timing, measurement_key
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

GAINS = {("opt_level", 0): 0.5, ("opt_level", 1): 0.3, ("opt_level", 2): -0.1}
GAINS |= {("fusion", "depth2"): -0.15, ("fusion", "depth4"): -0.05, ("layout", "NHWC"): 0.9}
TRUTH = KnownScorer(GAINS)
MISTAKEN = KnownScorer({key: -gain for key, gain in GAINS.items()})
GRAPH = resnet_graph()
SPACE = DecisionSpace.for_graph(GRAPH, compiler="relay")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    real = tuning_pool.load_scorer

    def load(predictor, space, device, seed):
        assert space.compiler == "relay"
        known = {"right": TRUTH, "wrong": MISTAKEN}.get(predictor)
        return (known, "") if known else real(predictor, space, device, seed)

    monkeypatch.setattr(tuning_pool, "load_scorer", load)
    made = Bench(
        tmp_path, ("wrong", "ours=right"), None, ("net",), 2, 4, 20, results=tmp_path / "results"
    )
    made.places.mkdir()
    (made.places / "net.graph.json").write_text(GRAPH.to_json())
    return made


def put(folder: Path, store: str, candidate: Candidate) -> None:
    """A row as measuring where TVM has Relay leaves it; the default takes 1 ms."""
    fields = {**SPACE.config_fields(candidate), "random_constants": store != VERIFIED}
    config = RelayConfig.from_dict(fields)
    seconds = math.exp(TRUTH.log_latency(candidate)) * 1e-3
    visits, beside = ((seconds, 1e-4),) * 2, ((1e-3, 1e-4),) * 2
    times = (seconds, seconds / 1e-4, {}, (seconds,), 1, 1.0, 1.0, 0, 1e-4, 0.0, visits)
    errors = {"max_abs_err": 1e-6, "max_rel_err": 2e-5} if store == VERIFIED else {}
    row = Measurement(
        key=measurement_key(GRAPH.hash, relay_device().name, config.key),
        graph_hash=GRAPH.hash,
        graph=GRAPH.to_json(),
        device=relay_device().name,
        config_key=config.key,
        pipeline={"config": config.to_dict(), "decisions": candidate.to_dict()},
        family="file",
        source={"kind": "file", "path": "x", "compiler": "relay"},
        source_key="x",
        status="ok",
        timing=Timing(**{**vars(Timing(*times)), "baseline_blocks": beside, **errors}),
    )
    with Store(folder / store) as opened:
        opened.put_measurement(row)


def test_stages_go_on_until_all_is_measured_and_the_table_tells_strategies_apart(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = []
    while asked := bench.plan():
        for store, listed in asked["net"].items():
            kinds.append(store)
            assert len(kinds) < 60 and listed
            for fields in listed:
                put(bench.folder, store, Candidate.from_dict(fields))
    assert kinds[0] == POOL and kinds[-1] == VERIFIED and CONFIRMED in kinds
    bench.table()
    shown = capsys.readouterr().out
    (table,) = (bench.folder / "results").glob("relay_tuning.*.md")
    told = json.loads(table.with_suffix(".json").read_text())["net"]
    assert told["measured"] >= 20 and told["unfinished"] == 0 and told["joint_size"] == SPACE.size
    best = Candidate.from_dict(told["best"]["candidate"])
    assert dict(best.network)["opt_level"] == 2 and dict(best.network)["fusion"] == "depth2"
    assert told["best"]["ratio"] == pytest.approx(math.exp(-0.25))
    rows = {line.split("|")[1].strip(): line for line in shown.splitlines() if line.startswith("|")}
    assert "100.0" in rows["ours"] and "1.284 ± " in rows["ours"]
    assert "77.9" in rows["wrong"] and "1.000 ± " in rows["wrong"]
    assert "2.0e-05" in rows["net"] and "opt_level 2" in rows["net"]


def test_labelled_networks_are_refused(bench: Bench) -> None:
    assert read_graph(bench.places, "net").hash == GRAPH.hash
    refuse_labelled(bench.places, {"other"}, ("net",))
    with pytest.raises(SystemExit, match="net: there are labels of this very network"):
        refuse_labelled(bench.places, {GRAPH.hash}, ("net",))
