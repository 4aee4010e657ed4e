"""Relax -> OpGraph, as a function and as a compiler pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import GraphError, MissingDependencyError
from tvm_costmodel.frontends.graph_arrays import WEIGHT, GraphArrays, read_value
from tvm_costmodel.frontends.relax import native_walk
from tvm_costmodel.frontends.relax import walk as python_walk
from tvm_costmodel.frontends.relax.attributes import canonical_attributes
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType
from tvm_costmodel.ops import CATALOGUE, canonical_name
from tvm_costmodel.tvm_version import RELAX_PACKAGE, has_relax, has_relay, require_relax

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.relax import Function
    from tvm.transform import ModulePass


def from_relax(
    mod: IRModule,
    func: str = "main",
    *,
    num_inputs: int | None = None,
    engine: str = "auto",
) -> OpGraph:
    """Reads the graph of one Relax function.

    Call it before LegalizeOps: after it an operator is a ``call_tir`` without attributes, which
    lands in the graph's ``unknown_ops``. Constants become weights, and so does what can be computed
    from constants alone, since every pipeline folds it. Branches, calls of other functions and of
    packed functions are opaque operators, listed in ``unknown_ops`` too.

    Args:
        mod: The module; not changed.
        func: Name of the function.
        num_inputs: How many parameters are inputs of the network, the others being its weights.
            By default the function's ``num_input`` attribute, or all of them.
        engine: ``"native"``, ``"python"``, or ``"auto"``: native where it was built.

    Raises:
        GraphError: The module has no such Relax function.
        MissingDependencyError: TVM is not installed, or the native walk is asked for and was not
            built.
    """
    return graph_from_arrays(walk(mod, func, num_inputs=num_inputs, engine=engine), name=func)


def walk(
    mod: IRModule, func: str = "main", *, num_inputs: int | None = None, engine: str = "auto"
) -> GraphArrays:
    """The walk alone: arguments and errors as `from_relax`."""
    function = _find_function(mod, func)
    inputs = _count_inputs(function) if num_inputs is None else num_inputs
    if engine == "python" or (engine == "auto" and not native_walk.native_available()):
        return python_walk.walk(function, inputs)
    return native_walk.walk(function, inputs)


def ExportGraph(sink: Callable[[OpGraph], Any], func: str = "main") -> ModulePass:
    """A pass that hands the graph of ``func`` to ``sink`` and returns its module unchanged.

    Place it before ``LegalizeOps``::

        graphs = []
        tvm.transform.Sequential([ExportGraph(graphs.append), relax.transform.LegalizeOps()])(mod)

    Args:
        sink: Called once each time that the pass runs.
        func: Name of the function.
    """
    tvm = _import_tvm()

    def export_graph(mod: IRModule, context: Any) -> IRModule:
        sink(from_relax(mod, func))
        return mod

    return tvm.transform.module_pass(export_graph, opt_level=0, name="ExportGraph")


def _import_tvm() -> Any:
    if has_relay() or has_relax():
        require_relax()
    try:
        import tvm
        import tvm.relax
    except ImportError as error:
        raise MissingDependencyError(
            f"reading a Relax module needs TVM ({error}): pip install {RELAX_PACKAGE}"
        ) from error
    return tvm


def _find_function(mod: IRModule, func: str) -> Function:
    tvm = _import_tvm()
    if not isinstance(mod, tvm.IRModule):
        raise GraphError(f"expected a tvm.IRModule, got {type(mod).__name__}: pass the module")
    function = next((f for v, f in mod.functions.items() if v.name_hint == func), None)
    if isinstance(function, tvm.relax.Function):
        return function
    kinds = [(v.name_hint, isinstance(f, tvm.relax.Function)) for v, f in mod.functions.items()]
    names = ", ".join(sorted(name for name, is_relax in kinds if is_relax))
    if not names:
        raise GraphError("the module has no Relax function: export it before it is lowered")
    what = "is no Relax function" if function is not None else "is not in the module"
    raise GraphError(f'"{func}" {what}; its Relax functions are {names}: pass func=')


def _count_inputs(function: Function) -> int:
    total = len(function.params)
    declared = function.attrs.get("num_input") if function.attrs is not None else None
    return total if declared is None else min(int(declared), total)


def graph_from_arrays(arrays: GraphArrays, name: str = "") -> OpGraph:
    """Turns a walk's arrays into a graph: canonical names and attributes, constants folded away."""
    reader = _Reader(arrays)
    for i in range(len(arrays.names)):
        reader.add(i)
    outputs = tuple(reader.edge(producer, index) for producer, index in arrays.result.tolist())
    return OpGraph(tuple(reader.operators), outputs, name)


