"""Measured networks as a data set for training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.training.kernel_labels import Kernel
from tvm_costmodel.training.splits import Split, random_split

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
    def machine(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def records(self) -> Sequence[LabelRecord]: ...  # noqa: D102


_OF_EACH = ("graphs", "families", "hashes", "kernels", "networks")


@dataclass(frozen=True, eq=False)
class LabelledGraphs:
    """Networks and their measured latencies on one device: what predictors learn from.

    Attributes:
        graphs: The networks; variants are annotated with their decisions.
        latency_s: float64 [G], measured seconds.
        families: Family of each network; empty where it is not known.
        hashes: Content hash of each network before any decision; likewise.
        device: Device that was measured.
        pipeline_key: Compile pipeline of the measured builds, of variants the baselines'.
        kernels: Measured kernels of each network; empty where no kernels were timed.
        networks: Which network each graph is a variant of, the baseline before its variants; empty
            where every graph is a network of its own.
        variants_key: Content key of the variants among them.
        machine: What made the labels, as JSON values for a checkpoint's card.
    """

    graphs: tuple[OpGraph, ...]
    latency_s: np.ndarray
    families: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    device: str = ""
    pipeline_key: str = ""
    kernels: tuple[Kernels, ...] = ()
    networks: tuple[str, ...] = ()
    variants_key: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "latency_s", check_labels(self.graphs, self.latency_s))
        if not {len(self.families), len(self.hashes)} <= {0, len(self.graphs)}:
            raise ConfigError(
                f"{len(self.graphs)} graphs, {len(self.families)} families and "
                f"{len(self.hashes)} hashes: give one of each per network"
            )

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def hash(self) -> str:
        """Content hash of graphs and latencies, independent of their order; 16 hex digits."""
        if self.variants_key:
            return self.variants_key
        return training_set_hash(self.device, self.pipeline_key, self.hashes, self.latency_s)

    def subset(self, indices: np.ndarray | Sequence[int]) -> LabelledGraphs:
        """The networks at ``indices``, in that order."""
        order = [int(i) for i in indices]
        of_each = {name: getattr(self, name) for name in _OF_EACH}
        chosen: dict[str, Any] = {n: tuple(of[i] for i in order) for n, of in of_each.items() if of}
        return replace(self, latency_s=self.latency_s[order], **chosen)

    def split(self, seed: int, validation: float = 0.1, test: float = 0.1) -> Split:
        """A random split in which no network is on two sides: its variants stay together.

        Each family gives each side the same share of its networks, separately for those with and
        without variants.

        Raises:
            ConfigError: There are too few networks for three sides.
        """
        if not self.networks:
            return random_split(self.families, self.hashes, seed, validation, test)
        count = Counter(self.networks)
        kind = [
            f"{family} {'variants' if count[network] > 1 else 'alone'}"
            for family, network in zip(self.families, self.networks, strict=True)
        ]
        heads = np.unique(self.networks, return_index=True)[1]
        heads.sort()
        on_heads = random_split(
            [kind[i] for i in heads], [self.networks[i] for i in heads], seed, validation, test
        )
        sides = []
        for side in (on_heads.train, on_heads.validation, on_heads.test):
            inside = {self.networks[heads[int(i)]] for i in side}
            sides.append(np.array([i for i, n in enumerate(self.networks) if n in inside]))
        return Split("random", *sides).check(self.networks)

    @classmethod
    def concatenated(cls, parts: Sequence[LabelledGraphs]) -> LabelledGraphs:
        """Labels of several parts of one device, one after the other."""
        joined: dict[str, Any] = {
            name: tuple(chain.from_iterable(getattr(part, name) for part in parts))
            for name in _OF_EACH
        }
        return replace(
            parts[0], latency_s=np.concatenate([part.latency_s for part in parts]), **joined
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
            machine=labels.machine,
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
