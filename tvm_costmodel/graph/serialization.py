"""Canonical JSON of an OpGraph: writing, and reading with every field checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from tvm_costmodel.bounded_reading import parse_json
from tvm_costmodel.errors import GraphError

if TYPE_CHECKING:
    from tvm_costmodel.graph.types import Edge, Operator, TensorType

FORMAT = "tvm-costmodel.opgraph"
VERSION = 1

_LARGE = 1 << 62
_MAX_ATTRIBUTE_DEPTH = 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OperatorRecord:
    """One operator as read: the fields of `Operator`, types as (shape, dtype)."""

    op: str
    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[Shape, str], ...]
    weights: tuple[tuple[Shape, str], ...]
    attrs: dict[str, Any]
    name: str


@dataclass(frozen=True)
class GraphRecord:
    """A graph as read, before its operators are checked against each other."""

    operators: tuple[OperatorRecord, ...]
    outputs: tuple[tuple[int, int], ...]
    name: str


def encode(operators: Sequence[Operator], outputs: Sequence[Edge], name: str = "") -> str:
    """Writes a graph as canonical JSON: sorted keys, no spaces, empty fields left out.

    Args:
        operators: Operators of the graph, in topological order.
        outputs: ``(operator, output index)`` of each result of the network.
        name: Name of the graph.

    Raises:
        GraphError: An attribute is no int, float, str, bool or tuple of those.
    """
    records = []
    for operator in operators:
        record = _content(operator.op, operator.attrs, operator.outputs, operator.weights)
        if operator.inputs:
            record["inputs"] = operator.inputs
        if operator.name:
            record["name"] = operator.name
        records.append(record)
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "operators": records,
        "outputs": outputs,
    }
    if name:
        payload["name"] = name
    return _dumps(payload, "the graph")


def label(
    op: str,
    attrs: Mapping[str, Any],
    outputs: Sequence[TensorType],
    weights: Sequence[TensorType],
) -> str:
    """Canonical JSON of what an operator is, without its name and its inputs."""
    return _dumps(_content(op, attrs, outputs, weights), f"operator {op}")


def _content(
    op: str,
    attrs: Mapping[str, Any],
    outputs: Sequence[TensorType],
    weights: Sequence[TensorType],
) -> dict[str, Any]:
    record: dict[str, Any] = {"op": op, "outputs": [(t.dtype, t.shape) for t in outputs]}
    if weights:
        record["weights"] = [(t.dtype, t.shape) for t in weights]
    if attrs:
        record["attrs"] = {key: _encode_value(value) for key, value in attrs.items()}
    return record


def _encode_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, tuple):
        return [_encode_value(item) for item in value]
    return value


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _dumps(payload: Any, what: str) -> str:
    try:
        return _ENCODER.encode(payload)
    except (TypeError, ValueError) as error:
        raise GraphError(
            f"{what} holds a value that has no canonical form ({error}): "
            "attributes must be int, float, str, bool or tuples of those"
        ) from error


def parse(text: str) -> GraphRecord:
    """Reads canonical JSON into records.

    Raises:
        GraphError: The text is no JSON, no graph, of another version, or a field is missing or of
            the wrong type.
    """
    try:
        return _graph(parse_json(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise GraphError(
            f"this is no JSON graph ({error}): export the model again with `tvm-costmodel export`"
        ) from error


def _graph(payload: Any) -> GraphRecord:
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        got = payload.get("format") if isinstance(payload, dict) else type(payload).__name__
        raise GraphError(
            f'this JSON is not a graph: "format" is {got!r}, not "{FORMAT}"; '
            "export the model with `tvm-costmodel export`"
        )
    if payload.get("version") != VERSION:
        raise GraphError(
            f"the graph has schema version {payload.get('version')!r}, this package reads "
            f"{VERSION}: export the model again with `tvm-costmodel export`"
        )
    _check_keys(payload, {"format", "version", "operators", "outputs", "name"}, "the graph")
    operators = _list(payload.get("operators"), "operators")
    return GraphRecord(
        operators=tuple(_operator(item, i) for i, item in enumerate(operators)),
        outputs=_edges(payload.get("outputs"), "the graph's outputs"),
        name=_string(payload.get("name", ""), "the graph's name"),
    )


def _operator(item: Any, i: int) -> OperatorRecord:
    where = f"operator {i}"
    if not isinstance(item, dict):
        _wrong(where, "an object", item)
    _check_keys(item, {"op", "inputs", "outputs", "weights", "attrs", "name"}, where)
    attrs = item.get("attrs", {})
    if not isinstance(attrs, dict):
        _wrong(f"attrs of {where}", "an object", attrs)
    op = _string(item.get("op"), f"op of {where}")
    if not op:
        _wrong(f"op of {where}", "a name", op)
    return OperatorRecord(
        op=op,
        inputs=_edges(item.get("inputs", []), f"inputs of {where}"),
        outputs=_types(item.get("outputs"), f"outputs of {where}"),
        weights=_types(item.get("weights", []), f"weights of {where}"),
        attrs={key: _value(value, f"{key} of {where}") for key, value in attrs.items()},
        name=_string(item.get("name", ""), f"name of {where}"),
    )


def _edges(items: Any, where: str) -> tuple[tuple[int, int], ...]:
    edges = []
    for item in _list(items, where):
        if not isinstance(item, list) or len(item) != 2 or not all(map(_is_int, item)):
            _wrong(where, "pairs [operator, output index]", item)
        edges.append((item[0], item[1]))
    return tuple(edges)


def _types(items: Any, where: str) -> tuple[tuple[Shape, str], ...]:
    types = []
    for item in _list(items, where):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
            _wrong(where, "pairs [dtype, shape]", item)
        dtype, shape = item
        if not isinstance(shape, list) or not all(_is_int(n) and -1 <= n < _LARGE for n in shape):
            _wrong(where, "shapes of integers from -1 (dynamic) to below 2**62", shape)
        types.append((tuple(shape), dtype))
    return tuple(types)


def _value(value: Any, where: str, depth: int = 0) -> Any:
    if isinstance(value, list) and depth < _MAX_ATTRIBUTE_DEPTH:
        return tuple(_value(item, where, depth + 1) for item in value)
    if isinstance(value, dict) and set(value) == {"float"}:
        if value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
    if isinstance(value, (float, str)) or (isinstance(value, int) and abs(value) < 2 * _LARGE):
        return value
    _wrong(where, "an int of 64 bits, float, str, bool or list of those", value)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        _wrong(where, "a list", value)
    return value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        _wrong(where, "a string", value)
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_keys(record: Mapping[str, Any], allowed: set[str], where: str) -> None:
    extra = sorted(set(record) - allowed)
    if extra:
        _wrong(where, f"only the fields {', '.join(sorted(allowed))}", extra)


def _shown(got: Any) -> str:
    try:
        return repr(got)
    except ValueError:  # integers of thousands of digits have no text
        return f"a {type(got).__name__} with numbers of thousands of digits"


def _wrong(where: str, expected: str, got: Any) -> NoReturn:
    text = _shown(got)
    text = text if len(text) <= 80 else text[:77] + "..."
    raise GraphError(
        f"{where}: expected {expected}, got {text}; "
        "export the model again with `tvm-costmodel export`"
    )