class _Reader:
    """Grows the list of operators; operators that fold away become constants."""

    def __init__(self, arrays: GraphArrays) -> None:
        self.operators: list[Operator] = []
        self._strings, self._names = arrays.strings, arrays.names
        self._op = arrays.op.tolist()
        self._operands = _rows(arrays.operand_start, arrays.operand)
        self._outputs = _rows(arrays.output_start, arrays.output)
        self._attr_start = arrays.attr_start.tolist()
        self._attr_key = arrays.attr_key.tolist()
        self._value_start = arrays.value_start.tolist()
        self._kinds, self._words = arrays.value_kind.tolist(), arrays.value.tolist()
        dims = _rows(arrays.dim_start, arrays.dim)
        dtypes = [arrays.strings[i] for i in arrays.type_dtype.tolist()]
        self._types = [TensorType(tuple(d), dtype) for d, dtype in zip(dims, dtypes, strict=True)]
        self._canonical = {i: canonical_name("relax", self._strings[i]) for i in set(self._op)}
        self._operator_id: list[int] = []  # by walked operator; WEIGHT where it folded away

    def add(self, i: int) -> None:
        """Adds walked operator ``i``, unless it computes from constants alone."""
        raw = self._strings[self._op[i]]
        op = self._canonical[self._op[i]]
        outputs = tuple(self._types[t] for t in self._outputs[i])
        sources = [self._source(producer, index) for producer, index in self._operands[i]]
        edges = tuple(source for source in sources if isinstance(source, tuple))
        if not edges and op is not None and _folds(op, outputs):
            self._operator_id.append(WEIGHT)
            return
        types = [self._type_of(source) for source in sources]
        weights = tuple(s for s in sources if isinstance(s, TensorType))
        if op == "matmul" and isinstance(sources[1], TensorType) and len(sources[1].shape) == 2:
            op = "dense" if edges else op
        name = op or _opaque_name(raw, self._attrs(i))
        attrs: dict[str, AttrValue] = canonical_attributes(name, self._attrs(i), types, outputs)
        positions = tuple(p for p, s in enumerate(sources) if isinstance(s, TensorType))
        if positions and edges and positions[0] < len(edges):
            attrs["weight_positions"] = positions
        self._operator_id.append(len(self.operators))
        self.operators.append(Operator(name, edges, outputs, weights, attrs, self._names[i]))

    def edge(self, producer: int, index: int) -> Edge:
        """A result of the function; a constant one becomes an operator of its own."""
        source = self._source(producer, index)
        if isinstance(source, TensorType):
            self.operators.append(Operator("constant", (), (source,), (source,)))
            return len(self.operators) - 1, 0
        return source

    def _source(self, producer: int, index: int) -> Edge | TensorType:
        if producer == WEIGHT:
            return self._types[index]
        operator = self._operator_id[producer]
        if operator == WEIGHT:
            index = self._outputs[producer][index]
            return self._types[index]
        return operator, index

    def _type_of(self, source: Edge | TensorType) -> TensorType:
        if isinstance(source, TensorType):
            return source
        return self.operators[source[0]].outputs[source[1]]

    def _attrs(self, i: int) -> dict[str, Any]:
        read = range(self._attr_start[i], self._attr_start[i + 1])
        return {
            self._strings[self._attr_key[k]]: read_value(
                self._kinds, self._words, self._value_start[k], self._strings
            )[0]
            for k in read
        }


def _opaque_name(raw: str, attrs: dict[str, Any]) -> str:
    """Name of an operator that the catalogue does not have; a function's is told by its own."""
    if raw in ("relax.call_tir", "relax.call_tir_inplace") and attrs.get("arg0"):
        return f"tir.{attrs['arg0']}"
    return raw.removeprefix("relax.")


def _folds(op: str, outputs: tuple[TensorType, ...]) -> bool:
    """Whether an operator without activations is computed before the network runs."""
    static = all(-1 not in t.shape for t in outputs)
    return static and op in CATALOGUE and op != "random_multinomial"


def _rows(start: Any, column: Any) -> list[list[Any]]:
    bounds, values = start.tolist(), column.tolist()
    return [values[a:b] for a, b in _pairs(bounds)]


def _pairs(bounds: list[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(bounds)
