"""What the JSON of a Relax module may hold, checked before TVM sees it.

TVM's reader trusts its input: an index out of range is a crash, and a module may name any packed
function of the process or any C function, which run when the module does, or, as functions that
derive a type, already when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tvm_costmodel.errors import ModelFileError

_CONTAINERS = ("ffi.Array", "ffi.Map", "ffi.List", "ffi.Dict")
_KINDS = re.compile(
    r"None|int|bool|float|DataType|Device|dtype|(ffi|ir|prim|relax|tirx|s_tir|sym|target|arith)\.\S+"
)
_RUN_CODE = re.compile(r"(ffi\.(?!Array|Map|List|Dict|String|Bytes|Tensor|Shape).*|.*PyFunc.*)")
_DERIVES_TYPE = re.compile(r"tvm\.relax\.(type|struct_info)\.infer_\w+")
_OUR_OWN = re.compile(
    r"tvm\.contrib\.(sort|random)\.\w+"
    r"|relax\.run\.(shape_to_tensor|unique|nonzero|assert_op|print)"
    r"|vm\.builtin\.(match_shape|make_shape|check_\w+_info|alloc_shape_heap|make_prim_value"
    r"|match_prim_value|alloc_storage|alloc_tensor|shape_of|copy|reshape|null_value|to_device"
    r"|read_if_cond|tuple_getitem|tuple_reset_item|make_tuple|tensor_to_shape|ensure_zero_offset"
    r"|make_closure|invoke_closure|call_tir_dyn)"
    r"|(fast_)?(exp|exp2|exp10|log|log2|log10|log1p|pow|sqrt|sin|cos|tan|asin|acos|atan|atan2|sinh"
    r"|cosh|tanh|asinh|acosh|atanh|erf|floor|ceil|trunc|round|nearbyint|rint|fabs|fmod|fma|hypot"
    r"|ldexp|nextafter|copysign)f?"
)
"""Functions that TVM's own front ends and lowering call."""
_CALLS_BY_NAME = re.compile(
    r"(tirx|tir)\.(call_extern|call_pure_extern|tvm_call_\w*packed\w*|call_packed\w*|call_cpacked\w*"
    r"|anylist_\w+|tvm_static_handle|lookup_param|start_profile_intrinsic)|relax\.call_py_func"
)
_PRAGMA = re.compile(r"pragma_import_\w+|pragma_debug\w*|cl-opt")


def check_relax_json(module: Any, label: str) -> None:
    """Refuses JSON of a module that is malformed or calls functions that are not TVM's own.

    Args:
        module: The parsed JSON.
        label: The file's name in messages.

    Raises:
        ModelFileError: An index points nowhere, a node is of no kind that a module holds, or a
            foreign function is called.
    """
    nodes = module.get("nodes")
    root = module.get("root_index")
    if not isinstance(nodes, list) or not _is_index(root, nodes):
        _damaged(label, f"root_index {str(root)[:40]} points at no node")
    extra = sorted(set(module) - {"root_index", "nodes", "metadata"})
    if extra:
        _damaged(label, f"it holds {', '.join(extra)[:80]}")
    for i, node in enumerate(nodes):
        _check_node(i, node, len(nodes), label)
    if nodes[root]["type"] != "ir.IRModule":
        raise ModelFileError(
            f"{label}: TVM's JSON of {nodes[root]['type'][:60]}, but no module; save a Relax "
            "module with tvm.ir.save_json"
        )
    foreign = sorted(set(_foreign_functions(nodes)))
    if foreign:
        raise ModelFileError(
            f"{label}: the module calls {', '.join(foreign)[:200]}, which is no function of TVM's "
            "own operators, and what it does is not known; save the module before it is "
            "partitioned or lowered for an external library"
        )


