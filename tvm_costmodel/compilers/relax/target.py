"""Targets for Relax builds, and what their processors compute by themselves."""

from __future__ import annotations

import tvm

from tvm_costmodel.errors import DeviceError
from tvm_costmodel.processor import not_offered

# What LLVM calls float16 arithmetic: AVX512-FP16, and FEAT_FP16 of Arm.
_FLOAT16_FEATURES = frozenset(("avx512fp16", "fullfp16"))
_GPUS = frozenset(("cuda", "rocm", "metal"))


def cpu_target(threads: int = 1, mcpu: str | None = None) -> tvm.target.Target:
    """Makes the TVM target for a CPU.

    Args:
        threads: Cores that a network may use.
        mcpu: LLVM's name of the processor, e.g. ``znver4``; this machine's where absent, without
            the instructions that the operating system does not offer.

    Raises:
        DeviceError: LLVM does not know the processor, or ``threads`` is not positive.
    """
    if threads < 1:
        raise DeviceError(f"threads is {threads}; use 1 or more")
    known = tvm.target.codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm"))
    if mcpu is not None and mcpu not in known:
        raise DeviceError(
            f"LLVM does not know the processor {mcpu!r}; `llc -mcpu=help` lists the names, "
            f"this machine's is {tvm.target.codegen.llvm_get_system_cpu()!r}"
        )
    config = {
        "kind": "llvm",
        "mcpu": mcpu or tvm.target.codegen.llvm_get_system_cpu(),
        "num-cores": threads,
    }
    target = tvm.target.Target(config)
    if mcpu is None:
        hidden = not_offered(tvm.target.codegen.llvm_get_cpu_features(target))
        target = tvm.target.Target({**config, "mattr": hidden}) if hidden else target
    return target


def has_half_arithmetic(target: tvm.target.Target) -> bool:
    """Whether a target computes in half precision by itself, instead of converting each value."""
    if target.kind.name != "llvm":
        return target.kind.name in _GPUS
    return not _FLOAT16_FEATURES.isdisjoint(tvm.target.codegen.llvm_get_cpu_features(target))
