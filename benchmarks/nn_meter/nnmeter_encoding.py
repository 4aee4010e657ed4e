"""Encodes nn-Meter's bench once for all predictors, and caches it.

This is not a benchmark itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.datasets.nn_meter import NnMeterBench
from tvm_costmodel.predictors.flops import power_law_columns
from tvm_costmodel.tokenizer import TokenArrays, Tokenizer, TokenizerConfig
from tvm_costmodel.tokenizer.network_features import features
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer, PhysicalTokens

_CHUNK = 150


@dataclass(frozen=True, eq=False)
class Encoded:
    """Arrays of all networks that the predictors take, without the networks."""

    arrays: dict[str, np.ndarray]

    @property
    def latency_ms(self) -> np.ndarray:
        """float64 [G, devices]."""
        return self.arrays["latency_ms"]

    def tokens(self) -> list[PhysicalTokens]:
        """Tokens of every network."""
        node, edge = self.arrays["node_ptr"], self.arrays["edge_ptr"]
        parts = []
        for i in range(len(node) - 1):
            rows, edges = slice(node[i], node[i + 1]), slice(edge[i], edge[i + 1])
            names = ("slot", "numbers", "work")
            slot, numbers, work = (self.arrays[name][rows] for name in names)
            anchor = self.arrays["anchor"][rows]
            parts.append(PhysicalTokens(slot, numbers, work, self.arrays["edges"][edges], anchor))
        return parts


def _encode_chunk(job: tuple[str, Sequence[int]]) -> list[tuple[Any, ...]]:
    bench, rows = NnMeterBench(job[0]), []
    for i in job[1]:
        graph = bench.graph(i)
        tokens = PhysicalTokenizer().encode(graph)
        table = (features([graph])[0], power_law_columns([graph])[0])
        plain = Tokenizer(TokenizerConfig(frequencies=0)).encode(graph)
        rows.append((tokens, graph.hash, *table, plain))
    return rows


def encode(path: Path, cache: Path | None, jobs: int, every: int) -> Encoded:
    """Encodes the bench, or reads what an earlier run encoded."""
    if cache and cache.exists():
        with np.load(cache, allow_pickle=False) as archive:
            return Encoded(dict(archive))
    bench = NnMeterBench(path)
    at = np.arange(0, len(bench), every)
    work = [(str(path), at[i : i + _CHUNK].tolist()) for i in range(0, len(at), _CHUNK)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        rows = [row for part in pool.map(_encode_chunk, work) for row in part]
    tokens = [row[0] for row in rows]
    arrays = {
        "slot": np.concatenate([t.slot for t in tokens]),
        "numbers": np.concatenate([t.numbers for t in tokens]),
        "work": np.concatenate([t.work for t in tokens]),
        "anchor": np.concatenate([t.anchor for t in tokens]),
        "edges": np.concatenate([t.edges for t in tokens]),
        "node_ptr": np.cumsum([0, *(len(t) for t in tokens)]),
        "edge_ptr": np.cumsum([0, *(len(t.edges) for t in tokens)]),
        "hash": np.array([row[1] for row in rows]),
        "features": np.array([row[2] for row in rows]),
        "columns": np.array([row[3] for row in rows]),
        "family": np.array(bench.families)[at],
        "latency_ms": bench.latency_s[at] * 1e3,
        "devices": np.array(bench.devices),
        **_plain_tokens([row[4] for row in rows]),
    }
    if cache:
        np.savez(cache, **arrays)
    return Encoded(arrays)


def _plain_tokens(tokens: Sequence[TokenArrays]) -> dict[str, np.ndarray]:
    """Tokens of every network one after the other, which the published networks read."""
    return {
        "token_op": np.concatenate([t.op_id for t in tokens]).astype(np.int16),
        "token_values": np.concatenate([t.values for t in tokens]),
        "token_edges": np.concatenate([t.edges for t in tokens]).astype(np.int32),
        "token_static": np.array([t.static for t in tokens]),
        "token_node_ptr": np.cumsum([0, *(len(t) for t in tokens)]),
        "token_edge_ptr": np.cumsum([0, *(len(t.edges) for t in tokens)]),
    }
