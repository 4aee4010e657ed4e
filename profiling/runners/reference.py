"""The reference kernel: fixed work that is timed together with every label.

It multiplies two small matrices without vectors, which follows the clock frequency and the share
of the core, and then streams an array that is larger than a second-level cache, which follows how
busy the shared cache and memory are. About 1 to 2 ms in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_costmodel.profiling.runners.tensors import compiled

if TYPE_CHECKING:
    import tvm

SIDE = 136
STREAM = 1 << 21

PARAMETERS: tuple[tuple[tuple[int, ...], str], ...] = (
    ((SIDE, SIDE), "float32"),
    ((SIDE, SIDE), "float32"),
    ((STREAM,), "float32"),
    ((SIDE, SIDE), "float32"),
    ((STREAM,), "float32"),
)
NAME = "reference"


def build_reference(target: tvm.target.Target) -> Any:
    """The library of the reference kernel, compiled for a target (imports TVM)."""
    import tvm
    from tvm import te

    a = te.placeholder((SIDE, SIDE), "float32", name="a")
    b = te.placeholder((SIDE, SIDE), "float32", name="b")
    x = te.placeholder((STREAM,), "float32", name="x")
    k = te.reduce_axis((0, SIDE), "k")
    product = te.compute((SIDE, SIDE), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), "product")
    stream = te.compute((STREAM,), lambda i: x[i] * 0.5 + 1.0, "stream")
    function = te.create_prim_func([a, b, x, product, stream])
    module = tvm.IRModule({NAME: function.with_attr("global_symbol", NAME)})
    return compiled(module, target)
