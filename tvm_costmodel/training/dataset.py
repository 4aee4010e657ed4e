"""Measured networks as a data set for training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.training.kernel_labels import Kernel

Kernels = Sequence[Kernel]

LONGEST_S = 1e6
"""Longest label, eleven days: beyond it is no latency of one pass."""


class LabelRecord(Protocol):
    """The fields of one measured network, as label files hold them."""

    @property
    def graph(self) -> OpGraph: ...  # noqa: D102
    @property
    def graph_hash(self) -> str: ...  # noqa: D102
    @property
    def latency_s(self) -> float: ...  # noqa: D102
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def kernels(self) -> Kernels: ...  # noqa: D102


class LabelSet(Protocol):
    """The labels of one device, such as `profiling.label_files.networks.read_labels` gives."""

    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def pipeline_key(self) -> str: ...  # noqa: D102
    @property
    def records(self) -> Sequence[LabelRecord]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class LabelledGraphs:
    """Networks and their measured latencies on one device.

    Attributes:
        graphs: The networks.
        latency_s: float64 [G], measured seconds.
        families: Family of each network.
        hashes: Content hash of each network.
        device: Device that was measured.
        pipeline_key: Compile pipeline of the measured builds.
        kernels: Measured kernels of each network; empty where no kernels were timed.
    """

    graphs: tuple[OpGraph, ...]
    latency_s: np.ndarray
    families: tuple[str, ...]
    hashes: tuple[str, ...]
    device: str = ""
    pipeline_key: str = ""
    kernels: tuple[Kernels, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.graphs, self.latency_s)
        if not len(self.graphs) == len(self.families) == len(self.hashes):
            raise ConfigError(
                f"{len(self.graphs)} graphs, {len(self.families)} families and "
                f"{len(self.hashes)} hashes: give one of each per network"
            )

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def hash(self) -> str:
        """Content hash of graphs and latencies, independent of their order; 16 hex digits."""
        return training_set_hash(self.device, self.pipeline_key, self.hashes, self.latency_s)

    def subset(self, indices: np.ndarray | Sequence[int]) -> LabelledGraphs:
        """The networks at ``indices``, in that order."""
        order = [int(i) for i in indices]
        return LabelledGraphs(
            graphs=tuple(self.graphs[i] for i in order),
            latency_s=self.latency_s[order],
            families=tuple(self.families[i] for i in order),
            hashes=tuple(self.hashes[i] for i in order),
            device=self.device,
            pipeline_key=self.pipeline_key,
            kernels=tuple(self.kernels[i] for i in order) if self.kernels else (),
        )

    @classmethod
    def of(cls, labels: LabelSet) -> LabelledGraphs:
        """The data set of the labels of one device."""
        return cls(
            graphs=tuple(record.graph for record in labels.records),
            latency_s=np.array([record.latency_s for record in labels.records]),
            families=tuple(record.family for record in labels.records),
            hashes=tuple(record.graph_hash for record in labels.records),
            device=labels.device,
            pipeline_key=labels.pipeline_key,
            kernels=tuple(record.kernels for record in labels.records),
        )


def training_set_hash(
    device: str, pipeline_key: str, hashes: Sequence[str], latency_s: Sequence[float] | np.ndarray
) -> str:
    """Content hash of labels, independent of their order; 16 hex digits.

    Args:
        device: Device that was measured.
        pipeline_key: Compile pipeline of the measured builds.
        hashes: Content hash of each network.
        latency_s: Seconds of each network.
    """
    rows = sorted(f"{key} {latency:.6g}" for key, latency in zip(hashes, latency_s, strict=True))
    text = "\n".join([device, pipeline_key, *rows])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_labels(graphs: Sequence[OpGraph], latency_s: np.ndarray) -> np.ndarray:
    """Checks labels and returns them as float64 [G].

    Raises:
        ConfigError: The numbers of labels and graphs differ, there are none, or a label is not a
            positive finite number of seconds.
    """
    latency = np.asarray(latency_s, dtype=np.float64)
    if latency.shape != (len(graphs),) or not len(graphs):
        raise ConfigError(
            f"got {len(graphs)} graphs and labels of shape {latency.shape}: "
            "give one latency in seconds per graph, and at least one graph"
        )
    bad = np.flatnonzero(~(np.isfinite(latency) & (latency > 0) & (latency <= LONGEST_S)))
    if len(bad):
        raise ConfigError(
            f"label {bad[0]} is {latency[bad[0]]}: labels are positive finite seconds, at most "
            f"{LONGEST_S:g}; leave out the networks whose measurement failed"
        )
    return latency
