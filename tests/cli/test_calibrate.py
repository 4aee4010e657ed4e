"""``profile --select`` and ``calibrate``: a predictor of one device, moved to another."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_commands import refused, run_json
from tests.graphs import labelled_graphs
from tests.profiling.labels import write_store
from tvm_costmodel.cli import main
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.train import train
from tvm_costmodel.profiling.label_files.networks import SHIPPED, export_dataset, read_labels
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.transfer.calibration import choose_networks
from tvm_costmodel.transfer.workflow import learned_networks
from tvm_costmodel.tvm_version import has_relax

GRAPHS, LATENCY = labelled_graphs(200)
POOL, _ = labelled_graphs(150, seed=7)  # what the board may measure
TEST, _ = labelled_graphs(80, seed=5)
BOARD = "rpi4"
ON_RELAX = pytest.mark.skipif(not has_relax(), reason="this environment's TVM has no Relax")


def slower(graph: OpGraph) -> float:
    """A second imaginary machine: 20 GFLOP/s, 3 GB/s, 5 us an operator."""
    return sum(5e-6 + max(cost.flops / 20e9, cost.bytes / 3e9) for cost in graph.costs)


OTHER = np.array([slower(graph) for graph in TEST])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XGBoost of an imaginary machine, as `train` leaves it."""
    labels = LabelledGraphs(
        tuple(GRAPHS),
        LATENCY,
        ("plain",) * len(GRAPHS),
        tuple(graph.hash for graph in GRAPHS),
        "cpu-a",
    )
    folder = tmp_path_factory.mktemp("trained") / "model"
    return train(labels, "xgboost", folder, settings={"rounds": 400}).checkpoint


@pytest.fixture(scope="module")
def selected(trained: Path) -> list[OpGraph]:
    """Ten networks, selected as `profile --select` does."""
    regressor = load_predictor(trained).regressor
    return [POOL[i] for i in choose_networks(regressor, POOL, 10)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, selected: list[OpGraph]) -> str:
    path = tmp_path_factory.mktemp("store") / "board.db"
    return write_store(path, selected, map(slower, selected), BOARD)


def calibrate(trained: Path, store: str | Path, folder: Path) -> tuple[str, ...]:
    return ("calibrate", "--from", str(trained), "--store", str(store), "-o", str(folder))


def test_ten_measurements_make_a_checkpoint_of_the_board(
    capsys: pytest.CaptureFixture[str], trained: Path, store: str, tmp_path: Path
) -> None:
    result = run_json(capsys, *calibrate(trained, store, tmp_path / "board"))
    assert result["checkpoint"] == str(tmp_path / "board")
    assert (result["device"], result["calibrated_from"]) == (BOARD, "cpu-a")
    assert (result["predictor"], result["networks"], result["learned"]) == ("xgboost", 10, 0)
    before, factor, after = (
        result[k]["mape"] for k in ("uncalibrated", "one_factor", "calibrated")
    )
    assert 50 < before < 70 and after < factor < 40 and after < 25
    assert result["calibrated"]["n"] == 10
    assert result["interval"]["low"] < 1 < result["interval"]["high"]
    assert result["interval"]["coverage"] == pytest.approx(9 / 11)  # the range of ten errors

    moved = load_predictor(tmp_path / "board", device=BOARD)
    errors = [mape(p.regressor.predict(TEST), OTHER) for p in (load_predictor(trained), moved)]
    assert errors[0] > 50 and errors[1] < 15  # on networks that nothing was fitted to
    card = moved.regressor.card
    assert card["device"] == BOARD and card["calibrated_on"] == 10 and "test" not in card
    assert card["leave_one_out"]["mape"] == pytest.approx(after)
    assert card["calibration_set"] == LabelledGraphs.of(read_labels(store)).hash


