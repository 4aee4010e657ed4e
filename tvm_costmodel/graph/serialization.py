"""Canonical JSON of an OpGraph: writing, and reading with every field checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tvm_costmodel.bounded_reading import parse_json
from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType

FORMAT = "tvm-costmodel.opgraph"
VERSION = 1
MAX_OPERATORS = 200_000
"""Most operators of a graph that is read."""

_LARGE = 1 << 62
_MAX_ATTRIBUTE_DEPTH = 8

Types = tuple[TensorType, ...]

_CHECKED: dict[str, tuple[Types, Types, dict[str, AttrValue]]] = {}
"""Outputs, weights and attributes as read, by their JSON: label sets repeat them often."""
_MOST_CHECKED, _LONGEST_CHECKED = 1 << 14, 1 << 12


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


def parse(text: str) -> tuple[tuple[Operator, ...], tuple[Edge, ...], str]:
    """Reads a graph's operators, outputs and name from canonical JSON.

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


def _graph(payload: Any) -> tuple[tuple[Operator, ...], tuple[Edge, ...], str]:
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        got = payload.get("format") if isinstance(payload, dict) else type(payload).__name__
        raise GraphError(
            f'this JSON is not a graph: "format" is {got!r}, not "{FORMAT}"; '
            "export the model with `tvm-costmodel export`"
        )
    if payload.get("version") != VERSION or payload["version"] is True:
        raise GraphError(
            f"the graph has schema version {payload.get('version')!r}, this package reads "
            f"{VERSION}: export the model again with `tvm-costmodel export`"
        )
    _check_keys(payload, {"format", "version", "operators", "outputs", "name"}, "the graph")
    operators = _list(payload.get("operators"), "operators")
    if len(operators) > MAX_OPERATORS:
        raise GraphError(
            f"the graph has {len(operators)} operators, at most {MAX_OPERATORS} are read; export a "
            "part of the network"
        )
    return (
        tuple(_operator(item, i) for i, item in enumerate(operators)),
        _edges(payload.get("outputs"), "the graph's outputs"),
        _string(payload.get("name", ""), "the graph's name"),
    )


def _operator(item: Any, i: int) -> Operator:
    where = f"operator {i}"
    if not isinstance(item, dict):
        _wrong(where, "an object", item)
    if not item.keys() <= _FIELDS:
        _check_keys(item, _FIELDS, where)
    op = _string(item.get("op"), f"op of {where}")
    if not op:
        _wrong(f"op of {where}", "a name", op)
    outputs, weights, attrs = _contents(item, where)
    return Operator(
        op=op,
        inputs=_edges(item.get("inputs", []), f"inputs of {where}"),
        outputs=outputs,
        weights=weights,
        attrs=dict(attrs),
        name=_string(item.get("name", ""), f"name of {where}"),
    )


_FIELDS = {"op", "inputs", "outputs", "weights", "attrs", "name"}


def _contents(item: dict[str, Any], where: str) -> tuple[Types, Types, dict[str, AttrValue]]:
    """Outputs, weights and attributes of an operator."""
    outputs, weights, attrs = item.get("outputs"), item.get("weights", []), item.get("attrs", {})
    key = _shown((outputs, weights, attrs))
    if found := _CHECKED.get(key):
        return found
    if not isinstance(attrs, dict):
        _wrong(f"attrs of {where}", "an object", attrs)
    checked = (
        _types(outputs, f"outputs of {where}"),
        _types(weights, f"weights of {where}"),
        {name: _value(value, f"{name} of {where}") for name, value in attrs.items()},
    )
    if len(_CHECKED) >= _MOST_CHECKED:
        _CHECKED.clear()
    if len(key) <= _LONGEST_CHECKED:
        _CHECKED[key] = checked
    return checked


def _edges(items: Any, where: str) -> tuple[Edge, ...]:
    edges = []
    for item in _list(items, where):
        if not isinstance(item, list) or len(item) != 2 or not all(map(_is_int, item)):
            _wrong(where, "pairs [operator, output index]", item)
        edges.append((item[0], item[1]))
    return tuple(edges)


def _types(items: Any, where: str) -> Types:
    types = []
    for item in _list(items, where):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
            _wrong(where, "pairs [dtype, shape]", item)
        dtype, shape = item
        if not isinstance(shape, list) or not all(_is_int(n) and -1 <= n < _LARGE for n in shape):
            _wrong(where, "shapes of integers from -1 (dynamic) to below 2**62", shape)
        types.append(TensorType(tuple(shape), dtype))
    return tuple(types)


def _value(value: Any, where: str, depth: int = 0) -> Any:
    if isinstance(value, list) and depth < _MAX_ATTRIBUTE_DEPTH:
        return tuple(_value(item, where, depth + 1) for item in value)
    if isinstance(value, dict) and value in ({"float": "inf"}, {"float": "-inf"}, {"float": "nan"}):
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
