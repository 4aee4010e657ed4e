"""Rewrites of ONNX operators into others that TVM imports rightly.

TVM's importer goes by an operator's name and ignores attributes and outputs that it does not know,
so some forms are imported as something else. Each rewrite here takes one operator, returns what
takes its place, or None where TVM's reading is right, or refuses the node by operator and name.
"""

from tvm_costmodel.frontends.onnx.operators.rewriting import rewrite_operators

__all__ = ["rewrite_operators"]