def test_the_checkpoint_predicts_for_the_board_alone(
    capsys: pytest.CaptureFixture[str], trained: Path, store: str, tmp_path: Path
) -> None:
    run_json(capsys, *calibrate(trained, store, tmp_path / "board"))
    model = tmp_path / "graph.json"
    model.write_text(TEST[0].to_json())
    argv = ("predict", str(model), "--checkpoint", str(tmp_path / "board"), "--device")
    result = run_json(capsys, *argv, BOARD)
    assert result["device"] == BOARD and result["predictor"] == "xgboost"
    assert result["latency_ms"] == pytest.approx(OTHER[0] * 1e3, rel=0.3)
    assert result["low_ms"] < result["latency_ms"] < result["high_ms"]
    message = refused(capsys, *argv, "cpu-amd-zen5")
    assert f"trained for {BOARD}" in message and "`tvm-costmodel calibrate`" in message
    argv = ("predict", str(model), "--checkpoint", str(trained), "--device", BOARD)
    assert "trained for cpu-a" in refused(capsys, *argv)


def test_the_table_sets_the_errors_side_by_side(
    capsys: pytest.CaptureFixture[str], trained: Path, store: str, tmp_path: Path
) -> None:
    assert main(calibrate(trained, store, tmp_path / "board")) == 0
    shown = capsys.readouterr()
    names = ("uncalibrated, as for cpu-a", "scaled by one factor", "calibrated")
    rows = [line for line in shown.out.splitlines() if line.startswith(names)]
    assert len(rows) == 3
    assert "10 networks of rpi4; each of 10 predicted from the others' measurements" in shown.out
    assert f"--checkpoint {tmp_path / 'board'} --device rpi4" in shown.out
    assert "WARNING" not in shown.err


def test_store_and_exported_file_give_the_same_checkpoint(
    capsys: pytest.CaptureFixture[str], trained: Path, store: str, tmp_path: Path
) -> None:
    with Store(store, write=False) as opened:
        export_dataset(opened, tmp_path / "board.jsonl.xz")
    result = [
        run_json(capsys, *calibrate(trained, source, tmp_path / "board"))
        for source in (store, tmp_path / "board.jsonl.xz")
    ]
    assert result[0] == result[1]


def test_networks_that_the_predictor_knows_do_not_narrow_the_interval(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    trained: Path,
    selected: list[OpGraph],
    tmp_path: Path,
) -> None:
    learned = learned_networks(load_predictor(trained).regressor.card)
    assert learned is not None and len(learned) == 180
    known = [graph for graph in GRAPHS if graph.hash in learned][:12]
    graphs = [*selected[:6], *known]
    mixed = write_store(tmp_path / "mixed.db", graphs, map(slower, graphs), BOARD)
    result = run_json(capsys, *calibrate(trained, mixed, tmp_path / "board"))
    assert (result["networks"], result["learned"], result["calibrated"]["n"]) == (18, 12, 6)
    assert result["interval"]["n"] == 6
    assert "trained on 12 of the 18 measured networks" in caplog.text

    graphs = [*selected[:4], *known]
    narrow = write_store(tmp_path / "narrow.db", graphs, map(slower, graphs), BOARD)
    message = refused(capsys, *calibrate(trained, narrow, tmp_path / "other"))
    assert "labels of 16 networks on rpi4, 12 of which the predictor was trained on" in message
    assert "--select 10" in message
    assert not (tmp_path / "other").exists()


def test_a_predictor_that_does_not_know_its_networks_says_so(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    trained: Path,
    store: str,
    tmp_path: Path,
) -> None:
    older = load_predictor(trained).regressor
    older.card = {key: value for key, value in older.card.items() if key != "learned"}
    older.save(tmp_path / "older")
    result = run_json(capsys, *calibrate(tmp_path / "older", store, tmp_path / "board"))
    assert result["learned"] is None and result["calibrated"]["n"] == 10
    assert "not on record" in caplog.text


