"""Whether a graph can be a network at all: element types, extents, sizes, and shapes that fit.

Front ends make only graphs that pass. A graph's JSON may come from anywhere, and a predictor asked
about an impossible graph would answer with a number that means nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.ops import CATALOGUE, OpCost

MAX_AMOUNT = 1 << 50
"""Most FLOPs and most bytes of one pass: a petabyte, hours on the largest machine."""
MAX_ATTRIBUTE = 1 << 40

_DTYPE = re.compile(
    r"bool|shape|object|handle|string|bfloat16|u?int(1|2|4|8|16|32|64)|float(4|6|8|16|32|64|128)"
    r"|float(4|6|8)_e\dm\d\w*|e\dm\d_float(4|6|8)"
)
_DTYPES: set[str] = set()  # those that were met and are known
_COUNTS = frozenset("kernel strides dilation groups in_channels out_channels".split())
_AMOUNTS = _COUNTS | frozenset("padding in_features out_features k".split())
_AMOUNTS_OF = {
    name: tuple(sorted(_AMOUNTS.intersection(spec.attrs)))
    for name, spec in CATALOGUE.items()
    if _AMOUNTS.intersection(spec.attrs)
}
_SAME_ELEMENTS = frozenset(
    "reshape flatten batch_flatten squeeze expand_dims transpose copy flip roll tril triu "
    "channel_shuffle pixel_shuffle depth_to_space space_to_depth reverse_sequence".split()
)
_COMPUTE_NOTHING = frozenset({"input", "constant"}) | {
    name for name, spec in CATALOGUE.items() if spec.is_view
}
_LETTERS = re.compile("[A-Z]+")

Types = Sequence[TensorType]


def fault_of(
    operators: Sequence[Operator],
    results: Types,
    reads: Sequence[Types],
    costs: Callable[[], Sequence[OpCost]],
) -> str:
    """What makes a graph impossible; empty for a graph that can be a network.

    Args:
        operators: Its operators.
        results: Types of its outputs.
        reads: Types of the activations that each operator reads.
        costs: Computes the cost of each operator; called once everything else is sound.
    """
    if all(operator.op in _COMPUTE_NOTHING for operator in operators):
        return "it has no operators that compute"
    if not results:
        return "it has no outputs"
    inputs = [t for operator in operators if operator.op == "input" for t in operator.outputs]
    if any(t.elements == 0 for t in results):
        return "an output has no elements (a batch or an extent of 0)"
    if inputs and all(t.elements == 0 for t in inputs):
        return "its inputs have no elements (a batch or an extent of 0)"
    for i, (operator, read) in enumerate(zip(operators, reads, strict=True)):
        fault = _operator_fault(operator, read)
        if fault:
            return f"operator {i} ({operator.op}) {fault}"
    return _size_fault(costs())


def _size_fault(costs: Sequence[OpCost]) -> str:
    flops = sum(cost.flops for cost in costs)
    moved = sum(cost.bytes for cost in costs)
    for amount, what in ((flops, "FLOPs"), (moved, "bytes")):
        if amount > MAX_AMOUNT:
            return f"one pass takes 2**{amount.bit_length() - 1} {what}, more than 2**50"
    return ""


def _operator_fault(operator: Operator, reads: Types) -> str:
    for kind in (*operator.outputs, *operator.weights):
        if kind.dtype not in _DTYPES and (fault := _dtype_fault(kind.dtype)):
            return fault
    op = operator.op
    spec = CATALOGUE.get(op)
    if op == "input":
        return _type_fault(operator)
    if spec is None:
        return ""
    if op in _AMOUNTS_OF and operator.attrs and (fault := _attribute_fault(operator)):
        return fault
    if not operator.outputs:
        return "has no output"
    operands = (*reads, *operator.weights) if operator.weights else reads
    if not operands:
        return "" if spec.category in ("creation", "indexing", "vision") else "reads nothing"
    check = _CHECKS.get(op) or _CHECKS.get(spec.category)
    if check is None or check(operator, operands) or _is_open(operator, operands):
        return ""
    read, written = (", ".join(map(_text, kinds[:4])) for kinds in (operands, operator.outputs))
    return f"cannot make {written} of {read}"


def _is_open(operator: Operator, operands: Types) -> bool:
    """Whether a shape is unknown until run time, or a value is no tensor."""
    types = (*operator.outputs, *operands)
    return any(-1 in t.shape or t.dtype in ("shape", "object") for t in types)


def _dtype_fault(dtype: str) -> str:
    if _DTYPE.fullmatch(dtype):
        _DTYPES.add(dtype)
        return ""
    return f"has an unknown element type {dtype[:40]!r}"


def _type_fault(operator: Operator) -> str:
    for kind in operator.outputs:
        if kind.bytes > MAX_AMOUNT:
            return f"has a value of 2**{kind.bytes.bit_length() - 1} bytes, more than 2**50"
    return ""


def _attribute_fault(operator: Operator) -> str:
    for name in _AMOUNTS_OF[operator.op]:
        value = operator.attrs.get(name, 1)
        low = 1 if name in _COUNTS else -MAX_ATTRIBUTE
        for item in value if isinstance(value, tuple) else (value,):
            if type(item) is not int:
                return f"has {name} {str(item)[:40]!r}, which is no integer"
            if not low <= item <= MAX_ATTRIBUTE and item != -1:
                return f"has {name} {str(item)[:40]}, not {low} to 2**40"
    return ""


def _text(kind: TensorType) -> str:
    extents = [str(n) if n < 1 << 40 else f"2**{n.bit_length() - 1}" for n in kind.shape[:8]]
    return f"{kind.dtype}({', '.join(extents)})"


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape that NumPy's rules give; None where they give none."""
    result = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i, extent in enumerate(reversed(shape), 1):
            if extent == 1 or result[-i] == extent:
                continue
            if result[-i] != 1:
                return None
            result[-i] = extent
    return tuple(result)


