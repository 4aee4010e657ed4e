"""Measurements in one SQLite file."""

from __future__ import annotations

from tvm_costmodel.profiling.store.store import Store

__all__ = ["Store"]
