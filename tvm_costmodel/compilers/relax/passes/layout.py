"""Layouts of convolutions, and removal of the transposes that layout conversion leaves behind.

``ConvertLayout`` puts a transpose on each side of an operator it cannot convert. Element-wise
operators do not care about layout, so transposes move down through them until they meet their
inverse, or the output. ``graph_passes.layout`` is the twin on an OpGraph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, Var, transform
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_costmodel.compilers.relax.passes.fold_constants import (
    constant,
    constant_value,
    operator_name,
)
from tvm_costmodel.graph_passes.tunable_ops import stages_of

KERNEL_LAYOUTS: Mapping[str, str] = {"NHWC": "HWIO", "NCHW": "OIHW"}
"""Layouts that convolutions can run in, each with that of their weights."""

_CONVOLUTION = "relax.nn.conv2d"
_KEPT = {
    f"relax.nn.conv{len(axes)}d{kind}": ["NC" + axes, weights + axes]
    for axes in ("W", "HW", "DHW")
    for kind, weights in (("", "OI"), ("_transpose", "IO"))
    if f"conv{len(axes)}d{kind}" != "conv2d"
}
"""Other convolutions stay in the layout that TVM has loops for.

Where they are not named, ``ConvertLayout`` gives them whatever layout their operand has.
"""

_UNARY = frozenset(
    f"relax.{name}"
    for name in (
        *("nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.leakyrelu", "sigmoid", "tanh"),
        *("exp", "sqrt", "rsqrt", "abs", "negative", "erf", "log", "square", "astype"),
    )
)
_BINARY = frozenset(
    f"relax.{name}"
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")
)

Axes = tuple[int, ...]


def convert_layouts(
    layout: str, stages: Mapping[int, str], note: Callable[[str], None] = lambda name: None
) -> tvm.transform.Pass:
    """``ConvertLayout`` with a layout of their own for the convolutions of some stages.

    Args:
        layout: Layout of all others.
        stages: Layout by stage, see ``tunable_ops.stages_of``.
        note: Called with a component's name where the module has a convolution of its kind.
    """

    @tvm.transform.module_pass(opt_level=0, name="ConvertLayoutByStage")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        pixels: dict[int, int] = {}

        def visit(expr: Expr) -> None:
            if operator_name(expr) == _CONVOLUTION:
                count = _pixels(expr) if stages else 0
                pixels[count] = count
            elif operator_name(expr) in _KEPT:
                note("pass/kept_layouts")

        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                relax.analysis.post_order_visit(func, visit)
        if pixels:
            note("pass/layout")
        if not stages:
            whole = {_CONVOLUTION: [layout, KERNEL_LAYOUTS[layout]], **_KEPT}
            return transform.ConvertLayout(whole)(mod)
        stage_of = stages_of(pixels)

        def layouts_of(call: Call) -> dict[str, list[str]]:
            if operator_name(call) != _CONVOLUTION:
                return _KEPT
            chosen = stages.get(stage_of.get(_pixels(call), 0), layout)
            return {_CONVOLUTION: [chosen, KERNEL_LAYOUTS[chosen]]}

        return transform.ConvertLayout({}, layouts_of)(mod)

    return run


def _pixels(call: Call) -> int:
    """Pixels of a convolution's output image; 0 where they are unknown until run time."""
    extents = dict(zip(str(call.attrs.out_layout), call.ty.shape, strict=True))
    sides = [extents[letter] for letter in "HW"]
    known = all(isinstance(side, tvm.tirx.IntImm) for side in sides)
    return math.prod(int(side) for side in sides) if known else 0


@mutator
class TransposeSinker(PyExprMutator):
    """Moves transposes down through element-wise operators and cancels them.

    Attributes:
        changed: Whether anything was rewritten.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.changed = False

    def visit_call_(self, call: Call) -> Expr:
        """Rewrites one call whose arguments have been rewritten."""
        call = self.visit_expr_post_order(call)
        name = operator_name(call)
        if name == "relax.permute_dims":
            return self._permuted(call.args[0], _axes(call), call)
        if name in _UNARY:
            transposed = self._source(call.args[0])
            if transposed is None:
                return call
            self.changed = True
            source, axes = transposed
            inner = Call(call.op, [source, *call.args[1:]], call.attrs, call.ty_args)
            return relax.op.permute_dims(self.builder_.emit(inner), list(axes))
        if name in _BINARY:
            return self._binary(call)
        if name == "relax.reshape":
            return self._reshaped(call)
        return call

    def _source(self, expr: Expr) -> tuple[Expr, Axes] | None:
        """The source of a transposed variable and the axes, or None where it is not transposed."""
        while isinstance(expr, Var):
            bound = self.lookup_binding(expr)
            if not isinstance(bound, Call | Var):
                return None
            expr = bound
        if operator_name(expr) != "relax.permute_dims":
            return None
        return expr.args[0], _axes(expr)

    def _permuted(self, x: Expr, axes: Axes, call: Call) -> Expr:
        transposed = self._source(x)
        if transposed is not None:
            self.changed = True
            x, first = transposed
            axes = tuple(first[axis] for axis in axes)
        if axes == tuple(range(len(axes))):
            self.changed = True
            return x
        shape = x.ty.shape
        if not all(isinstance(extent, tvm.tirx.IntImm) for extent in shape):
            return call if transposed is None else relax.op.permute_dims(x, list(axes))
        moved = [axis for axis in axes if int(shape[axis]) != 1]
        if moved == sorted(moved):
            self.changed = True
            return relax.op.reshape(x, [int(shape[axis]) for axis in axes])
        return call if transposed is None else relax.op.permute_dims(x, list(axes))

    def _binary(self, call: Call) -> Expr:
        sources = [self._source(arg) for arg in call.args]
        axes = next((transposed[1] for transposed in sources if transposed is not None), None)
        if axes is None:
            return call
        args = []
        for arg, transposed in zip(call.args, sources, strict=True):
            if transposed is not None and transposed[1] == axes:
                args.append(transposed[0])
            elif isinstance(arg, GenericConst):
                args.append(_unpermuted(arg, axes))
            else:
                return call
        if len(axes) != call.ty.ndim or any(arg is None for arg in args):
            return call
        self.changed = True
        inner = self.builder_.emit(Call(call.op, args, call.attrs, call.ty_args))
        return relax.op.permute_dims(inner, list(axes))

    def _reshaped(self, call: Call) -> Expr:
        """Merges a reshape into the one before it."""
        expr = call.args[0]
        while isinstance(expr, Var):
            expr = self.lookup_binding(expr)
        if operator_name(expr) != "relax.reshape":
            return call
        self.changed = True
        return Call(call.op, [expr.args[0], call.args[1]], call.attrs, call.ty_args)


def _axes(call: Call) -> Axes:
    axes = call.attrs.axes
    if axes is None:
        return tuple(reversed(range(call.ty.ndim)))
    rank = len(axes)
    return tuple(int(axis) % rank for axis in axes)


def _unpermuted(expr: GenericConst, axes: Sequence[int]) -> Expr | None:
    """A broadcast constant as the operator's source layout sees it."""
    values = constant_value(expr)
    if values.ndim == 0:
        return expr
    if values.ndim > len(axes):
        return None
    full = values.reshape((1,) * (len(axes) - values.ndim) + values.shape)
    return constant(np.transpose(full, np.argsort(axes)))
