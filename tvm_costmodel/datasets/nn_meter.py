"""nn-Meter's bench: 26,000 convolutional networks measured on four mobile and edge devices.

Zhang et al., "nn-Meter", MobiSys 2021. Two forms: the published one, a ``.jsonl`` per family, and
an archive of arrays (``.npz``) that holds most of it in a thousandth of the space. Neither form
states the padding, which follows from the extents (see `tf_graph`).
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.datasets.tf_graph import TensorflowNode, to_graph
from tvm_costmodel.errors import GraphError, ModelFileError, UnsupportedOperatorError
from tvm_costmodel.graph.op_graph import OpGraph

DEVICES = (
    "cortexA76cpu_tflite21",
    "adreno640gpu_tflite21",
    "adreno630gpu_tflite21",
    "myriadvpu_openvino2019r2",
)
"""The four measured devices, as the published files name them."""

_ARRAYS = {
    "families": 1,
    "op_vocab": 1,
    "feat_cols": 1,
    "label_cols": 1,
    "family": 1,
    "label_ms": 2,
    "node_ptr": 1,
    "edge_ptr": 1,
    "op": 1,
    "feat": 2,
    "edge": 2,
}
_COLUMNS = "in_n in_h in_w in_c in_x k_h k_w k_in k_out s_h s_w out_n out_h out_w out_c out_x"


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network of the published form.

    Attributes:
        name: Its id.
        graph: The network, batch 1.
        latency_s: Device -> seconds; devices that did not measure it are left out.
    """

    name: str
    graph: OpGraph
    latency_s: Mapping[str, float]


class NnMeterBench:
    """The archive of arrays; a graph is built when `graph` is called.

    Args:
        path: The ``.npz`` file.

    Attributes:
        devices: Measured devices, in the order of ``latency_s``.
        families: Family of each network.
        latency_s: float64 [G, devices], NaN where not measured.

    Raises:
        ModelFileError: The file cannot be read, is truncated, holds something else, or a label is
            zero, negative or infinite.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        arrays = _load(path)
        _check(arrays, path)
        self._arrays = arrays
        self._vocabulary = [str(name) for name in arrays["op_vocab"]]
        self.devices = tuple(str(name) for name in arrays["label_cols"])
        self.families = tuple(str(arrays["families"][i]) for i in arrays["family"])
        self.latency_s: np.ndarray = arrays["label_ms"].astype(np.float64) / 1e3
        bad = np.argwhere(~np.isnan(self.latency_s) & ~(self.latency_s > 0))
        bad = bad if len(bad) else np.argwhere(np.isinf(self.latency_s))
        if len(bad):
            row, device = bad[0]
            raise ModelFileError(
                f"{path}: the latency of network {row} on {self.devices[device]} is "
                f"{arrays['label_ms'][row, device]} ms: labels are positive finite numbers, or NaN "
                "where not measured; download the file again"
            )

    def __len__(self) -> int:
        return len(self.families)

    def graph(self, i: int) -> OpGraph:
        """Network ``i``, batch 1.

        Raises:
            GraphError: Its record is inconsistent.
        """
        first, end = (int(at) for at in self._arrays["node_ptr"][i : i + 2])
        begin, stop = (int(at) for at in self._arrays["edge_ptr"][i : i + 2])
        inputs: list[list[int]] = [[] for _ in range(end - first)]
        for source, target in self._arrays["edge"][begin:stop].tolist():
            inputs[target].append(source)
        ops, rows = self._arrays["op"][first:end].tolist(), self._arrays["feat"][first:end].tolist()
        nodes = [
            TensorflowNode(
                op=self._vocabulary[op],
                inputs=tuple(reads),
                shape=_shape(row[11:]),
                kernel=(row[5], row[6], row[7], row[8]),
                strides=(row[9], row[10]) if row[9] else (1, 1),
            )
            for op, row, reads in zip(ops, rows, inputs, strict=True)
        ]
        return to_graph(nodes, f"{self.families[i]}_{i}")


def read_nnmeter_jsonl(path: str | os.PathLike[str]) -> Iterator[MeasuredNetwork]:
    """Reads one published family, a network at a time.

    Args:
        path: A ``.jsonl`` file, one JSON object per line: ``id``, a latency in milliseconds per
            device (null where not measured) and ``graph``, node name -> attributes and neighbours.

    Raises:
        ModelFileError: A line cannot be read or is no such record, there is none, or a label is
            not positive and finite.
        GraphError: A network's nodes do not fit together.
        UnsupportedOperatorError: An operator has no translation.
    """
    for where, line in _lines(path):
        name, nodes, latency = _record(line, where)
        try:
            yield MeasuredNetwork(name, to_graph(nodes, name), latency)
        except (GraphError, UnsupportedOperatorError) as error:
            raise type(error)(f"{where}: {error}") from None


def pack_nnmeter(paths: Sequence[Path], archive: Path) -> int:
    """Writes published families as the archive of arrays that `NnMeterBench` reads.

    Args:
        paths: The published ``.jsonl`` files; a family is called as its file.
        archive: The ``.npz`` file to write.

    Returns:
        Number of networks.

    Raises:
        ModelFileError: A line is no network, or has a dilation, which the archive cannot hold.
    """
    vocabulary: dict[str, int] = {}
    family, label_ms, op, feat, edge = [], [], [], [], []
    node_ptr, edge_ptr = [0], [0]
    for number, path in enumerate(paths):
        for where, line in _lines(path):
            _, nodes, latency = _record(line, where)
            if any(node.dilation != (1, 1) for node in nodes):
                raise ModelFileError(
                    f"{where}: a dilated convolution, which an archive cannot hold"
                )
            family.append(number)
            label_ms.append([1e3 * latency.get(device, math.nan) for device in DEVICES])
            for node in nodes:
                op.append(vocabulary.setdefault(node.op, len(vocabulary)))
                shape = (*node.shape, 0, 0, 0, 0, 0)[:5]
                feat.append((0, 0, 0, 0, 0, *node.kernel, *node.strides, *shape))
            edge += [(read, i) for i, node in enumerate(nodes) for read in node.inputs]
            node_ptr.append(len(op))
            edge_ptr.append(len(edge))
    np.savez_compressed(
        archive,
        families=np.array([path.stem for path in paths]),
        op_vocab=np.array(list(vocabulary)),
        feat_cols=np.array(_COLUMNS.split()),
        label_cols=np.array(DEVICES),
        family=np.array(family, np.int8),
        label_ms=np.array(label_ms, np.float32),
        node_ptr=np.array(node_ptr),
        edge_ptr=np.array(edge_ptr),
        op=np.array(op, np.int16),
        feat=np.array(feat, np.int32),
        edge=np.array(edge, np.int32),
    )
    return len(family)


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Where each network of a published file stands, and its line."""
    any_network = False
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}, line {number}", line
                    any_network = True
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read ({error}); check the path") from None
    if not any_network:
        raise ModelFileError(f"{path}: the file holds no networks; download it again")


