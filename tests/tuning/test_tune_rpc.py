"""Tuning for a board: a real RPC tracker and server on loopback."""

from __future__ import annotations

from pathlib import Path

from tests.compilers.networks_small import network
from tests.profiling.conftest import QUICK
from tests.profiling.test_rpc import KEY, tracker  # noqa: F401
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.tuning.tune import tune


def test_candidates_are_timed_and_compared_on_the_board(
    tracker: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    device = resolve_device("cpu").with_tracker(tracker, KEY)
    result = tune(
        network("dense"),
        predictor=KnownScorer({("algorithm", "winograd2"): -0.2}),
        measure=1,
        candidates=100,
        device=device,
        output=tmp_path / "out",
        measurement=QUICK,
    )
    assert result.report.device == device.name
    (trial,) = result.report.trials
    assert trial.status == "ok" and trial.max_abs_err is not None
    assert 0 < trial.max_abs_err < 1e-3, "Winograd differs a little from the direct convolution"
    assert (tmp_path / "out" / "model.tar").is_file()
    with Store(tmp_path / "out" / "measurements.db", write=False) as store:
        assert {row.device for row in store.measurements()} == {device.name}
