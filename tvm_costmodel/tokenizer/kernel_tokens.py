"""The tokenizer of kernels: one token for each kernel of an annotated graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.kernel_features import (
    KERNEL_FEATURES,
    KERNEL_VERSION,
)
from tvm_costmodel.tokenizer.kernel_graph import KernelGraph
from tvm_costmodel.tokenizer.operator_features import (
    PhysicalTokens,
    require_same,
)
from tvm_costmodel.tokenizer.vocabulary import VOCABULARY


class KernelTokenizer:
    """Encodes annotated graphs as kernels."""

    def encode(self, graph: OpGraph) -> PhysicalTokens:
        """Encodes one graph.

        Raises:
            GraphError: The graph has nothing that computes, or has dimensions unknown until run
                time.
        """
        return KernelGraph(graph).tokens()

    def describe(self) -> dict[str, Any]:
        """Version, vocabulary and features, as a checkpoint stores them."""
        return {
            "kernels": KERNEL_VERSION,
            "vocabulary": list(VOCABULARY),
            "features": list(KERNEL_FEATURES),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> KernelTokenizer:
        """The tokenizer that a checkpoint was trained with.

        Raises:
            CheckpointError: Its version, vocabulary or features are not this package's.
        """
        tokenizer = cls()
        require_same(tokenizer.describe(), description, "kernels", "kernel tokens")
        return tokenizer