def _check_node(i: int, node: Any, count: int, label: str) -> None:
    kind = node.get("type") if isinstance(node, dict) else None
    if not isinstance(kind, str) or not _KINDS.fullmatch(kind) or _RUN_CODE.fullmatch(kind):
        _damaged(label, f"node {i} is of the kind {str(kind)[:60]!r}, which no module holds")
    value = node.get("data")
    if kind in _CONTAINERS:
        # children come before those that hold them, so that nothing holds itself
        if not isinstance(value, list) or not all(type(n) is int and 0 <= n < i for n in value):
            _damaged(label, f"node {i} ({kind}) does not list nodes before it")
        if kind in ("ffi.Map", "ffi.Dict") and len(value) % 2:
            _damaged(label, f"node {i} ({kind}) has a key without a value")
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, list | dict) or (type(item) is int and abs(item) >= 1 << 63):
                _damaged(label, f"{name} of node {i} ({kind}) is {str(item)[:40]}")
    elif isinstance(value, list):
        _damaged(label, f"node {i} ({kind}) holds a list")
    elif kind in ("ffi.String", "ffi.Tensor", "ir.Op", "ir.EnvFunc"):
        if not isinstance(value, str):
            _damaged(label, f"node {i} ({kind}) holds no text")
    elif "." in kind and value is not None and not isinstance(value, str):
        _damaged(label, f"node {i} ({kind}) has no fields")
    if kind in ("ir.IRModule", "ir.Call", "relax.expr.Function"):
        if not isinstance(value, dict):
            _damaged(label, f"node {i} ({kind}) has no fields")
        for name, item in value.items():
            if type(item) is int and not 0 <= item < count:
                _damaged(label, f"{name} of node {i} ({kind}) points at no node")


def _foreign_functions(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the functions that a module calls, its own and TVM's left out."""
    foreign = []
    for node in nodes:
        kind, value = node["type"], node.get("data")
        if kind == "ir.EnvFunc" and not _DERIVES_TYPE.fullmatch(str(value)):
            foreign.append(str(value))
        elif kind == "relax.expr.ExternFunc":
            name = _text_at(nodes, value.get("global_symbol") if isinstance(value, dict) else None)
            if name is None or not _OUR_OWN.fullmatch(name):
                foreign.append(name or "a function without a name")
        elif kind == "ffi.String" and _PRAGMA.fullmatch(str(value)):
            foreign.append(str(value))
        elif kind == "ir.Call" and isinstance(value, dict):
            foreign += _called_by_name(nodes, value)
    return foreign


def _called_by_name(nodes: Sequence[Mapping[str, Any]], call: Mapping[str, Any]) -> list[str]:
    """The foreign function that a call of TIR's ``call_extern`` and its like names."""
    op = _node_at(nodes, call.get("op"))
    if op is None or op["type"] != "ir.Op" or not _CALLS_BY_NAME.fullmatch(str(op["data"])):
        return []
    arguments = _node_at(nodes, call.get("args"))
    first = arguments["data"][0] if arguments and arguments.get("data") else None
    literal = _node_at(nodes, first)
    value = literal.get("data") if literal else None
    name = _text_at(nodes, value.get("value") if isinstance(value, dict) else first)
    if name is not None and _OUR_OWN.fullmatch(name):
        return []
    return [name or f"{op['data']} of a name that is computed"]


def _is_index(value: Any, nodes: Sequence[Any]) -> bool:
    return type(value) is int and 0 <= value < len(nodes)


def _node_at(nodes: Sequence[Mapping[str, Any]], index: Any) -> Mapping[str, Any] | None:
    return nodes[index] if _is_index(index, nodes) else None


def _text_at(nodes: Sequence[Mapping[str, Any]], index: Any) -> str | None:
    if isinstance(index, str):
        return index
    node = _node_at(nodes, index)
    return node["data"] if node is not None and node["type"] == "ffi.String" else None


def _damaged(label: str, what: str) -> NoReturn:
    raise ModelFileError(
        f"{label}: damaged JSON of a Relax module: {what}; save it again with tvm.ir.save_json"
    )
