"""Measured variants as a training set: annotated graphs, seconds, and the network of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_costmodel.compilers.registry import DEFAULT_COMPILER
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.label_files.selection import LabelRecord, LabelSet
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.space.candidate import Candidate


def labels_of_variants(variants: LabelSet, labels: LabelledGraphs | None = None) -> LabelledGraphs:
    """Variants with the baselines of their networks, and labels of further baselines.

    Args:
        variants: Measured variants.
        labels: Networks of which the baseline alone was measured; those with variants are left
            out.

    Raises:
        ConfigError: They are of different devices or pipelines, or there are none.
    """
    if not variants.records:
        raise ConfigError("no variants to learn from: measure some with `profile --variants 7`")
    parts = [labels_of_record(record) for record in variants.records]
    key = variants.hash[:16]
    if labels is not None:
        mine = (variants.device, variants.pipeline_key)
        if mine != (labels.device, labels.pipeline_key):
            raise ConfigError(
                f"the variants are of device and pipeline {mine}, the labels of "
                f"{(labels.device, labels.pipeline_key)}; give labels of one device"
            )
        known = {record.graph_hash for record in variants.records}
        at = [i for i, network in enumerate(labels.hashes) if network not in known]
        if at:
            parts.append(baseline_labels(labels.subset(at), compiler_of(variants.records[0])))
        key += f"+{labels.hash}"
    return replace(
        LabelledGraphs.concatenated(parts),
        device=variants.device,
        pipeline_key=variants.pipeline_key,
        variants_key=key,
        machine=variants.machine,
    )


def compiler_of(record: LabelRecord) -> str:
    """The compiler of a network and its variants."""
    return str(record.source.get("compiler", DEFAULT_COMPILER))


def labels_of_record(record: LabelRecord) -> LabelledGraphs:
    """The label of one network's baseline, then those of its good variants."""
    annotator = backend_of(compiler_of(record)).annotator(record.graph)
    candidates = [Candidate(), *(Candidate.from_dict(v.decisions) for v in record.good_variants)]
    ratios = np.array([1.0, *(variant.ratio for variant in record.good_variants)])
    networks = (record.graph_hash,) * len(candidates)
    return LabelledGraphs(
        tuple(annotator.annotate(candidate) for candidate in candidates),
        record.latency_s * ratios,
        (record.family,) * len(candidates),
        hashes=networks,
        networks=networks,
    )


def baseline_labels(labels: LabelledGraphs, compiler: str = "relax") -> LabelledGraphs:
    """Baselines of networks, annotated as such.

    Args:
        labels: The networks.
        compiler: The compiler that built them.
    """
    annotator = backend_of(compiler).annotator
    annotated = tuple(annotator(graph).annotate(Candidate()) for graph in labels.graphs)
    return replace(labels, graphs=annotated, kernels=(), networks=labels.hashes)
