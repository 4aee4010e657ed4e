"""Relay -> OpGraph, as a function and as a compiler pass, for TVM up to 0.19."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import GraphError
from tvm_costmodel.frontends.relax.export import graph_from_arrays
from tvm_costmodel.frontends.relay import walk
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tvm_version import require_relay

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.transform import ModulePass


def from_relay(mod: IRModule, params: Collection[str] = (), func: str = "main") -> OpGraph:
    """Reads the graph of one Relay function whose types are inferred.

    Operators have the names and attributes that `from_relax` gives them, constants are weights, and
    what is computed from constants alone is folded. Functions that are called where they are
    written, as those of FuseOps are, dissolve into their operators. Branches, matches, references,
    closures and calls of other functions are opaque operators, listed in ``unknown_ops``.

    Args:
        mod: The module; not changed.
        params: Names of the parameters that are weights, for instance the keys of the dictionary
            that ``relay.frontend.from_onnx`` returns together with a module, which may hold
            names that the importer consumed. All other parameters are inputs.
        func: Name of the function.

    Raises:
        GraphError: The module has no such Relay function, no types, or none of ``params``.
        UnsupportedOperatorError: A graph cannot represent an expression.
        MissingDependencyError: The installed TVM has no Relay.
    """
    function = _find_function(mod, func)
    names = {str(param.name_hint) for param in function.params}
    if params and names.isdisjoint(params):
        raise GraphError(
            f'"{func}" has no parameter {", ".join(sorted(params)[:5])}; its parameters are '
            f"{', '.join(sorted(names)) or '(none)'}"
        )
    return graph_from_arrays(walk.walk(function, set(params)), name=func)


def ExportGraph(
    sink: Callable[[OpGraph], Any], params: Collection[str] = (), func: str = "main"
) -> ModulePass:
    """A pass that hands the graph of ``func`` to ``sink`` and returns its module with types.

    ::

        graphs = []
        tvm.transform.Sequential([ExportGraph(graphs.append), relay.transform.FuseOps()])(mod)

    Args:
        sink: Called once each time that the pass runs.
        params: Names of the parameters that are weights.
        func: Name of the function.
    """
    require_relay()
    tvm: Any = importlib.import_module("tvm")

    @tvm.transform.module_pass(opt_level=0, name="ExportGraph", required=["InferType"])
    def export_graph(mod: IRModule, context: Any) -> IRModule:
        typed = with_types(mod)
        sink(from_relay(typed, params, func))
        return typed

    return export_graph


def with_types(mod: IRModule) -> IRModule:
    """The module with the type of every expression inferred.

    Raises:
        GraphError: Its types do not fit together.
    """
    relay: Any = importlib.import_module("tvm.relay")
    try:
        return relay.transform.InferType()(mod)
    except Exception as error:  # TVM raises several kinds, with no common root
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "rror:" in line), (lines or ["?"])[-1])
        raise GraphError(f"the module's types cannot be inferred: {reason[:300]}") from error


def _find_function(mod: IRModule, func: str) -> Any:
    require_relay()
    tvm: Any = importlib.import_module("tvm")
    relay: Any = importlib.import_module("tvm.relay")
    if not isinstance(mod, tvm.IRModule):
        hint = ""
        if isinstance(mod, tuple):
            hint = ": importers return (module, params), pass the module and params=params"
        raise GraphError(f"expected a tvm.IRModule, got {type(mod).__name__}{hint}")
    functions = {str(v.name_hint): f for v, f in mod.functions.items()}
    function = functions.get(func)
    if isinstance(function, relay.Function):
        return function
    names = sorted(name for name, f in functions.items() if isinstance(f, relay.Function))
    if not names:
        raise GraphError("the module has no Relay function: export it before it is lowered")
    what = "is no Relay function" if function is not None else "is not in the module"
    raise GraphError(f'"{func}" {what}; its Relay functions are {", ".join(names)}: pass func=')