def test_labels_that_cannot_calibrate_are_refused(
    capsys: pytest.CaptureFixture[str], trained: Path, store: str, tmp_path: Path
) -> None:
    folder = tmp_path / "board"
    few = write_store(tmp_path / "few.db", POOL[:4], map(slower, POOL[:4]), BOARD)
    message = refused(capsys, *calibrate(trained, few, folder))
    assert "labels of 4 networks on rpi4: measure at least 5 others" in message
    own = write_store(tmp_path / "own.db", POOL[:9], map(slower, POOL[:9]), "cpu-a")
    assert "trained for cpu-a" in refused(capsys, *calibrate(trained, own, folder))
    write_store(tmp_path / "few.db", POOL[:9], map(slower, POOL[:9]), "jetson-orin-cpu")
    message = refused(capsys, *calibrate(trained, few, folder))
    assert "jetson-orin-cpu, rpi4; name one with --device" in message
    message = refused(capsys, *calibrate(trained, store, folder), "--device", "jetson-orin-cpu")
    assert "no labels" in message and "jetson-orin-cpu" in message
    missing = tmp_path / "none.db"
    assert "none.db" in refused(capsys, *calibrate(trained, missing, folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.db", "own.db"]


def cut(lines: list[str]) -> bytes:
    return lzma.compress("\n".join(lines).encode())[:-40]


def changed(**timing: object) -> Callable[[list[str]], bytes]:
    """The file with other numbers in its last label."""

    def write(lines: list[str]) -> bytes:
        label = json.loads(lines[-1])
        label["timing"] |= timing
        return lzma.compress("\n".join([*lines[:-1], json.dumps(label)]).encode())

    return write


def without(name: str) -> Callable[[list[str]], bytes]:
    """The file whose last label lacks a field."""

    def write(lines: list[str]) -> bytes:
        label = {key: value for key, value in json.loads(lines[-1]).items() if key != name}
        return lzma.compress("\n".join([*lines[:-1], json.dumps(label)]).encode())

    return write


def other_version(lines: list[str]) -> bytes:
    header = json.loads(lines[0]) | {"version": 2}
    return lzma.compress("\n".join([json.dumps(header), *lines[1:]]).encode())


def bare_header(lines: list[str]) -> bytes:
    header = {key: value for key, value in json.loads(lines[0]).items() if key != "pipeline_key"}
    return lzma.compress("\n".join([json.dumps(header), *lines[1:]]).encode())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "is damaged"),
        (changed(relative=0.0), "relative is 0.0"),
        (changed(relative=-2.0), "relative is -"),
        (changed(relative=float("nan")), "relative is nan"),
        (changed(relative=float("inf")), "relative is inf"),
        (changed(relative="fast"), "line 11 is no label (TypeError: 'fast' is no number"),
        (changed(relative=None), "line 11 is no label (TypeError: None is no number"),
        (without("timing"), "line 11 is no label (KeyError: 'timing')"),
        (without("graph_hash"), "line 11 is no label (KeyError"),
        (other_version, "label format 2"),
        (bare_header, "header lacks pipeline_key"),
    ],
)
@pytest.mark.parametrize("command", ["calibrate", "train"])
def test_bad_label_files_are_refused_and_nothing_written(
    capsys: pytest.CaptureFixture[str],
    trained: Path,
    store: str,
    tmp_path: Path,
    spoil: Callable[[list[str]], bytes],
    message: str,
    command: str,
) -> None:
    path = tmp_path / "board.jsonl.xz"
    with Store(store, write=False) as opened:
        export_dataset(opened, path)
    path.write_bytes(spoil(lzma.decompress(path.read_bytes()).decode().splitlines()))
    argv = calibrate(trained, path, tmp_path / "board")
    if command == "train":
        argv = ("train", *argv[3:], "--predictor", "flops")
    assert message in refused(capsys, *argv)
    assert list(tmp_path.iterdir()) == [path]


def test_predictors_and_directories_that_do_not_fit_are_refused(
    capsys: pytest.CaptureFixture[str], trained: Path, store: str, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    message = refused(capsys, *calibrate(trained, store, folder))
    assert "is not a checkpoint" in message
    message = refused(capsys, *calibrate(tmp_path / "none", store, tmp_path / "board"))
    assert "none" in message and "tvm-costmodel train" in message
    former = Path("cpu-amd-zen5/kernel_former")
    message = refused(capsys, *calibrate(former, store, tmp_path / "board"))
    assert "for `tvm-costmodel tune`" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "note.txt"]


