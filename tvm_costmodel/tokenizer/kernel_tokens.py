"""The tokenizer of kernels: one token for each kernel of an annotated graph."""

from __future__ import annotations

from typing import Any

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.kernel_features import KERNEL_FEATURES, KERNEL_VERSION
from tvm_costmodel.tokenizer.kernel_graph import KernelGraph
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer, PhysicalTokens
from tvm_costmodel.tokenizer.vocabulary import VOCABULARY


class KernelTokenizer(PhysicalTokenizer):
    """Encodes annotated graphs as kernels."""

    version_key = "kernels"
    tokens = "kernel tokens"

    def encode(self, graph: OpGraph) -> PhysicalTokens:
        """As `PhysicalTokenizer.encode`."""
        return KernelGraph(graph).tokens()

    def describe(self) -> dict[str, Any]:
        """Version, vocabulary and features, as a checkpoint stores them."""
        return {
            "kernels": KERNEL_VERSION,
            "vocabulary": list(VOCABULARY),
            "features": list(KERNEL_FEATURES),
        }
