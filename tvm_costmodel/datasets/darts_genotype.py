"""DARTS genotypes in the form that papers and code print them.

``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...],
reduce_concat=[...])`` (Liu et al., ICLR 2019, ``cnn/genotypes.py``).
"""

from __future__ import annotations

import ast
from typing import Any

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import DARTS_OPERATIONS, darts_cell

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...], "
    "reduce_concat=[2, 3, 4, 5])"
)


def parse_genotype(text: str) -> tuple[OpGraph, OpGraph]:
    """Normal and reduction cell of a printed genotype; nothing in the text is run.

    Raises:
        GraphError: The text is no genotype, has an unknown operation, not eight choices a cell, or
            concatenates other states than 2 to 5.
    """
    printed = text.partition("=")[2] if _named(text) else text
    try:
        call = ast.parse(printed.strip(), mode="eval")
    except (SyntaxError, ValueError):
        raise GraphError(f"{text[:40]!r} is no genotype: give {_EXAMPLE}") from None
    body = call.body
    if not isinstance(body, ast.Call) or [k.arg for k in body.keywords] != list(_FIELDS):
        raise GraphError(f"{text[:40]!r} is no genotype: give {_EXAMPLE}")
    fields = {str(keyword.arg): _value(keyword.value) for keyword in body.keywords}
    for name in ("normal_concat", "reduce_concat"):
        if list(fields[name]) != [2, 3, 4, 5]:
            raise GraphError(
                f"{name} is {fields[name]}: only cells that concatenate states 2 to 5 can be read"
            )
    return _cell(fields["normal"]), _cell(fields["reduce"])


def _named(text: str) -> bool:
    """Whether a name is assigned to, as in ``DARTS_V2 = Genotype(...)``."""
    return text.partition("=")[0].strip().isidentifier()


def _value(node: ast.expr) -> Any:
    if ast.unparse(node) == "range(2, 6)":
        return [2, 3, 4, 5]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise GraphError(f"{ast.unparse(node)[:40]!r} is no list of a genotype") from None


def _cell(choices: Any) -> OpGraph:
    pairs = []
    for choice in choices:
        name, source = choice if isinstance(choice, tuple) and len(choice) == 2 else (choice, None)
        if name not in DARTS_OPERATIONS or not isinstance(source, int):
            raise GraphError(
                f"{choice!r} is no choice of (operation, source) with an operation of "
                f"{', '.join(DARTS_OPERATIONS)}"
            )
        pairs.append((source, name))
    return darts_cell(pairs)
