"""The symbolic sizes of exported programs, checked by a grammar before sympy evaluates them.

torch writes a size as sympy's ``srepr``, such as ``Mul(Integer(2), Symbol('s77', integer=True))``,
or as plain arithmetic, and reads it with ``sympify``, which evaluates any Python.
"""

from __future__ import annotations

import ast
import re

_LONGEST = 8000
_DEEPEST = 60
_LARGEST = 1 << 63
_LARGEST_POWER = 64

_FUNCTIONS = frozenset(
    "Integer Rational Float Symbol Add Mul Pow Abs floor ceiling FloorDiv Mod PythonMod CleanDiv "
    "ModularIndexing Max Min CeilToInt FloorToInt TruncToInt RoundToInt RoundDecimal ToFloat "
    "IntTrueDiv FloatTrueDiv TruncToFloat FloatPow PowByNatural LShift RShift Where Piecewise "
    "ExprCondPair Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan "
    "GreaterThan And Or Not BooleanTrue BooleanFalse Identity IsNonOverlappingAndDenseIndicator "
    "BitwiseFn_bitwise_and BitwiseFn_bitwise_or OpaqueUnaryFn_sqrt OpaqueUnaryFn_exp "
    "OpaqueUnaryFn_log OpaqueUnaryFn_log2".split()
)
_CONSTANTS = frozenset("true false oo int_oo One Zero NegativeOne Half".split())
_ASSUMPTIONS = frozenset(
    "positive negative nonnegative nonpositive nonzero zero integer real finite even odd "
    "commutative extended_real extended_positive evaluate precision dps".split()
)
_SYMBOL = re.compile(r"_?[a-z]{1,2}\d{1,8}")
_SYMBOL_NAME = re.compile(r"(?!\w*__)[A-Za-z_]\w{0,60}")
_NUMBER = re.compile(r"-?\d{1,40}(\.\d{0,60})?(e[+-]?\d{1,2})?|-?\.\d{1,60}(e[+-]?\d{1,2})?")
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_RELATIONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def is_size(text: object) -> bool:
    """Whether a text is an arithmetic expression of symbols such as ``s0``, and harmless."""
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _fits(tree.body, 0, powers=1)


def _fits(node: ast.expr, depth: int, powers: int) -> bool:
    """Whether a part of an expression is of the grammar; ``powers`` may stand within it."""
    if depth > _DEEPEST:
        return False
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool | int | float) and abs(node.value) < _LARGEST
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.fullmatch(node.id)) or node.id in _CONSTANTS
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.UAdd | ast.Not) and _fits(
            node.operand, depth + 1, powers
        )
    if isinstance(node, ast.BinOp):
        return _fits_binary(node, depth, powers)
    if isinstance(node, ast.Compare):
        operands = (node.left, *node.comparators)
        known = all(isinstance(op, _RELATIONS) for op in node.ops)
        return known and all(_fits(operand, depth + 1, powers) for operand in operands)
    return isinstance(node, ast.Call) and _fits_call(node, depth, powers)


def _fits_binary(node: ast.BinOp, depth: int, powers: int) -> bool:
    if isinstance(node.op, ast.Pow):
        return _fits_power(node.left, node.right, depth, powers)
    known = isinstance(node.op, (*_ARITHMETIC, ast.BitAnd, ast.BitOr))
    return known and all(_fits(side, depth + 1, powers) for side in (node.left, node.right))


def _fits_power(base: ast.expr, exponent: ast.expr, depth: int, powers: int) -> bool:
    """A power of a small constant exponent, whose base holds no further power."""
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:
        exponent = exponent.args[0]  # Integer(2)
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    small = isinstance(exponent, ast.Constant) and isinstance(exponent.value, int)
    if isinstance(exponent, ast.Call):  # Rational(1, 2)
        small = _fits(exponent, depth + 1, 0)
    elif small:
        assert isinstance(exponent, ast.Constant) and isinstance(exponent.value, int)
        small = abs(exponent.value) <= _LARGEST_POWER
    return small and powers > 0 and _fits(base, depth + 1, powers - 1)


def _fits_call(node: ast.Call, depth: int, powers: int) -> bool:
    if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
        return False
    for keyword in node.keywords:
        if keyword.arg not in _ASSUMPTIONS or not isinstance(keyword.value, ast.Constant):
            return False
        if not isinstance(keyword.value.value, bool | int):
            return False
    name, arguments = node.func.id, node.args
    if name in ("Symbol", "Float") and len(arguments) == 1:
        (argument,) = arguments
        value = argument.value if isinstance(argument, ast.Constant) else None
        if isinstance(value, str):
            return bool((_SYMBOL_NAME if name == "Symbol" else _NUMBER).fullmatch(value))
        return name == "Float" and isinstance(value, int | float)
    if name in ("Pow", "PowByNatural", "FloatPow", "LShift"):
        if len(arguments) != 2:
            return False
        return _fits_power(arguments[0], arguments[1], depth, powers)
    return all(_fits(argument, depth + 1, powers) for argument in arguments)
