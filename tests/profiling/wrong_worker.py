"""A worker whose graph passes compute something else: relu becomes abs.

Run in place of the worker's own program; with ``without-onnxruntime`` as argument, that package
does not import in it.
"""

from __future__ import annotations

import sys
from typing import Any

from tvm_costmodel.tvm_version import import_tvm_without_torch

if "without-onnxruntime" in sys.argv:
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]
import_tvm_without_torch()

import tvm  # noqa: E402
from tvm import relax  # noqa: E402

from tvm_costmodel.compilers.relax import build_module  # noqa: E402
from tvm_costmodel.profiling.worker.server import serve  # noqa: E402

graph_passes = build_module.graph_passes


@relax.expr_functor.mutator
class _AbsForRelu(relax.PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = getattr(call.op, "name", "")
        return relax.op.abs(call.args[0]) if name == "relax.nn.relu" else call


@tvm.transform.module_pass(opt_level=0)
def _wrong(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    changed = mod.clone()
    changed["main"] = _AbsForRelu(mod).visit_expr(mod["main"])
    return changed


build_module.graph_passes = lambda *given: [*graph_passes(*given), _wrong]

if __name__ == "__main__":
    serve()
