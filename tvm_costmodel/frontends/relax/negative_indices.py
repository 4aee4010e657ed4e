"""Negative constant indices made positive, since Relax reads out of bounds at them.

``x[:, -1]`` in torch arrives as ``relax.take`` with the index -1, which TVM 0.27 treats as an
offset before the tensor, so that it reads arbitrary memory. This module imports TVM: import it
lazily.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator


def wrap_negative_indices(mod: tvm.IRModule) -> tvm.IRModule:
    """Returns the module with negative constant indices counted from the axis's end.

    Indices that are computed at run time stay as they are.

    Args:
        mod: Relax module, left unchanged.
    """
    wrapper = _IndexWrapper(mod)
    for variable, function in mod.functions.items():
        if isinstance(function, relax.Function):
            rewritten = wrapper.visit_expr(function)
            if wrapper.changed:
                wrapper.builder_.update_func(variable, rewritten)
    return wrapper.builder_.get() if wrapper.changed else mod


@mutator
class _IndexWrapper(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.changed = False

    def visit_call_(self, call: Call) -> relax.Expr:
        """Rewrites the index operands of gathering operators."""
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        if name in ("relax.take", "relax.gather_elements"):
            axis = call.attrs.axis
            extents = list(call.args[0].ty.shape)
            extent = _extent(extents, None if axis is None else int(axis))
            return self._replace(call, 1, self._wrapped(call.args[1], extent))
        if name == "relax.index_tensor" and isinstance(call.args[1], relax.Tuple):
            extents = list(call.args[0].ty.shape)
            fields = list(call.args[1].fields)
            wrapped = [self._wrapped(f, _extent(extents, i)) for i, f in enumerate(fields)]
            same = all(new is old for new, old in zip(wrapped, fields, strict=True))
            return call if same else self._replace(call, 1, relax.Tuple(wrapped))
        return call

    def _wrapped(self, index: Any, extent: int | None) -> Any:
        bound = self.lookup_binding(index) if isinstance(index, tvm.ir.Var) else index
        if not isinstance(bound, GenericConst) or extent is None:
            return index
        values = bound.value.numpy()
        if values.size == 0 or values.dtype.kind != "i" or values.min() >= 0:
            return index
        return relax.const(np.where(values < 0, values + extent, values), str(values.dtype))

    def _replace(self, call: Call, position: int, operand: Any) -> Call:
        if operand is call.args[position]:
            return call
        self.changed = True
        args = list(call.args)
        args[position] = operand
        return Call(call.op, args, call.attrs, call.ty_args, ret_ty=call.ty)


def _extent(extents: list[Any], axis: int | None) -> int | None:
    """Length of an axis, or of the flattened tensor for None; None where it is symbolic."""
    chosen = extents if axis is None else [extents[axis]]
    if not all(isinstance(extent, tvm.tirx.IntImm) for extent in chosen):
        return None
    return int(np.prod([int(extent) for extent in chosen], dtype=np.int64))
