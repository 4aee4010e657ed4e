"""Builds of one network that share their kernels: equal results, nothing compiled twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.compilers.networks_small import network
from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import KernelDecision
from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target
from tvm_costmodel.compilers.relax.shared_kernels import SharedKernels
from tvm_costmodel.compilers.relax.verification import random_inputs, run
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.tunable_ops import tunable_operators


@pytest.fixture(scope="module")
def mod() -> tvm.IRModule:
    return network("residual")


def configs(mod: tvm.IRModule) -> list[PipelineConfig]:
    operators = [i for some in tunable_operators(from_relax(mod)).values() for i in some]
    first = ((operators[0], KernelDecision(accumulators=12, vectors_per_tile=1)),)
    return [PipelineConfig(), PipelineConfig(kernels=first), PipelineConfig(layout="NCHW")]


def test_variants_compute_what_builds_of_their_own_do(mod: tvm.IRModule, tmp_path: Path) -> None:
    shared, inputs = SharedKernels(), random_inputs(mod)
    compiled = []
    for config in configs(mod):
        variant = build(mod, cpu_target(), config, shared)
        alone = build(mod, cpu_target(), config)
        for got, want in zip(
            run(variant.executable, inputs), run(alone.executable, inputs), strict=True
        ):
            np.testing.assert_array_equal(got, want)
        assert variant.kernels == alone.kernels
        compiled.append(len(shared._library_of))
    assert compiled[1] == compiled[0] + 1  # the kernel that was decided otherwise
    assert compiled[2] > compiled[1]
    path = variant.export(tmp_path / "model.so")  # of several libraries
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    got = machine["main"](*(tvm.runtime.tensor(x) for x in inputs)).numpy()
    np.testing.assert_array_equal(got, run(alone.executable, inputs)[0])
