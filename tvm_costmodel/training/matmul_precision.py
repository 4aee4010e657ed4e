"""Precision of torch's float32 matmuls in training and prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Lets torch use oneDNN for float32 matmuls on CPUs without AMX tiles.

    torch's MKL takes its AVX2 path on CPUs that are not Intel's, less than half of the AVX-512
    speed. Allowing reduced precision selects oneDNN instead, which computes in full float32 where
    the CPU has no tiles; where it has some the results would be rounded, so nothing is changed.
    oneDNN prepares itself for every new number of rows, which pays off for batches of thousands of
    rows but not for the few dozen of a search.
    """
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()
    before = torch.get_float32_matmul_precision()
    if not has_tiles:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
