"""Measured variants as a training set: annotated graphs, seconds, and the network of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.compilers.registry import DEFAULT_COMPILER
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.label_files.variants import VariantGroup, VariantSet
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.splits import Split, random_split
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.space.candidate import Candidate


@dataclass(frozen=True, eq=False)
class TunedLabels:
    """Labels of networks under decisions.

    Attributes:
        graphs: Annotated graphs.
        latency_s: float64 [G], seconds.
        networks: Content hash of each one's network before any decision.
        families: Family of each one's network.
        candidates: The decisions of each.
    """

    graphs: tuple[OpGraph, ...]
    latency_s: np.ndarray
    networks: tuple[str, ...]
    families: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def __len__(self) -> int:
        return len(self.graphs)

    def subset(self, at: Sequence[int] | np.ndarray) -> TunedLabels:
        """The labels at these indices, in that order."""
        chosen = [int(i) for i in at]
        return TunedLabels(
            tuple(self.graphs[i] for i in chosen),
            self.latency_s[chosen],
            tuple(self.networks[i] for i in chosen),
            tuple(self.families[i] for i in chosen),
            tuple(self.candidates[i] for i in chosen),
        )

    def split(self, seed: int, validation: float = 0.1, test: float = 0.1) -> Split:
        """A split in which no network is on two sides: all of its variants stay together.

        Each family gives each side the same share of its networks, separately for those with and
        without variants.

        Raises:
            ConfigError: There are too few networks for three sides.
        """
        count: dict[str, int] = {}
        for network in self.networks:
            count[network] = count.get(network, 0) + 1
        kind = [
            f"{family} {'variants' if count[network] > 1 else 'alone'}"
            for family, network in zip(self.families, self.networks, strict=True)
        ]
        first = {network: i for i, network in reversed(list(enumerate(self.networks)))}
        heads = sorted(first.values())
        on_heads = random_split(
            [kind[i] for i in heads], [self.networks[i] for i in heads], seed, validation, test
        )
        sides = []
        for side in (on_heads.train, on_heads.validation, on_heads.test):
            inside = {self.networks[heads[int(i)]] for i in side}
            sides.append(np.array([i for i, n in enumerate(self.networks) if n in inside]))
        return Split("random", *sides).check(self.networks)

    @classmethod
    def of(cls, variants: VariantSet, labels: LabelledGraphs | None = None) -> TunedLabels:
        """Variants with the baselines of their networks, and labels of further baselines.

        Args:
            variants: Measured variants.
            labels: Networks of which the baseline alone was measured; those with variants are
                left out.

        Raises:
            ConfigError: They are of different devices or pipelines.
        """
        groups = [tuned_group(group) for group in variants.groups]
        if labels is not None:
            mine = (variants.device, variants.pipeline_key)
            if mine != (labels.device, labels.pipeline_key):
                raise ConfigError(
                    f"the variants are of device and pipeline {mine}, the labels of "
                    f"{(labels.device, labels.pipeline_key)}; give labels of one device"
                )
            known = {group.graph_hash for group in variants.groups}
            at = [i for i, key in enumerate(labels.hashes) if key not in known]
            compiler = compiler_of(variants.groups[0]) if variants.groups else DEFAULT_COMPILER
            groups.append(baseline_labels(labels.subset(at), compiler))
        return cls.concatenated(groups)

    @classmethod
    def concatenated(cls, parts: Sequence[TunedLabels]) -> TunedLabels:
        """Labels of several parts, one after the other."""
        return cls(
            tuple(graph for part in parts for graph in part.graphs),
            np.concatenate([part.latency_s for part in parts]),
            tuple(network for part in parts for network in part.networks),
            tuple(family for part in parts for family in part.families),
            tuple(candidate for part in parts for candidate in part.candidates),
        )


def compiler_of(group: VariantGroup) -> str:
    """The compiler of a network and its variants."""
    return str(group.source.get("compiler", DEFAULT_COMPILER))


def tuned_group(group: VariantGroup) -> TunedLabels:
    """The label of one network's baseline, then those of its good variants."""
    annotator = backend_of(compiler_of(group)).annotator(group.graph)
    candidates = [Candidate(), *(Candidate.from_dict(v.decisions) for v in group.good)]
    ratios = np.array([1.0, *(variant.ratio for variant in group.good)])
    return TunedLabels(
        tuple(annotator.annotate(candidate) for candidate in candidates),
        group.latency_s * ratios,
        (group.graph_hash,) * len(candidates),
        (group.family,) * len(candidates),
        tuple(candidates),
    )


def baseline_labels(labels: LabelledGraphs, compiler: str = "relax") -> TunedLabels:
    """Baselines of networks, annotated as such.

    Args:
        labels: The networks.
        compiler: The compiler that built them.
    """
    annotator = backend_of(compiler).annotator
    return TunedLabels(
        tuple(annotator(graph).annotate(Candidate()) for graph in labels.graphs),
        labels.latency_s,
        labels.hashes,
        labels.families,
        (Candidate(),) * len(labels),
    )
