"""The networks that tuning with Relay is benchmarked on, and their sources for the profiler.

Three are those of ``tvm.relay.testing``, three are written by the workload families with sizes of
their own. None may be among the labels, which `refuse_labelled` checks by content hash.

Not a benchmark itself; `relay_tuning` uses it. What is here runs where TVM has Relay.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.frontends import from_json
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.sources import FileSource, Source, WorkloadSource, source_from_dict

TESTING: Mapping[str, tuple[str, dict[str, Any]]] = {
    "squeezenet": ("squeezenet", {"version": "1.1", "image_shape": (3, 128, 128)}),
    "resnet18": ("resnet", {"num_layers": 18, "image_shape": (3, 96, 96)}),
    "mobilenet": ("mobilenet", {"image_shape": (3, 128, 128)}),
}
"""Modules of ``tvm.relay.testing`` and their arguments."""

WRITTEN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "vgg11": (
        "vgg",
        {"image": 64, "classes": 100, "depths": [1, 1, 2, 2, 2], "width": 64, "dense": [512],
         "batch_norm": False},
    ),
    "vit": (
        "vit",
        {"image": 112, "patch": 16, "classes": 100, "width": 192, "heads": 3, "depth": 4,
         "ratio": 4.0, "norm_first": True, "act": "gelu", "gelu": "erf", "fused_qkv": False,
         "class_token": True},
    ),
    "encoder": (
        "encoder",
        {"tokens": 96, "classes": 2, "width": 256, "heads": 4, "depth": 3, "ratio": 4.0,
         "norm_first": False, "act": "gelu", "gelu": "erf", "fused_qkv": False,
         "output": "tokens"},
    ),
}  # fmt: skip
"""Workload families and parameters."""

NETWORKS = (*TESTING, *WRITTEN)


def write_networks(folder: Path, names: tuple[str, ...] = NETWORKS) -> None:
    """Writes each network's source and its graph before any pass; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        graph_file = folder / f"{name}.graph.json"
        if graph_file.exists():
            continue
        source = _source(name, folder)
        _, graph = source.load()
        write_atomically(folder / f"{name}.source.json", json.dumps(source.to_dict()))
        write_atomically(graph_file, graph.to_json())


def read_graph(folder: Path, name: str) -> OpGraph:
    """A network's graph before any pass."""
    return from_json((folder / f"{name}.graph.json").read_text())


def read_source(folder: Path, name: str) -> Source:
    """The source of a network for the profiler."""
    return source_from_dict(json.loads((folder / f"{name}.source.json").read_text()))


def refuse_labelled(folder: Path, hashes: set[str], names: tuple[str, ...] = NETWORKS) -> None:
    """Checks that none of the networks is labelled.

    Raises:
        SystemExit: One of them is.
    """
    labelled = [name for name in names if read_graph(folder, name).hash in hashes]
    if labelled:
        raise SystemExit(f"{', '.join(labelled)}: there are labels of this very network")


def _source(name: str, folder: Path) -> Source:
    if name in WRITTEN:
        family, params = WRITTEN[name]
        return WorkloadSource(family, params, "relay")
    tvm: Any = importlib.import_module("tvm")
    relay: Any = importlib.import_module("tvm.relay")
    kind, settings = TESTING[name]
    module, params = importlib.import_module(f"tvm.relay.testing.{kind}").get_workload(**settings)
    module["main"] = relay.build_module.bind_params_by_name(module["main"], params)
    path = folder / f"{name}.module.json"
    write_atomically(path, tvm.ir.save_json(relay.transform.InferType()(module)))
    return FileSource(str(path.resolve()), compiler="relay")