def _load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in _ARRAYS}
    except KeyError as error:
        raise ModelFileError(
            f"{path}: an archive of something else: {error.args[0]}; needed are "
            f"{', '.join(_ARRAYS)}"
        ) from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file; check the path") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelFileError(
            f"{path}: damaged or truncated, or no .npz archive ({error}); download it again"
        ) from None


def _check(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Refuses arrays that do not belong together."""
    sizes = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    graphs, last = sizes["family"], {"node_ptr": sizes["op"], "edge_ptr": sizes["edge"]}
    consistent = all(array.ndim == _ARRAYS[name] for name, array in arrays.items())
    consistent = consistent and " ".join(map(str, arrays["feat_cols"])) == _COLUMNS
    consistent = (
        consistent and arrays["feat"].shape == (sizes["op"], 16) and arrays["edge"].shape[1] == 2
    )
    consistent = consistent and arrays["label_ms"].shape == (graphs, sizes["label_cols"])
    consistent = consistent and all(
        sizes[name] == graphs + 1 and int(arrays[name][-1]) == end for name, end in last.items()
    )
    consistent = consistent and all((np.diff(arrays[name]) >= 0).all() for name in last)
    for name, names in (("op", "op_vocab"), ("family", "families")):
        ids = arrays[name]
        consistent = consistent and not (
            len(ids) and not 0 <= ids.min() <= ids.max() < sizes[names]
        )
    if not consistent:
        raise ModelFileError(
            f"{path}: the arrays do not fit together, or are of another version: "
            f"sizes {sizes}; download the file again"
        )


def _record(line: str, where: str) -> tuple[str, list[TensorflowNode], dict[str, float]]:
    """Name, nodes and seconds by device of a published line."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ModelFileError(f"{where}: damaged or truncated JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("graph"), dict):
        raise ModelFileError(f"{where}: no network of nn-Meter's bench: it needs id and graph")
    latency = {}
    for device in DEVICES:
        value = record.get(device)
        if value is None or value == "":
            continue
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise ModelFileError(
                f"{where}: the latency on {device} is {value!r}: labels are positive finite "
                "milliseconds, or null where not measured"
            )
        latency[device] = value / 1e3
    try:
        return str(record.get("id", "")), _nodes(record["graph"]), latency
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelFileError(
            f"{where}: a node is incomplete ({type(error).__name__}: {error})"
        ) from None


def _nodes(graph: Mapping[str, Any]) -> list[TensorflowNode]:
    number = {name: i for i, name in enumerate(graph)}
    nodes = []
    for name, record in graph.items():
        attr = record["attr"]
        own = attr.get("attr") or {}
        weight = own.get("weight_shape") or (*_pair(own.get("kernel_shape"), own, "ksize"), 0, 0)
        shapes = attr.get("output_shape") or [[]]
        nodes.append(
            TensorflowNode(
                op=str(attr["type"]),
                # weights are no nodes of the record
                inputs=tuple(number[read] for read in record["inbounds"] if read in number),
                shape=_shape(shapes[0]),
                kernel=(int(weight[0]), int(weight[1]), int(weight[2]), int(weight[3])),
                strides=_pair(own.get("strides"), own, "strides"),
                dilation=_pair(own.get("dilations"), own, "dilations"),
                name=name,
            )
        )
    return nodes


def _pair(value: Sequence[int] | None, own: Mapping[str, Any], other: str) -> tuple[int, int]:
    """Height and width, from two numbers or from four in NHWC order; 1 and 1 when absent."""
    extents = value or own.get(other) or (1, 1)
    height, width = extents[1:3] if len(extents) == 4 else extents
    return int(height), int(width)


def _shape(extents: Sequence[int]) -> tuple[int, ...]:
    """Extents without trailing zeros; an unknown batch is 1."""
    shape = [int(extent) for extent in extents]
    while shape and not shape[-1]:
        shape.pop()
    if len(shape) > 1 and shape[0] < 1:
        shape[0] = 1
    return tuple(shape)
