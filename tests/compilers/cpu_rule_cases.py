"""Small modules for the CPU rule's tests, and a run of each with and without the rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
import tvm.relax.backend.cpu_generic.pipeline
from tvm import relax

from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig, CpuScheduleRule, schedule_module

Build = Callable[..., relax.Expr]


def target(cores: int = 1) -> tvm.target.Target:
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    return tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": cores})


def weights(*shape: int, seed: int = 0) -> relax.Expr:
    values = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    return relax.const(values * 0.5)


def fused_module(build: Build, shapes: Sequence[Sequence[int]]) -> tvm.IRModule:
    """Builds a one-function module, legalised and fused as the pipeline does it."""
    builder = relax.BlockBuilder()
    inputs = [
        relax.Var(f"x{i}", relax.TensorType(list(s), "float32")) for i, s in enumerate(shapes)
    ]
    with builder.function("main", inputs):
        with builder.dataflow():
            output = builder.emit_output(build(builder, *inputs))
        builder.emit_func_output(output)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    with target():
        return tvm.transform.Sequential(passes)(builder.get())


def run(mod: tvm.IRModule, shapes: Sequence[Sequence[int]], cores: int = 1) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(mod, target=target(cores)), tvm.cpu())
    rng = np.random.default_rng(1)
    inputs = [tvm.runtime.tensor(rng.standard_normal(list(s)).astype("float32")) for s in shapes]
    return machine["main"](*inputs).numpy()


def schedule(
    mod: tvm.IRModule, config: CpuRuleConfig | None = None, cores: int = 1
) -> tuple[tvm.IRModule, CpuScheduleRule]:
    rule = CpuScheduleRule(config)
    return schedule_module(mod, target(cores), rule), rule


def assert_same_result(
    build: Build,
    shapes: Sequence[Sequence[int]],
    template: str,
    config: CpuRuleConfig | None = None,
    cores: int = 1,
) -> tvm.IRModule:
    """Asserts that the template takes the function and that its result is the plain build's.

    Returns:
        The scheduled module.
    """
    mod = fused_module(build, shapes)
    scheduled, rule = schedule(mod, config, cores)
    assert template in rule.template_of.values(), (rule.template_of, rule.unscheduled)
    names = [name for name, used in rule.template_of.items() if used == template]
    assert not [u for u in rule.unscheduled if u.name in names]
    expected, got = run(mod, shapes), run(scheduled, shapes, cores)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)
    return scheduled
