"""Tokens and features of graphs as arrays: one file for each format, and batches of them."""

from __future__ import annotations

from tvm_costmodel.tokenizer.batching import MergedBatch, MergedHop, PaddedBatch, collate, merge
from tvm_costmodel.tokenizer.nar_former import (
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
