"""Applies the rule to every PrimFunc of a module."""

from __future__ import annotations

import tvm
from tvm import relax, tirx
from tvm.ir import Call, GenericConst, GlobalVar
from tvm.relax.expr_functor import PyExprMutator, PyExprVisitor, mutator, visitor

from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import CONSTANT_PARAMETERS, FUNCTION_NAME
from tvm_costmodel.compilers.cpu_rule.emit.mask_guards import guard_masks
from tvm_costmodel.compilers.cpu_rule.emit.packing import (
    PACKED_PARAMETERS,
    PackedParameter,
    load_packed,
)
from tvm_costmodel.compilers.cpu_rule.emit.vector_math import expand_function, has_library_calls
from tvm_costmodel.compilers.cpu_rule.rule import CpuScheduleRule
from tvm_costmodel.compilers.cpu_rule.templates.winograd_transforms import WinogradWeights

_Packed = PackedParameter | WinogradWeights


def schedule_module(
    mod: tvm.IRModule, target: tvm.target.Target, rule: CpuScheduleRule
) -> tvm.IRModule:
    """Schedules every PrimFunc of a module of Relax functions and PrimFuncs.

    Use it after ``FuseTIR``, while the Relax functions still call PrimFuncs by ``call_tir``. In
    addition to what ``dlight.ApplyDefaultSchedule`` does, it passes the rule each function's name
    and which parameters are constants at every call, and re-orders those constants where a
    template packs them.

    Args:
        mod: The module; it is not changed.
        target: An LLVM target.
        rule: The rule; its ``unscheduled``, ``template_of``, ``vector_math_of`` and
            ``periodic`` grow.

    Returns:
        The module with its PrimFuncs scheduled and marked ``tirx.is_scheduled``.
    """
    constants = constant_parameters(mod)
    functions = dict(mod.functions_items())
    packed: dict[str, list[_Packed]] = {}
    for variable, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc) or (func.attrs or {}).get("tirx.is_scheduled"):
            continue
        name = variable.name_hint
        named = func.with_attr(FUNCTION_NAME, name)
        named = named.with_attr(CONSTANT_PARAMETERS, sorted(constants.get(name, ())))
        sch = rule.apply(named, target, False)
        if sch is None:
            continue
        scheduled, is_periodic = guard_masks(sch.mod["main"])
        scheduled = scheduled.with_attr("tirx.is_scheduled", True)
        if is_periodic:
            rule.periodic.add(name)
        if has_library_calls(func.body):
            scheduled, rule.vector_math_of[name] = expand_function(scheduled)
        for attribute in (FUNCTION_NAME, CONSTANT_PARAMETERS):
            scheduled = scheduled.without_attr(attribute)
        text = scheduled.attrs.get(PACKED_PARAMETERS)
        if text is not None:
            packed[name] = load_packed(str(text))
        functions[variable] = scheduled
    return _pack_constants(functions, packed, mod)


def constant_parameters(mod: tvm.IRModule) -> dict[str, set[int]]:
    """Returns, for each PrimFunc, the parameters that are constants at every ``call_tir``."""
    calls = _ConstantArguments()
    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            calls.visit_expr(func)
    return calls.constants_of


@visitor
class _ConstantArguments(PyExprVisitor):
    """Collects which arguments of ``call_tir`` are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.constants_of: dict[str, set[int]] = {}

    def visit_call_(self, call: Call) -> None:
        if _is_call_tir(call):
            name = call.args[0].name_hint
            constants = {
                i for i, a in enumerate(call.args[1].fields) if isinstance(a, GenericConst)
            }
            self.constants_of[name] = (
                self.constants_of[name] & constants if name in self.constants_of else constants
            )
        elif any(isinstance(arg, GlobalVar) for arg in call.args):
            # Called in some other way: nothing is known of its arguments.
            for arg in call.args:
                if isinstance(arg, GlobalVar):
                    self.constants_of[arg.name_hint] = set()


def _is_call_tir(call: Call) -> bool:
    return getattr(call.op, "name", "") == "relax.call_tir"


@mutator
class _PackArguments(PyExprMutator):
    """Replaces plain constants by packed ones at the calls of functions that read them packed."""

    def __init__(
        self,
        mod: tvm.IRModule,
        packed: dict[str, list[_Packed]],
        variables: dict[str, GlobalVar],
    ) -> None:
        super().__init__(mod)
        self.packed, self.variables = packed, variables
        self.cache: dict[tuple[int, _Packed], GenericConst] = {}

    def visit_call_(self, call: Call) -> Call:
        if not _is_call_tir(call) or call.args[0].name_hint not in self.packed:
            return call
        name = call.args[0].name_hint
        arguments = list(call.args[1].fields)
        for packing in self.packed[name]:
            plain = arguments[packing.parameter]
            key = (hash(plain), packing)
            if key not in self.cache:
                values = packing.pack(plain.value.numpy())
                self.cache[key] = relax.const(values, str(values.dtype))
            arguments[packing.parameter] = self.cache[key]
        args = [self.variables[name], relax.Tuple(arguments), *call.args[2:]]
        return Call(call.op, args, call.attrs, call.ty_args)


def _pack_constants(
    functions: dict[GlobalVar, tvm.ir.BaseFunc],
    packed: dict[str, list[_Packed]],
    mod: tvm.IRModule,
) -> tvm.IRModule:
    if not packed:
        return tvm.IRModule(functions, attrs=mod.attrs)
    # A global variable carries its function's type, which packing changes: those get a new one.
    variables, result = {}, {}
    for variable, func in functions.items():
        if variable.name_hint in packed:
            renewed = GlobalVar(variable.name_hint)
            relax.expr._update_type(renewed, func.ty)
            variables[variable.name_hint] = variable = renewed
        result[variable] = func
    change = _PackArguments(mod, packed, variables)
    for variable, func in functions.items():
        if isinstance(func, relax.Function):
            result[variable] = change.visit_expr(func)
    return tvm.IRModule(result, attrs=mod.attrs)
