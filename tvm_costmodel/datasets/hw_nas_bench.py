"""HW-NAS-Bench: latency and energy of NAS-Bench-201's networks on six devices.

Li et al., ICLR 2021. Published as ``HW-NAS-Bench-v1_0.pickle``, which cannot be read without
running code from the file; this module reads the same content as JSON: ``nasbench201`` -> data
set -> metric (``raspi4_latency`` in ms, ``eyeriss_energy`` in mJ, ...) -> a number per
architecture, and ``config`` -> the architectures. Its tables of FBNet's operators are not read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_costmodel.datasets.readers import located, positive, read_bytes, read_json
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import nasbench201_cell

DEVICES = ("edgegpu", "raspi4", "edgetpu", "pixel3", "eyeriss", "fpga")
"""Devices with latencies; ``eyeriss`` and ``fpga`` are estimates."""

_CONVERT = (
    "python -c \"import json, pickle, sys; json.dump(pickle.load(open(sys.argv[1], 'rb')), "
    'sys.stdout, default=lambda v: v.tolist())" HW-NAS-Bench-v1_0.pickle > HW-NAS-Bench-v1_0.json'
)


@dataclass(frozen=True)
class HardwareCell:
    """One cell on the devices.

    Attributes:
        index: Its number in the file.
        graph: The cell (see `nas.cells`).
        latency_s: Device -> seconds; devices without a measurement (null) are left out.
        energy_j: Device -> joules, where the file has it.
    """

    index: int
    graph: OpGraph
    latency_s: Mapping[str, float]
    energy_j: Mapping[str, float]


def read_hw_nas_bench(
    path: str | os.PathLike[str],
    data_set: str = "cifar10",
    devices: Sequence[str] = DEVICES,
) -> list[HardwareCell]:
    """Reads the part on NAS-Bench-201, converted to JSON.

    Args:
        path: JSON, gzipped or not.
        data_set: ``cifar10``, ``cifar100`` or ``ImageNet16-120``, which sets the resolution.
        devices: Devices to read.

    Raises:
        ModelFileError: The file is the pickle itself (the message has the command that converts
            it), cannot be read, is truncated or of another version, or a label is zero, negative
            or NaN.
    """
    if read_bytes(path)[:1] in (b"\x80", b"("):
        raise ModelFileError(
            f"{path}: a pickle, which cannot be read without running code from the file; convert "
            f"it once where you trust it: {_CONVERT}"
        )
    columns = _columns(read_json(path), path, data_set)
    names = _architectures(columns.pop("config", None), path)
    wanted = {
        name: values
        for name, values in columns.items()
        if name.rpartition("_")[0] in devices and name.endswith(("_latency", "_energy"))
    }
    missing = [device for device in devices if f"{device}_latency" not in wanted]
    uneven = [name for name, values in wanted.items() if len(values) != len(names)]
    if missing or uneven:
        raise _other_version(
            path,
            f"no latency of {', '.join(missing)}"
            if missing
            else f"{len(names)} architectures and {len(wanted[uneven[0]])} values of {uneven[0]}",
        )
    return [_cell(i, arch, wanted, path) for i, arch in enumerate(names)]


def _columns(content: Any, path: str | os.PathLike[str], data_set: str) -> dict[str, Any]:
    sets = content.get("nasbench201") if isinstance(content, dict) else None
    if not isinstance(sets, dict):
        raise _other_version(path, "nothing under nasbench201")
    columns = sets.get(data_set)
    if not isinstance(columns, dict):
        raise ModelFileError(
            f"{path}: no data set {data_set!r}; the file has {', '.join(sets) or 'none'}"
        )
    return dict(columns)


def _architectures(config: Any, path: str | os.PathLike[str]) -> list[str]:
    if isinstance(config, dict):  # JSON has turned the numbers into text
        config = [config[key] for key in sorted(config, key=int)] if _numbered(config) else None
    if not isinstance(config, list) or not config:
        raise _other_version(path, "no list of architectures under config")
    names = [entry.get("arch_str") if isinstance(entry, dict) else entry for entry in config]
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) < len(names):
        raise _other_version(path, "an architecture without arch_str")
    return texts


def _numbered(config: Mapping[str, Any]) -> bool:
    return all(key.isdigit() for key in config)


def _cell(
    index: int, arch: str, columns: Mapping[str, Any], path: str | os.PathLike[str]
) -> HardwareCell:
    measured: dict[str, dict[str, float]] = {"latency": {}, "energy": {}}
    for name, values in columns.items():
        device, _, metric = name.rpartition("_")
        if values[index] is not None:
            number = positive(values[index], f"{path}: cell {index}, {name}")
            measured[metric][device] = number / 1e3
    with located(path, f"cell {index}"):
        graph = nasbench201_cell(arch)
    return HardwareCell(index, graph, measured["latency"], measured["energy"])


def _other_version(path: str | os.PathLike[str], what: str) -> ModelFileError:
    return ModelFileError(
        f"{path}: of another version, or not HW-NAS-Bench: {what}; convert it again: {_CONVERT}"
    )
