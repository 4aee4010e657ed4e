"""From graphs to token arrays: vocabulary, encoding and batches."""

from __future__ import annotations

from tvm_costmodel.tokenizer.batch import MergedBatch, MergedHop, PaddedBatch, collate, merge
from tvm_costmodel.tokenizer.encoding import (
    TOKENIZER_VERSION,
    TokenArrays,
    Tokenizer,
    TokenizerConfig,
)
from tvm_costmodel.tokenizer.vocabulary import SLOT_OF_OPERATOR, VOCABULARY

__all__ = [
    "SLOT_OF_OPERATOR",
    "TOKENIZER_VERSION",
    "VOCABULARY",
    "MergedBatch",
    "MergedHop",
    "PaddedBatch",
    "TokenArrays",
    "Tokenizer",
    "TokenizerConfig",
    "collate",
    "merge",
]
