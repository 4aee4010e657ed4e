from __future__ import annotations

import torch

from tvm_costmodel.training.matmul_precision import fast_matmul


def test_fast_matmul_keeps_float32_and_is_undone() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 512, generator=generator) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    with fast_matmul():
        result = a @ b.T
    assert torch.get_float32_matmul_precision() == before
    torch.testing.assert_close(result.double(), a.double() @ b.double().T, rtol=1e-4, atol=1e-4)
