"""Kernels that several builds of one network share: each is compiled once.

Variants of a network differ in a few of their kernels. A kernel is named by its content here, and
compiled only where no earlier build had it.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GlobalVar
from tvm.relax import vm_build
from tvm.relax.expr_functor import PyExprMutator, mutator


class SharedKernels:
    """The kernels of all builds so far, compiled; for one target.

    Builds stay valid when this object is gone.
    """

    def __init__(self) -> None:
        self._library_of: dict[str, tvm.runtime.Module] = {}

    def link(self, mod: tvm.IRModule, target: tvm.target.Target) -> vm_build.VMExecutable:
        """The executable of a module that was lowered for the virtual machine.

        Does what ``tvm.relax.build`` does after its passes (tvm/relax/vm_build.py), except that
        kernels of earlier builds are taken from there.

        Args:
            mod: The module; its PrimFuncs are named by `named_by_content`.
            target: The target of all builds.
        """
        builder = relax.ExecBuilder()
        kernels = vm_build._filter_tir(vm_build._vmcodegen(builder, mod))
        if kernels is None:
            return vm_build._vmlink(builder, target)
        names = [variable.name_hint for variable in kernels.get_global_vars()]
        new = [name for name in names if name not in self._library_of]
        if new:
            part = tvm.IRModule({kernels.get_global_var(name): kernels[name] for name in new})
            library = tvm.tirx.build(part, target=target)
            self._library_of |= dict.fromkeys(new, library)
        first, *others = {id(self._library_of[n]): self._library_of[n] for n in names}.values()
        return vm_build.VMExecutable(vm_build._ffi_api.VMLink(builder, target, first, others, {}))


def named_by_content(mod: tvm.IRModule) -> tvm.IRModule:
    """Names each PrimFunc by its structure; equal ones become one."""
    renamed: dict[GlobalVar, GlobalVar] = {}
    functions: dict[GlobalVar, tvm.ir.BaseFunc] = {}
    by_name: dict[str, GlobalVar] = {}
    for variable, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            functions[variable] = func
            continue
        name = f"kernel_{kernel_hash(func)}"
        if name not in by_name:
            by_name[name] = GlobalVar(name)
            relax.expr._update_type(by_name[name], variable.ty)
            functions[by_name[name]] = func.with_attr("global_symbol", name)
        renamed[variable] = by_name[name]
    change = _Renamed(mod, renamed)
    for variable, func in functions.items():
        if isinstance(func, relax.Function):
            functions[variable] = change.visit_expr(func)
    return tvm.IRModule(functions, attrs=mod.attrs)


def kernel_hash(func: tirx.PrimFunc) -> str:
    """Hashes a PrimFunc's structure; names of it, of variables and buffers do not count."""
    value = tvm_ffi.structural_hash(func.without_attr("global_symbol"), map_free_vars=True)
    return f"{int(value) & 0xFFFFFFFFFFFFFFFF:016x}"


@mutator
class _Renamed(PyExprMutator):
    """Replaces global variables."""

    def __init__(self, mod: tvm.IRModule, renamed: Mapping[GlobalVar, GlobalVar]) -> None:
        super().__init__(mod)
        self._renamed = renamed

    def visit_global_var_(self, op: GlobalVar) -> GlobalVar:
        return self._renamed.get(op, op)
