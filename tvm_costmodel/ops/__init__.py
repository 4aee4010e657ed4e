"""The catalogue of operators: canonical names across front ends, attributes, cost."""

from __future__ import annotations

from tvm_costmodel.ops.aliases import canonical_name
from tvm_costmodel.ops.catalogue import ANNOTATIONS, CATALOGUE, CATEGORIES, OpSpec
from tvm_costmodel.ops.cost import OpCost, operator_cost

__all__ = [
    "ANNOTATIONS",
    "CATALOGUE",
    "CATEGORIES",
    "OpCost",
    "OpSpec",
    "canonical_name",
    "operator_cost",
]
