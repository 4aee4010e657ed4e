"""Reads Relay's types and attributes as plain Python.

Every access to an object of TVM takes microseconds, so values that are read twice are cached here.
"""

from __future__ import annotations

import importlib
from typing import Any

from tvm_costmodel.errors import GraphError
from tvm_costmodel.frontends.graph_arrays import WEIGHT, GraphArraysBuilder
from tvm_costmodel.frontends.relay.op_conversion import BOOLEANS, READ
from tvm_costmodel.frontends.values import Aggregate, Leaf, Value
from tvm_costmodel.graph.types import TensorType

UNTYPED = (
    "the module has no types: run relay.transform.InferType()(mod) first, or export with the pass "
    "tvm_costmodel.frontends.relay.export.ExportGraph, which infers them"
)


def address(expr: Any) -> int:
    """The address of an object of TVM, which identifies it."""
    return int(expr.handle.value)


class RelayReader:
    """Reads for one walk.

    Args:
        build: The arrays that the walk fills; it numbers the types.

    Attributes:
        types: Types by their id.
    """

    def __init__(self, build: GraphArraysBuilder) -> None:
        relay: Any = importlib.import_module("tvm.relay")
        tvm: Any = importlib.import_module("tvm")
        self._relay, self._ir = relay, tvm.ir
        self._immediate = (tvm.tir.IntImm, tvm.tir.FloatImm, tvm.tir.StringImm)
        self._size: Any = tvm.get_global_func("runtime.ArraySize")
        self._item: Any = tvm.get_global_func("runtime.ArrayGetItem")
        self._build = build
        self.types: dict[int, TensorType] = {}
        self._type_ids: dict[int, int] = {}  # type id by the type's address
        self._op_names: dict[int, str] = {}  # by the operator's address
        self._keys: dict[str, list[str]] = {}  # attributes by Relay's name of the operator

    def type_of(self, expr: Any) -> Any:
        """The type of an expression, as TVM has it.

        Raises:
            GraphError: It was not inferred.
        """
        ty = expr._checked_type_
        if ty is None:
            raise GraphError(UNTYPED)
        return ty

    def unfold(self, ty: Any, producer: int, outputs: list[int]) -> Value:
        """The value of a type, its tensors numbered depth first."""
        if isinstance(ty, self._relay.TupleType):
            return Aggregate(tuple(self.unfold(item, producer, outputs) for item in ty.fields))
        if isinstance(ty, self._relay.TensorType):
            outputs.append(self._tensor_type(ty))
        elif isinstance(ty, self._ir.IncompleteType):
            raise GraphError(UNTYPED)
        else:  # functions, data types, references
            outputs.append(self.type_id("object", ()))
        return Leaf(producer, outputs[-1] if producer == WEIGHT else len(outputs) - 1)

    def _tensor_type(self, ty: Any) -> int:
        """Id of a tensor's type; a type that several expressions share is read once."""
        key = address(ty)
        type_id = self._type_ids.get(key)
        if type_id is None:
            type_id = self.type_id(str(ty.dtype), self._extents(ty.shape))
            self._type_ids[key] = type_id
        return type_id

    def type_id(self, dtype: str, shape: tuple[int, ...]) -> int:
        """Id of a type, which is added where it is new."""
        type_id = self._build.type(dtype, shape)
        self.types.setdefault(type_id, TensorType(shape, dtype))
        return type_id

    def leaf_type(self, leaf: Leaf) -> TensorType:
        """Type of one tensor."""
        if leaf.producer == WEIGHT:
            return self.types[leaf.index]
        return self.types[self._build.output_type(leaf.producer, leaf.index)]

    def _extents(self, shape: Any) -> tuple[int, ...]:
        whole = self._immediate[0]
        return tuple(extent.value if type(extent) is whole else -1 for extent in self.items(shape))

    def items(self, array: Any) -> list[Any]:
        """The items of an array; its own iterator takes three times as long."""
        return [self._item(array, i) for i in range(self._size(array))]

    def op_name(self, op: Any) -> str:
        """Relay's name of an operator."""
        key = address(op)
        name = self._op_names.get(key)
        if name is None:
            name = self._op_names[key] = str(op.name)
        return name

    def attributes(self, call: Any, raw: str, known: bool) -> dict[str, Any]:
        """Attributes of a call by Relay's names; of an operator unknown here, all of them."""
        attrs = call.attrs
        if attrs is None:
            return {}
        keys = self._keys.get(raw)
        if keys is None:
            every = [str(name) for name in attrs.keys()]
            keys = self._keys[raw] = [k for k in every if k in READ] if known else every
        values = {key: self._plain(getattr(attrs, key)) for key in keys}
        for key in BOOLEANS.intersection(keys) if known else ():
            values[key] = bool(values[key])  # which come as 0 and 1
        return {key: value for key, value in values.items() if value is not None}

    def _plain(self, value: Any) -> Any:
        """An attribute's value in plain Python."""
        if value is None or type(value) in (bool, int, float):
            return value
        if isinstance(value, str):
            return str(value)
        if type(value) in self._immediate:
            return value.value
        if type(value) is self._ir.Array:
            return tuple(self._plain(item) for item in self.items(value))
        return -1 if isinstance(value, self._ir.PrimExpr) else "object"
