"""Relax functions as OpGraphs, by a function and by a compiler pass."""

from __future__ import annotations

from tvm_costmodel.frontends.relax.export import ExportGraph, from_relax

__all__ = ["ExportGraph", "from_relax"]