@ON_RELAX
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "quick", "--select", "5"], "--calibrate-for cpu-amd-zen5/roofline_former"),
        (["--select", "5", "--calibrate-for", "TRAINED"], "needs networks to select from"),
        (["--suite", "quick", "--calibrate-for", "TRAINED"], "need --select N"),
        (["--suite", "quick", "--strategy", "random"], "need --select N"),
        (
            ["--suite", "quick", "--select", "5", "--calibrate-for", "nowhere"],
            "no checkpoint 'nowhere'",
        ),
        (
            ["--suite", "quick", "--count", "4", "--select", "5", "--calibrate-for", "TRAINED"],
            "cannot choose 5 of 4 candidates",
        ),
        (
            ["--suite", "quick", "--select", "5", "--calibrate-for", "cpu-amd-zen5/xgboost"],
            "was trained for cpu-amd-zen5",
        ),
    ],
)
def test_selections_that_cannot_be_made_are_refused(
    capsys: pytest.CaptureFixture[str],
    trained: Path,
    tmp_path: Path,
    argv: list[str],
    message: str,
) -> None:
    options = [str(trained) if word == "TRAINED" else word for word in argv]
    where = ("--device", "cpu-amd-zen5", "--store", str(tmp_path / "m.db"))
    assert message in refused(capsys, "profile", *options, *where)
    assert list(tmp_path.iterdir()) == []


@ON_RELAX
@pytest.mark.slow
def test_two_commands_make_a_predictor_of_this_machine(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "mine.db")
    argv = [
        "--suite",
        "quick",
        "--count",
        "10",
        "--select",
        "5",
        "--calibrate-for",
        str(trained),
        "-q",
    ]
    result = run_json(capsys, "profile", *argv, "--store", path)
    assert (result["measured"], result["failed"]) == (5, 0)
    assert len({network["family"] for network in result["networks"]}) >= 4
    again = run_json(capsys, "profile", *argv, "--store", path)
    assert (again["measured"], again["reused"]) == (0, 5)
    hashes = [[n["graph_hash"] for n in run["networks"]] for run in (result, again)]
    assert hashes[0] == hashes[1]
    moved = run_json(capsys, *calibrate(trained, path, tmp_path / "mine"))
    assert moved["networks"] == 5 and moved["device"] == result["device"]
    assert moved["calibrated"]["mape"] < moved["uncalibrated"]["mape"]


@pytest.mark.slow
def test_a_shipped_predictor_learns_a_board_whose_memory_is_slow(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The labels that ship, made 4 to 28 times as long: three times, and 4 GB/s on top."""
    source = Path("cpu-amd-zen5/xgboost")
    known = load_predictor(source).regressor
    labels = LabelledGraphs.of(read_labels(SHIPPED / "cpu-amd-zen5.jsonl.xz", keep_stale=True))
    learned = learned_networks(known.card)
    assert learned is not None
    new = labels.subset([i for i, key in enumerate(labels.hashes) if key not in learned])
    assert len(new) == 168
    seconds = 3.0 * new.latency_s + np.array([graph.bytes for graph in new.graphs]) / 4e9
    at = choose_networks(known, new.graphs, 10)
    board = write_store(tmp_path / "b.db", [new.graphs[i] for i in at], seconds[at], BOARD)
    result = run_json(capsys, *calibrate(source, board, tmp_path / "board"))
    assert (result["networks"], result["learned"]) == (10, 0)
    rest = np.setdiff1d(np.arange(len(new)), at)
    graphs, measured = [new.graphs[i] for i in rest], seconds[rest]
    before = known.predict(graphs)
    factor = np.median(seconds[at] / known.predict([new.graphs[i] for i in at]))
    moved = load_predictor(tmp_path / "board", device=BOARD).regressor
    after = moved.predict(graphs)
    errors = [mape(answers, measured) for answers in (before, factor * before, after)]
    assert errors[0] > 80 and errors[1] > 30 and errors[2] < 18
    assert result["calibrated"]["mape"] > errors[2]  # chosen networks are unlike one another
    low, high = moved.bounds(after)
    assert ((low <= measured) & (measured <= high)).mean() > 0.9
