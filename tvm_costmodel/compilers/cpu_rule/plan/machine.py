"""The properties of a CPU that the schedule rule uses, read from a TVM target."""

from __future__ import annotations

import dataclasses

import tvm

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig


@dataclasses.dataclass(frozen=True)
class Machine:
    """The CPU that a kernel is scheduled for.

    Attributes:
        lanes: float32 values in one vector.
        registers: Vector registers that the instruction set names.
        cores: Cores that parallel loops may use.
        l1_bytes: Level-1 data cache of one core, in bytes.
        l2_bytes: Level-2 cache of one core, in bytes.
    """

    lanes: int
    registers: int
    cores: int
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024

    @classmethod
    def from_target(cls, target: tvm.target.Target, config: CpuRuleConfig) -> Machine:
        """Reads vector width, register count and cores from an LLVM target.

        Args:
            target: A target of kind ``llvm``.
            config: Its ``vector_bits`` overrides the target's width, its ``parallel`` the cores.
        """
        features = set(tvm.target.codegen.llvm_get_cpu_features(target))
        wide = "avx512f" in features
        bits = config.vector_bits or _vector_bits(target, features)
        # AVX-512 and AArch64 name 32 vector registers, SSE and AVX2 16.
        registers = 32 if wide or "neon" in features else 16
        cores = int(target.attrs.get("num-cores", 1)) if config.parallel else 1
        return cls(lanes=bits // 32, registers=registers, cores=max(1, cores))


def _vector_bits(target: tvm.target.Target, features: set[str]) -> int:
    if "avx512f" in features:
        return 512
    if "avx" in features:
        return 256
    if "neon" in features or "sse2" in features:
        return 128
    return max(128, min(512, int(tvm.target.codegen.llvm_get_vector_width(target))))
