"""Predictors asked about a processor that they did not learn on: a warning and a wide interval."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from tests.graphs import resnet_graph
from tvm_costmodel.cli import main
from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.models import ZOO
from tvm_costmodel.predictors.conformal import OTHER_PROCESSOR, SCALED
from tvm_costmodel.predictors.loading import load_predictor, zoo
from tvm_costmodel.profiling.devices import resolve_device, this_machine
from tvm_costmodel.profiling.measuring.speed_test import speed_of
from tvm_costmodel.user_cache import VARIABLE, Speed, keep_speed

HOME, OTHER = "cpu-amd-zen5", "cpu-intel-f6m250"
FLOPS = ZOO / HOME / "flops"


@pytest.mark.parametrize(
    ("name", "device"), [(f"{OTHER}/flops", None), (FLOPS, OTHER), (f"{HOME}/flops", OTHER)]
)
def test_another_processor_gets_a_warning_and_a_wide_interval(
    name: str | Path, device: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    at_home = load_predictor(f"{HOME}/flops", device=HOME).predict(resnet_graph())
    assert not caplog.records and not at_home.asked
    with caplog.at_level(logging.WARNING):
        estimate = load_predictor(name, device=device).predict(resnet_graph())
    (record,) = caplog.records
    assert f"learned on {HOME}, and {OTHER} is another processor" in record.getMessage()
    assert "`tvm-costmodel calibrate`" in record.getMessage()
    assert (estimate.device, estimate.asked) == (HOME, OTHER)
    assert estimate.latency_s == at_home.latency_s
    low, high = OTHER_PROCESSOR
    assert estimate.low_s == pytest.approx(low * at_home.low_s)
    assert estimate.high_s == pytest.approx(high * at_home.high_s)


def test_answers_are_scaled_by_the_reference_kernels_time_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    at_home = load_predictor(f"{HOME}/flops").predict(resnet_graph())
    home_s = json.loads((FLOPS / "checkpoint.json").read_text())["machine"]["reference_s"]
    keep_speed(OTHER, Speed(1.5 * home_s))
    estimate = load_predictor(f"{HOME}/flops", device=OTHER).predict(resnet_graph())
    assert estimate.latency_s == pytest.approx(1.5 * at_home.latency_s)
    assert estimate.low_s == pytest.approx(1.5 * SCALED[0] * at_home.low_s)
    assert estimate.high_s == pytest.approx(1.5 * SCALED[1] * at_home.high_s)
    assert "answers are multiplied by 1.5, the speed of a reference kernel" in caplog.text
    (tmp_path / "speed" / f"{OTHER}.json").write_text('{"reference_s": -1, "doubtful": false}')
    unscaled = load_predictor(f"{HOME}/flops", device=OTHER).predict(resnet_graph())
    assert unscaled.latency_s == at_home.latency_s


def test_this_machines_speed_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    here = this_machine()
    seconds = speed_of(here)
    assert seconds is not None and 1e-4 < seconds < 1
    keep_speed(here.name, Speed(0.25))
    assert speed_of(here) == 0.25
    keep_speed(here.name, Speed(1e-9, doubtful=True))
    assert speed_of(here) == 1e-9  # measured again, and the least is taken
    assert speed_of(resolve_device("rpi4")) is None


def test_a_checkpoint_alone_is_for_whatever_it_learned_on(caplog: pytest.LogCaptureFixture) -> None:
    estimate = load_predictor(FLOPS).predict(resnet_graph())
    assert estimate.device == HOME and not estimate.asked and not caplog.records


@pytest.mark.parametrize(
    "device", ["rpi4", "cpu-arm-neoverse-n1", f"{OTHER}-2t", f"{OTHER}-relay", "my-board"]
)
def test_other_kinds_of_devices_are_refused(device: str) -> None:
    with pytest.raises(CheckpointError, match=f"trained for {HOME}, and {device} was asked for"):
        load_predictor(FLOPS, device=device)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_predictor(f"{device}/flops")


def test_the_command_says_what_was_asked_for(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = tmp_path / "graph.json"
    model.write_text(resnet_graph().to_json())
    argv = ["predict", str(model), "--checkpoint", str(FLOPS), "--device", OTHER]
    assert main([*argv, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["device"], answer["asked_for"]) == (HOME, OTHER)
    assert answer["high_ms"] / answer["low_ms"] > OTHER_PROCESSOR[1] / OTHER_PROCESSOR[0]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"flops learned on {HOME}, and {OTHER} is another")


def test_what_was_made_for_this_user_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    own = tmp_path / OTHER / "flops"
    shutil.copytree(FLOPS, own)
    card = json.loads((own / "checkpoint.json").read_text())
    (own / "checkpoint.json").write_text(json.dumps({**card, "device": OTHER}))
    assert zoo()[0].path == own and len(zoo()) == len(zoo(ZOO)) + 1
    loaded = load_predictor(OTHER, "flops", device=OTHER)
    assert (loaded.device, loaded.asked) == (OTHER, "") and not caplog.records
