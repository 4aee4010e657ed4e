"""``relax_pipeline`` inside ``tvm.compile``: decided by prediction, or with measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm

import tvm_costmodel as tcm
from tests.compilers.networks_small import network
from tests.profiling.conftest import QUICK
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target
from tvm_costmodel.compilers.relax.verification import compare_outputs, random_inputs, run
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker.client import Worker

GAINS = {("algorithm", "winograd2"): -0.3, ("fusion", "depth2"): -0.1}


def test_prediction_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail("a worker was started"))
    mod, configs = network("residual"), []
    tuned = tcm.relax_pipeline(KnownScorer(GAINS), candidates=500, callback=configs.append)
    ex = tvm.compile(mod, cpu_target(), relax_pipeline=tuned)
    (config,) = configs
    assert config.fuse_depth == 2
    assert {i: d.to_dict() for i, d in config.kernels} == {1: {"algorithm": "winograd2"}}
    inputs = random_inputs(mod)
    expected = run(build(mod, cpu_target()).executable, inputs)
    got = run(ex, inputs)
    assert compare_outputs(got, expected, rtol=1e-4).equal
    assert not np.array_equal(got[0], expected[0]), "Winograd was decided but not compiled"


def test_with_measurements_it_keeps_what_it_finds(tmp_path: Path) -> None:
    mod, configs = network("dense"), []
    store = tmp_path / "m.db"
    tuned = tcm.relax_pipeline(
        KnownScorer(GAINS),
        measure=1,
        candidates=200,
        store=store,
        measurement=QUICK,
        callback=configs.append,
    )
    ex = tvm.compile(mod, cpu_target(), relax_pipeline=tuned)
    with Store(store, write=False) as opened:
        (row,) = opened.measurements(variants=True, status=None)
        assert row.status == "ok"
    assert configs[0].key in (row.config_key, PipelineConfig().key)
    inputs = random_inputs(mod)
    expected = run(build(mod, cpu_target()).executable, inputs)
    assert compare_outputs(run(ex, inputs), expected, rtol=1e-3).equal


def test_what_cannot_be_is_refused_at_once() -> None:
    for arguments, words in (
        ({"measure": -1}, "measure is -1"),
        ({"store": "m.db"}, "measure is 0 with store"),
        ({"tolerance": 0.0}, "positive number"),
    ):
        with pytest.raises(ConfigError, match=words):
            tcm.relax_pipeline(KnownScorer({}), **arguments)
    pipeline = tcm.relax_pipeline(KnownScorer({}))
    target = tvm.target.Target({"kind": "llvm", "mcpu": "btver2"})
    with pytest.raises(ConfigError, match="not that of device"):
        tvm.compile(network("dense"), target, relax_pipeline=pipeline)
