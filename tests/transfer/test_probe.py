"""The probe of this machine: tiny networks, really built and measured, correct a predictor."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.new_device.probe import expected_cost
from tests.graphs import labelled_graphs
from tvm_costmodel.cli import main
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.profiling.sources import Source, suite
from tvm_costmodel.transfer import probe as module
from tvm_costmodel.transfer.probe import CANDIDATES, ORDER, probe
from tvm_costmodel.tvm_version import has_relax
from tvm_costmodel.user_cache import VARIABLE, make_folder

ON_RELAX = pytest.mark.skipif(not has_relax(), reason="this environment's TVM has no Relax")
OTHER = "cpu-intel-f6m250"
FLOPS = "cpu-amd-zen5/flops"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six networks that take a fraction of a second each to build and measure."""

    def sources() -> Iterator[Source]:
        return islice(suite("quick", 40, 3, families=("squeezenet", "vgg", "encoder")), 6)

    monkeypatch.setattr(module, "_sources", sources)


def home() -> Regressor:
    """A predictor of another processor than whichever this is."""
    regressor = load_predictor(FLOPS).regressor
    regressor.card["device"] = OTHER
    return regressor


def test_the_order_has_each_candidate_once() -> None:
    assert sorted(ORDER) == list(range(CANDIDATES))


def test_cost_grows_with_what_is_built_and_with_the_latency() -> None:
    graphs, latency = labelled_graphs(20)
    cost = expected_cost(graphs, latency)
    assert (cost > 0.72).all()
    assert np.allclose(expected_cost(graphs, latency + 1.0) - cost, 21.0)
    longest = max(range(20), key=lambda i: len(graphs[i]))
    assert expected_cost([graphs[longest]], latency[:1]) >= cost.min()


@ON_RELAX
def test_a_probe_corrects_a_predictor_for_this_machine(
    cache: Path, tiny: None, caplog: pytest.LogCaptureFixture
) -> None:
    device = resolve_device("cpu")
    done = probe(home(), device, seconds=900, progress=False)
    assert done.measured == 6 and done.store == cache / device.name / "probe.db"
    summary = done.calibration
    assert (summary.device, summary.source, summary.predictor) == (device.name, OTHER, "flops")
    assert summary.networks == done.measured and summary.uncalibrated.n == done.measured
    labels = read_labels(done.store)
    own = load_predictor(device.name, "flops", device=device.name)
    assert own.device == device.name and not own.asked  # found in the cache, without a warning
    estimates = own.predict([record.graph for record in labels.records])
    measured = [record.latency_s for record in labels.records]
    assert [e.latency_s for e in estimates] == pytest.approx(measured, rel=0.5)
    caplog.clear()
    again = probe(home(), device, seconds=900, progress=False)  # goes on where it stopped
    assert again.measured == 0 and again.calibration.networks == done.measured


@ON_RELAX
def test_too_short_a_probe_is_refused_and_kept(
    cache: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--seconds", "0.001", "--from", FLOPS, "-q"]) == 2
    assert "0 networks were measured" in capsys.readouterr().err
    assert not list(cache.glob("*/flops"))


def test_one_probe_at_a_time(cache: Path, tiny: None) -> None:
    device = resolve_device("cpu")
    lock = make_folder(device.name) / "probe.db.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another probe is measuring into"):
            probe(home(), device, progress=False)


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert main(["calibrate", "--from", FLOPS]) == 2
    error = capsys.readouterr().err
    assert f"set {VARIABLE} to a folder of your own" in error and error.count("\n") == 1


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--store", "x.db", "--seconds", "5"]) == 2
    assert "--seconds is for measuring without --store" in capsys.readouterr().err
    assert main(["calibrate", "--store", "x.db"]) == 2
    assert "need --from CHECKPOINT and -o DIR" in capsys.readouterr().err
