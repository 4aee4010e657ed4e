"""The tuning benchmark: replays on a pool of made-up latencies, its figures, and its stages."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import onnx
import pytest

from benchmarks.graph_tuning import engines, tuning_pool
from benchmarks.graph_tuning.graph_tuning import main
from benchmarks.graph_tuning.tuned_networks import (
    QUICK_NETWORKS,
    read_graphs,
    refuse_trained,
    write_networks,
)
from benchmarks.graph_tuning.tuning_figures import (
    against_engines,
    engine_speedup,
    fixed_choices,
    network_figures,
    shares,
    tables,
    whole_space,
)
from benchmarks.graph_tuning.tuning_measure import LEVELS, RULE, Plan, policies
from benchmarks.graph_tuning.tuning_pool import (
    FINAL,
    FIRST,
    NetworkPool,
    NotMeasuredYet,
    Pool,
    everywhere,
)
from benchmarks.graph_tuning.tuning_settings import Settings
from benchmarks.graph_tuning.tuning_strategies import Strategy
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.compilers.relax.config import PipelineConfig
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.measuring.record import Measurement, Timing, measurement_key
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate

GAINS = {
    ("layout", "NCHW"): 0.7,
    ("fusion", "depth4"): -0.02,
    ("algorithm", "winograd2"): -0.2,
    ("algorithm", "winograd4"): -0.3,
    ("algorithm", "im2col"): 0.4,
    ("accumulators", 16): -0.05,
    ("loop_order", "pixels"): -0.03,
}
TRUTH = KnownScorer(GAINS)
MISTAKEN = KnownScorer({key: -gain for key, gain in GAINS.items()})
STRATEGIES = (Strategy("random", ("random",)), Strategy("wrong", ("wrong",)))
OURS = Strategy("ours", ("right", "right"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OpGraph:
    folder = tmp_path_factory.mktemp("networks")
    write_networks(folder, ["two_convolutions"])
    return read_graphs(folder, ["two_convolutions"])["two_convolutions"]


@pytest.fixture
def network(graph, tmp_path, monkeypatch) -> NetworkPool:
    real = tuning_pool.load_scorer

    def load(predictor, space, device, seed):
        known = {"right": TRUTH, "wrong": MISTAKEN}
        return (
            (known[predictor], "") if predictor in known else real(predictor, space, device, seed)
        )

    monkeypatch.setattr(tuning_pool, "load_scorer", load)
    return opened(graph, tmp_path)


def opened(graph: OpGraph, folder) -> NetworkPool:
    pool = Pool.open(folder, resolve_device("cpu"))
    return NetworkPool("net", graph, pool, folder, 8)


def put(
    network: NetworkPool,
    candidate: Candidate,
    level: int = FIRST,
    fails: bool = False,
    luck: float = 1.0,
) -> None:
    """A row as the profiler would leave it; the default takes 1 ms."""
    config = network.space.config(candidate)
    seconds = math.exp(TRUTH.log_latency(candidate)) * 1e-3 * luck
    visits, beside = ((seconds, 1e-4),) * 2, ((1e-3, 1e-4),) * 2
    timing = Timing(seconds, seconds / 1e-4, {}, (seconds,), 1, 1.0, 1.0, 0, 1e-4, 0.0, visits)
    network.pool.stores[level].put_measurement(
        Measurement(
            key=measurement_key(network.graph.hash, network.pool.device.name, config.key),
            graph_hash=network.graph.hash,
            graph=network.graph.to_json(),
            device=network.pool.device.name,
            config_key=config.key,
            pipeline={"config": config.to_dict(), "decisions": candidate.to_dict()},
            family="file",
            source={"kind": "file", "path": "x"},
            source_key="x",
            status="build_failed" if fails else "ok",
            timing=None if fails else Timing(**{**vars(timing), "baseline_blocks": beside}),
        )
    )


def fill(network: NetworkPool, plan: Plan, batch: int = 7, fails=lambda candidate: False) -> int:
    """Measures what is wanted until nothing is; how many visits that took."""
    for visit in itertools.count():
        kind, candidates = plan.next(network)
        if not candidates:
            return visit
        assert visit < 200
        for candidate in candidates[:batch]:
            put(network, candidate, LEVELS[kind], fails(candidate))
    raise AssertionError


def test_the_pool_fills_until_every_strategy_is_through_and_shares_tell_them_apart(
    network, graph, tmp_path
):
    plan = Plan((*STRATEGIES, OURS), seeds=3, candidates=40, bred=5)
    with pytest.raises(NotMeasuredYet):
        network.replay(OURS, 0)
    fill(network, plan)
    found = network_figures(network, plan)
    assert found["unfinished"] == 0 and len(found["runs"]) == 9
    assert found["measured"] >= 40 and 3 <= found["confirmed"] < found["measured"]
    returned = {run["winner"]["operators"]["1"]["algorithm"] for run in found["runs"][:1]}
    assert 3 <= found["compared"] <= found["confirmed"] and returned == {"winograd4"}
    assert all(1 <= run["measured"] <= 8 for run in found["runs"])
    told = {name: shares({"net": found}, name) for name in ("random", "wrong", "ours")}
    assert told["ours"]["mean"] == pytest.approx(100, abs=0.1)
    assert told["wrong"]["mean"] < told["random"]["mean"] < told["ours"]["mean"]
    assert told["wrong"]["speedup"] == pytest.approx(1.0)  # the default beat all that it measured
    assert told["random"]["runs"] == 3 and told["random"]["spread"] > 0
    best = math.log(found["best"]["ratio"])
    assert best == pytest.approx(min(map(TRUTH.log_latency, network.rows())))
    # another program that comes later finds all as it is, and asks no predictor
    TRUTH.scored.clear()
    again = network_figures(opened(graph, tmp_path), plan)
    assert again == found and not TRUTH.scored


def test_the_best_known_is_what_is_fastest_when_measured_anew(network):
    lucky, steady = (
        Candidate.of({(1, "algorithm"): "winograd2", (1, "accumulators"): n}) for n in (16, 20)
    )
    put(network, lucky, luck=0.9)
    put(network, steady)
    assert network.best == lucky
    put(network, lucky, FINAL, luck=1.3)
    put(network, steady, FINAL)
    assert network.fastest(2) == [lucky, steady]  # what chooses candidates stays what it was
    assert network.best == steady
    put(network, steady, FINAL, luck=2.0)
    assert network.best == network.space.default


def test_candidates_that_fail_are_measured_once_and_chosen_by_nobody(network):
    def fails(candidate: Candidate) -> bool:
        return "winograd4" in candidate.to_json()

    plan = Plan((OURS,), seeds=1, candidates=30, bred=2)
    fill(network, plan, fails=fails)
    found = network_figures(network, plan)
    assert found["failed"] > 0
    assert "winograd2" in json.dumps(found["best"]) and "winograd4" not in json.dumps(found["best"])
    assert found["fixed"]["algorithm winograd4"] is None
    row = next(r for r in fixed_choices({"net": found}) if r["policy"] == "algorithm winograd4")
    assert (row["speedup"], row["failed"]) == (1.0, 1)


def test_what_the_first_seed_wants_and_the_fixed_choices_come_first(network):
    plan = Plan((OURS, *STRATEGIES), seeds=2, candidates=10)
    kind, candidates = plan.next(network)
    first = plan.replays(network, 0).wanted
    assert kind == "pool" and set(candidates[: len(set(first))]) == set(first)
    fixed = {p.candidate(network) for p in policies()} - {Candidate()} - set(first)
    assert set(candidates[len(set(first)) :][: len(fixed)]) == fixed


def test_fixed_choices_decide_everywhere_and_only_where_it_is_allowed(network):
    space = network.space
    winograd = everywhere(space, {"algorithm": "winograd2"})
    places = [c.operator for c in space.choices if c.decision.name == "algorithm"]
    assert [i for i, _, _ in winograd.entries] == [i for i in places if i >= 0]
    assert everywhere(space, {"layout": "NCHW", "algorithm": "winograd2"}).entries == (
        (NETWORK, "layout", "NCHW"),
    )
    assert everywhere(space, {"batch_norm": "decompose"}) == Candidate()
    names = [policy.name for policy in policies()]
    assert names[0] == "rule default" and "weight_dtype float16" not in names
    assert {"accumulators 28", "vectors 4", "loop_order pixels", "fusion off"} < set(names)
    kinds = {policy.name: policy.kind for policy in policies()}
    assert kinds["accumulators 28"] == RULE != kinds["algorithm winograd4"]


def made_up() -> dict[str, object]:
    """Figures of two networks, one of them timed."""
    network = {
        "graph_hash": "", "joint_size": 1000, "measured": 80, "failed": 1, "confirmed": 9,
        "best": {"candidate": {}, "ratio": 0.5}, "unfinished": 0,
        "fixed": {policy.name: 1.0 for policy in policies()} | {"layout NCHW": 0.8},
    }  # fmt: skip
    runs = [{"strategy": "ours", "seed": s, "ratio": r} for s, r in enumerate((0.5, 0.5))]
    networks = {"a": {**network, "runs": runs}, "b": {**network, "runs": runs}}
    times = [
        {"network": "a", "threads": 1, "failed": {"torch.compile": "no such operator"},
         "ms": {"default": 2.0, "onnxruntime": 0.5, "tvm": 200.0},
         "kernels": [["conv", "winograd", 3, 0.75], ["pool", "rows", 1, 0.25]]},
    ]  # fmt: skip
    report = {"seconds": {"builds": 30.0, "runs": 10.0}, "trials": [{}] * 10, "speedup": 2.0}
    tunes = {"a": {"wall_s": 60.0, "report": {**report, "joint_space": 1}}}
    return {
        "settings": {"strategies": {"random": ["random"], "ours": ["right"]}},
        "networks": networks,
        "strategies": {name: shares(networks, name) for name in ("random", "ours")},
        "fixed": fixed_choices(networks),
        "engines": against_engines(times, networks, "ours"),
        "tunes": whole_space(tunes, networks),
        "throughput": None,
    }


def test_figures_by_hand():
    figures = made_up()
    assert figures["strategies"]["random"] is None
    assert figures["strategies"]["ours"]["mean"] == pytest.approx(100.0)
    best = figures["fixed"][0]
    assert best["policy"] == "layout NCHW" and best["speedup"] == pytest.approx(1.25)
    # the default's 2 ms at a ratio of a half
    assert engine_speedup(figures["engines"], "tvm", 1) == (pytest.approx(200.0), 1)
    assert engine_speedup(figures["engines"], "onnxruntime", 1)[0] == pytest.approx(0.5)
    assert engine_speedup(figures["engines"], "onnxruntime", 2)[1] == 0
    (tune,) = figures["tunes"]
    assert (tune["candidate_s"], tune["space_s"], tune["pool_s"]) == (4.0, 4000.0, 320.0)


def test_the_table_names_what_is_missing_and_the_kernels_that_lose():
    text = tables(made_up(), "ours")
    assert "Missing: engines on 1 threads: b; engines on 2 threads: a, b; whole tunes: b" in text
    assert "candidates scored a second" in text and "runs of random on every network" in text
    assert "a, 1 threads, torch.compile: no such operator" in text
    assert "75" in next(line for line in text.splitlines() if "| conv" in line)
    assert "nan" not in text


def test_no_network_is_among_the_labels(graph):
    assert refuse_trained({"net": graph}) > 1000


def test_an_uneven_average_pool_is_rewritten_to_the_same():
    node = onnx.helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]
    )
    value = onnx.helper.make_tensor_value_info
    inner = onnx.helper.make_node("Relu", ["w"], ["x"])
    shapes = {"w": [1, 2, 6, 6], "y": [1, 2, 3, 3]}
    ends = {name: value(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    made = onnx.helper.make_graph([inner, node], "pool", [ends["w"]], [ends["y"]])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    data = {"w": np.random.default_rng(0).random((1, 2, 6, 6), dtype=np.float32)}
    (expected,) = engines.session(model).run(None, data)
    (found,) = engines.session(engines.with_even_pools(model)).run(None, data)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pipeline_of_the_default_candidate_is_the_default(network):
    assert network.space.config(Candidate()).key == PipelineConfig().key
    assert list(network.missing([Candidate()])) == []


@pytest.mark.slow
def test_the_stages_run_and_go_on_where_they_stopped(tmp_path, capsys):
    words = ["--quick", "--folder", str(tmp_path / "bench")]
    assert main(["prepare", "plan", "measure", *words]) == 0
    assert "all measured" in capsys.readouterr().out
    assert main(["measure", "times", "tune", "speed", "table", *words]) == 0
    figures = json.loads(next((tmp_path / "bench").glob("graph_tuning.*.json")).read_text())
    assert set(figures["networks"]) == set(QUICK_NETWORKS)
    assert figures["strategies"]["ours"]["runs"] == 2
    assert set(figures["tunes"][0]) >= {"tune_s", "pool_s"}
    assert Settings().ours == "kernel_former"