def _fits_elementwise(operator: Operator, operands: Types) -> bool:
    out = operator.outputs[0].shape
    if operands[0].shape == out:
        return True
    shapes = [kind.shape for kind in operands]
    return out in shapes or out == _broadcast(shapes)


def _keeps_shape(operator: Operator, operands: Types) -> bool:
    return operator.outputs[0].shape == operands[0].shape


def _keeps_elements(operator: Operator, operands: Types) -> bool:
    return operator.outputs[0].elements == operands[0].elements


def _shrinks(operator: Operator, operands: Types) -> bool:
    return operator.outputs[0].elements <= max(kind.elements for kind in operands)


def _concatenates(operator: Operator, operands: Types) -> bool:
    return operator.outputs[0].elements == sum(kind.elements for kind in operands)


def _splits(operator: Operator, operands: Types) -> bool:
    return sum(kind.elements for kind in operator.outputs) <= operands[0].elements


def _multiplies(operator: Operator, operands: Types) -> bool:
    """Whether two operands share an inner extent, whichever of them is transposed."""
    if len(operands) < 2 or any(not kind.shape for kind in operands[:2]):
        return False
    left, right = (kind.shape[-2:] for kind in operands[:2])
    inner = operator.attrs.get("k", operator.attrs.get("in_features"))
    if isinstance(inner, int) and inner != -1 and inner not in left:
        return False
    out = operator.outputs[0].elements
    work = operands[0].elements * operands[1].elements
    batch = max(math.prod(kind.shape[:-2]) for kind in operands[:2])
    return any(out * n * n <= work * batch for n in set(left) & set(right))


def _slides(operator: Operator, operands: Types) -> bool:
    """Whether a window over the first operand can give the result."""
    attrs, shape, out = operator.attrs, operands[0].shape, operator.outputs[0].shape
    letters = str(attrs.get("data_layout", attrs.get("layout", "NCHW")))
    if len(shape) != len(out) or len(shape) < 2:
        return False
    batch = letters.find("N") if _LETTERS.fullmatch(letters) else 0
    if 0 <= batch < len(shape) and shape[batch] != out[batch]:
        return False
    if CATALOGUE[operator.op].category != "convolution" or len(operands) < 2:
        return True
    if len(operands[1].shape) < len(shape) - 1 or not _weights_suffice(operator, operands[1]):
        return False
    return operator.op.endswith("_transpose") or _fits_window(operator, shape, out, letters)


def _weights_suffice(operator: Operator, weights: TensorType) -> bool:
    """Whether the weights are as many as the attributes say; packed ones may be more."""
    attrs = operator.attrs
    counts = [attrs.get(name, 1) for name in ("in_channels", "out_channels")]
    kernel = attrs.get("kernel", ())
    window = [n for n in kernel if isinstance(n, int)] if isinstance(kernel, tuple) else []
    groups = attrs.get("groups", 1)
    known = [n for n in counts if isinstance(n, int)]
    if not isinstance(groups, int) or any(n % max(1, groups) for n in known if n != -1):
        return False
    return abs(math.prod(known + window)) // max(1, groups) <= weights.elements


def _fits_window(
    operator: Operator, shape: tuple[int, ...], out: tuple[int, ...], letters: str
) -> bool:
    padding = operator.attrs.get("padding")
    pads = [n for n in padding if isinstance(n, int)] if isinstance(padding, tuple) else shape
    extra = 2 * sum(pads)
    if not _LETTERS.fullmatch(letters) or len(letters) != len(shape):
        letters = "NC" + "DHW"[-(len(shape) - 2) :]
    spatial = [i for i, letter in enumerate(letters) if letter not in "NC"]
    return all(out[i] <= shape[i] + extra for i in spatial if i < len(out))


_CHECKS: dict[str, Callable[[Operator, Types], bool]] = {
    "elementwise": _fits_elementwise,
    "activation": _fits_elementwise,
    "normalisation": _keeps_shape,
    "reduction": _shrinks,
    "convolution": _slides,
    "pooling": _slides,
    "concat": _concatenates,
    "stack": _concatenates,
    "split": _splits,
    "strided_slice": _shrinks,
    "matmul": _multiplies,
    "dense": _multiplies,
    "outer": lambda operator, operands: len(operands) > 1,
    "einsum": lambda operator, operands: True,
    **dict.fromkeys(_SAME_ELEMENTS, _keeps_elements),
}
"""Checks of shapes by operator, or by category where the operator has none of its own."""
