"""Which processor this machine has, and which instructions its operating system offers.

A processor is named by its microarchitecture (``amd-zen5``), since latencies belong to that and not
to an instruction set: two processors with AVX-512 differ by a factor. The names follow the tables
of vendor, family and model in LLVM's ``llvm/lib/TargetParser/Host.cpp`` and Linux's
``arch/x86/include/asm/intel-family.h`` and ``arch/arm64/include/asm/cputype.h``.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_IDENTITY = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer",
             "CPU part")  # fmt: skip
_VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel", "HygonGenuine": "hygon"}
# Ranges of models, by family.
_AMD = {
    23: (("zen2", 0x30, 0xFF), ("zen", 0x00, 0x2F)),
    25: (("zen4", 0x10, 0x1F), ("zen4", 0x60, 0xAF), ("zen3", 0x00, 0x5F)),
    26: (("zen5", 0x00, 0x7F),),
}
_INTEL_FAMILY_6 = {
    "haswell": (60, 63, 69, 70),
    "broadwell": (61, 71, 79, 86),
    "skylake": (78, 94),
    "skylake-server": (85,),  # also Cascade Lake and Cooper Lake, by stepping
    "kabylake": (142, 158),
    "cometlake": (165, 166),
    "icelake": (125, 126, 157),
    "icelake-server": (106, 108),
    "tigerlake": (140, 141),
    "rocketlake": (167,),
    "alderlake": (151, 154, 190),
    "raptorlake": (183, 186, 191),
    "sapphirerapids": (143,),
    "emeraldrapids": (207,),
    "meteorlake": (170, 172),
    "arrowlake": (181, 197, 198),
    "lunarlake": (189,),
    "graniterapids": (173, 174),
}
_ARM = {  # implementer 0x41
    0xD03: "cortex-a53",
    0xD05: "cortex-a55",
    0xD08: "cortex-a72",
    0xD0B: "cortex-a76",
    0xD0C: "neoverse-n1",
    0xD0D: "cortex-a77",
    0xD40: "neoverse-v1",
    0xD41: "cortex-a78",
    0xD42: "cortex-a78ae",
    0xD49: "neoverse-n2",
    0xD4F: "neoverse-v2",
}
_INSTRUCTION_SETS = re.compile(
    r"(sse|ssse|pni|avx|fma|f16c|bmi|abm|popcnt|amx|vaes|vpclmul|gfni|sha_|neon|asimd|fphp|sve|sme"
    r"|bf16|i8mm|crc32)"
)
# What LLVM and Linux call the instruction sets that compute on vectors and matrices.
_LINUX_NAME = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
    "amx-fp16": "amx_fp16",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
}

_LINUX_NAME_OF_SCALARS = {
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "popcnt": "popcnt",
}
_LINUX_NAME_ON_ARM = {
    "neon": "asimd",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "lse": "atomics",
    "sve": "sve",
    "sve2": "sve2",
    "bf16": "bf16",
    "i8mm": "i8mm",
}


def cpuinfo() -> dict[str, str]:
    """Fields of the first processor in ``/proc/cpuinfo``; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.partition("\n\n")[0].splitlines()
    parts = (line.partition(":") for line in first)
    return {name.strip(): value.strip() for name, _, value in parts}


def identity() -> dict[str, str]:
    """What identifies this machine's processor: vendor, family, model, stepping and its name."""
    fields = cpuinfo()
    known = {name: fields[name] for name in _IDENTITY if name in fields}
    return known or {"model name": platform.processor() or platform.machine()}


def microarchitecture(cpu: Mapping[str, str]) -> str | None:
    """The name of a processor by vendor and microarchitecture, such as ``amd-zen5``.

    Args:
        cpu: Fields as `identity` gives them.

    Returns:
        A name of the form ``vendor-f6m200`` where the tables do not know the model; None where
        nothing identifies the processor.
    """
    vendor = _VENDORS.get(cpu.get("vendor_id", ""))
    try:
        if vendor is not None:
            family, model = int(cpu["cpu family"]), int(cpu["model"])
            return f"{vendor}-{_x86_name(vendor, family, model) or f'f{family}m{model}'}"
        implementer, part = int(cpu["CPU implementer"], 0), int(cpu["CPU part"], 0)
    except (KeyError, ValueError):
        return None
    known = _ARM.get(part) if implementer == 0x41 else None
    return f"arm-{known}" if known else f"arm-i{implementer:x}p{part:x}"


def is_microarchitecture(name: str) -> bool:
    """Whether `microarchitecture` can give a name, of this machine's processor or another."""
    vendor, _, rest = name.partition("-")
    known = {
        "amd": {entry[0] for entries in _AMD.values() for entry in entries},
        "intel": set(_INTEL_FAMILY_6),
        "arm": set(_ARM.values()),
    }.get(vendor, set())
    return rest in known or re.fullmatch("f[0-9]+m[0-9]+|i[0-9a-f]+p[0-9a-f]+", rest) is not None


def _x86_name(vendor: str, family: int, model: int) -> str | None:
    if vendor == "amd":
        return next((n for n, low, high in _AMD.get(family, ()) if low <= model <= high), None)
    if vendor == "intel" and family == 6:
        return next((n for n, models in _INTEL_FAMILY_6.items() if model in models), None)
    return None


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets that the operating system offers, by Linux' names; empty where unknown."""
    fields = cpuinfo()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return tuple(sorted(flag for flag in flags if _INSTRUCTION_SETS.match(flag)))


def not_offered(llvm_features: Iterable[str]) -> list[str]:
    """LLVM's switches for what a processor's name promises and this machine does not offer.

    A virtual machine may hide instructions of its processor: on one Emerald Rapids, AVX512-FP16,
    AVX512-BF16 and AMX. Code for the processor's name would end in an illegal instruction there.

    Args:
        llvm_features: Features that LLVM takes the processor to have.

    Returns:
        Switches such as ``-avx512fp16``, for a target's ``mattr``; none where it is not known what
        the machine offers.
    """
    offered = set(instruction_sets())
    promised = [name for name in llvm_features if name in _LINUX_NAME]
    return sorted(f"-{n}" for n in promised if _LINUX_NAME[n] not in offered) if offered else []


def needed_instruction_sets(llvm_features: Iterable[str]) -> list[str]:
    """Linux' names of the instruction sets that code for a processor may use, sorted.

    Those that LLVM uses only where a program names their instructions are left out.

    Args:
        llvm_features: Features that the code was generated for.
    """
    names = {**_LINUX_NAME, **_LINUX_NAME_OF_SCALARS, **_LINUX_NAME_ON_ARM}
    explicit = ("amx", "vaes", "vpclmul")
    return sorted(names[f] for f in llvm_features if f in names and not f.startswith(explicit))
