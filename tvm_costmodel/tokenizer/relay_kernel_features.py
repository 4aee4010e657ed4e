"""Tokens of a network as Relay compiles it: kernels, each with marks of Relay's options.

Relay's decisions are about the whole network; the annotated graph marks each operator with those
that concern it (`tvm_costmodel.tuning.annotate.relay`). Behind the numbers of `KERNEL_FEATURES`
each kernel's token has one flag for each of these marks. Graphs of Relax have none, so that one
predictor can learn from both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.kernel_features import KERNEL_FEATURES
from tvm_costmodel.tokenizer.kernel_graph import KernelGraph
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens

RELAY_KERNEL_VERSION = 1
"""Raised whenever the same graph would give other tokens."""

ATTRIBUTE = "relay"
"""Attribute of an operator that holds its marks."""

RELAY_MARKS: tuple[str, ...] = (
    "compiled by relay",
    *("opt level 0", "opt level 1", "opt level 2"),
    *("kernels of 1", "kernels of 2", "kernels of 4"),
    "packed channels",
    "fast math",
    "bias additions kept",
    "joined convolutions",
    *("products as one", "products as a batch", "joined batched products"),
    "half precision",
)
"""Marks that an operator may have. Checkpoints hold these names, in which ``joined`` means merged
and ``products`` are matmuls."""

RELAY_KERNEL_FEATURES: tuple[str, ...] = (*KERNEL_FEATURES, *RELAY_MARKS)
"""Names of the numbers of a token."""

_COLUMN = {mark: column for column, mark in enumerate(RELAY_MARKS)}


class RelayKernelTokenizer(KernelTokenizer):
    """Encodes annotated graphs as kernels with marks."""

    version_key = "relay_kernels"
    tokens = "tokens of Relay's kernels"

    def encode(self, graph: OpGraph) -> PhysicalTokens:
        """As `PhysicalTokenizer.encode`."""
        kernels = KernelGraph(graph)
        tokens = kernels.tokens()
        marks = np.zeros((len(kernels), len(RELAY_MARKS)), np.float32)
        for operator, token in zip(graph.operators, kernels.token_of, strict=True):
            named = operator.attrs.get(ATTRIBUTE, ())
            if token >= 0 and isinstance(named, tuple):
                marks[token, [_COLUMN[str(mark)] for mark in named]] = 1.0
        return replace(tokens, numbers=np.concatenate([tokens.numbers, marks], axis=1))

    def describe(self) -> dict[str, Any]:
        """Versions, vocabulary and features, as a checkpoint stores them."""
        own = {"relay_kernels": RELAY_KERNEL_VERSION, "features": list(RELAY_KERNEL_FEATURES)}
        return super().describe() | own
