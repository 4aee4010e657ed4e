"""Tokens of physical quantities: what a kernel computes, moves and looks like as a matmul.

Sines of raw extents (`Tokenizer`) distinguish extents, but hide that twice the channels is twice
the work. Here every quantity is a logarithm, so that a network which is wider than any seen
before lies on the same line, and convolutions are also described as the matmuls that libraries
turn them into: a 3 x 3 convolution of 64 channels and a 1 x 1 convolution of 576 share
the extent that is summed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tvm_costmodel.errors import CheckpointError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator
from tvm_costmodel.ops import CATALOGUE, OpCost
from tvm_costmodel.tokenizer.vocabulary import SLOT_OF_OPERATOR, UNKNOWN, VOCABULARY

if TYPE_CHECKING:
    from typing_extensions import Self

PHYSICAL_VERSION = 1
"""Raised whenever the same graph would give other tokens."""

_FILLS = (4, 8, 16, 32)
FOLDED = ("batch_norm", "add", "multiply", "relu", "clip")
"""Operators that become part of the matmul or convolution before them."""
FEATURES: tuple[str, ...] = (
    *("macs", "flops", "read bytes", "weight bytes", "written bytes", "intensity"),
    *("product rows", "product columns", "product depth", "groups"),
    *("kernel height", "kernel width", "stride height", "stride width", "dilation", "padding"),
    *("in channels", "out channels"),
    *(f"output extent {i}" for i in range(4)),
    *(f"input extent {i}" for i in range(4)),
    *(f"columns filled at {v}" for v in _FILLS),
    *(f"rows filled at {v}" for v in _FILLS[:2]),
    *(f"depth filled at {v}" for v in _FILLS[:2]),
    *("depthwise", "pointwise", "grouped", "strided"),
    *("operands", "constants", "consumers", "results", "bits"),
    *(f"folded {op}" for op in FOLDED),
)
"""Names of the numbers of a token, which checkpoints hold; ``product`` is the matmul that an
operator is. Extents and amounts are natural logarithms, divided by 4; ``filled at v`` is an extent
over its next multiple of v; the rest are counts and flags."""

_CATEGORY = {
    "activation": "relu clip sigmoid silu tanh gelu",
    "elementwise": "add subtract multiply divide elementwise",
    "matmul": "conv2d conv2d_transpose dense matmul attention",
    "normalisation": "batch_norm layer_norm group_norm softmax",
    "pooling": "max_pool2d avg_pool2d reduction",
    "movement": "transpose concat split movement indexing view input",
    "other": "other unknown",
}
CATEGORY_OF_SLOT: tuple[int, ...] = tuple(
    next(c for c, names in enumerate(_CATEGORY.values()) if slot in names.split())
    for slot in VOCABULARY
)
"""Kind of work of every slot: all that is known of an operator that no training network had."""

WORK = ("gmacs", "gbytes", "operators")
"""Amounts that a roofline multiplies: 1e9 multiply-accumulates (half the other arithmetic), 1e9
bytes moved, and 1 for each operator that is no input and no view."""


@dataclass(frozen=True, eq=False)
class PhysicalTokens:
    """One graph as arrays.

    Attributes:
        slot: int64 [N], slot of each token's operator in the vocabulary.
        numbers: float32 [N, len(FEATURES)].
        work: float32 [N, 3], see `WORK`.
        edges: int32 [E, 2], (producer, consumer) without repeats.
        anchor: int64 [N], the operator of the graph that each token stands for.
    """

    slot: np.ndarray
    numbers: np.ndarray
    work: np.ndarray
    edges: np.ndarray
    anchor: np.ndarray

    def __len__(self) -> int:
        return len(self.slot)


class PhysicalTokenizer:
    """Encodes graphs as physical quantities.

    Attributes:
        version_key: Key of the version in `describe`.
        tokens: What messages call its tokens.
    """

    version_key: ClassVar[str] = "version"
    tokens: ClassVar[str] = "tokens"

    def encode(self, graph: OpGraph) -> PhysicalTokens:
        """Encodes one graph.

        Raises:
            GraphError: The graph has nothing that computes, or has dimensions unknown until run
                time.
        """
        graph.require_static()
        consumers = np.bincount(graph.edges[:, 0], minlength=len(graph)).tolist()
        anchor, folded, gates = _fold(graph, consumers)
        anchors = [i for i, at in enumerate(anchor) if at == i]
        if not anchors:
            raise GraphError("the graph has no operators that compute: export the model again")
        position = {operator: token for token, operator in enumerate(anchors)}
        numbers = [
            physical_numbers(graph.operators[i], graph.costs[i], _read(graph, i), consumers[i])
            + folded.get(i, _NOTHING)
            for i in anchors
        ]
        costs = [graph.costs[i] for i in anchors]
        arithmetic = [max(cost.macs, cost.flops / 2) / 1e9 for cost in costs]
        work = [(macs, cost.bytes / 1e9, 1.0) for macs, cost in zip(arithmetic, costs, strict=True)]
        pairs = {
            (position[anchor[src]], position[anchor[i]])
            for src, i in graph.edges.tolist()
            if anchor[src] >= 0 and anchor[i] >= 0 and anchor[src] != anchor[i]
        }
        unknown = VOCABULARY.index(UNKNOWN)
        names = ["hardswish" if i in gates else graph.operators[i].op for i in anchors]
        slots = [SLOT_OF_OPERATOR.get(name, unknown) for name in names]
        return PhysicalTokens(
            slot=np.array(slots, dtype=np.int64),
            numbers=np.array(numbers, dtype=np.float32),
            work=np.array(work, dtype=np.float32),
            edges=np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2),
            anchor=np.array(anchors, dtype=np.int64),
        )

    def describe(self) -> dict[str, Any]:
        """Version, vocabulary and features, as a checkpoint stores them."""
        return {
            "version": PHYSICAL_VERSION,
            "vocabulary": list(VOCABULARY),
            "features": list(FEATURES),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """The tokenizer that a checkpoint was trained with.

        Raises:
            CheckpointError: Its version, vocabulary or features are not this package's.
        """
        tokenizer = cls()
        require_same(tokenizer.describe(), description, cls.version_key, cls.tokens)
        return tokenizer


def require_same(mine: Mapping[str, Any], description: object, version: str, what: str) -> None:
    """Refuses a tokenizer's description that is not this package's.

    Args:
        mine: This package's description.
        description: The checkpoint's description.
        version: Key of the version in both.
        what: The tokens' name in the message.

    Raises:
        CheckpointError: They differ.
    """
    if not isinstance(description, Mapping) or dict(description) != mine:
        stored_version = description.get(version) if isinstance(description, Mapping) else None
        raise CheckpointError(
            f"the checkpoint's {what} are of version {stored_version}, this package makes version "
            f"{mine[version]}: train it again with `tvm-costmodel train`"
        )


_NOTHING = [0.0] * len(FOLDED)


def _fold(
    graph: OpGraph, consumers: Sequence[int]
) -> tuple[list[int], dict[int, list[float]], set[int]]:
    """The operator that each operator is part of, what was folded into each, and hard swishes.

    A view is part of what it views; what has no producer that computes is part of -1.
    """
    gates = _hard_swishes(graph, consumers)
    inside = {member: at for at, members in gates.items() for member in members}
    anchor: list[int] = []
    folded: dict[int, list[float]] = {}
    for i, operator in enumerate(graph.operators):
        spec = CATALOGUE.get(operator.op)
        reads = [anchor[src] for src, _ in operator.inputs]
        if operator.op in ("input", "constant"):
            anchor.append(-1)
        elif i in inside:
            anchor.append(inside[i])
        elif spec is not None and spec.is_view:
            anchor.append(reads[0] if reads else -1)
        elif i not in gates and _is_folded(graph, i, reads, consumers):
            anchor.append(reads[0])
            folded.setdefault(reads[0], list(_NOTHING))[FOLDED.index(operator.op)] += 1
        else:
            anchor.append(i)
    return anchor, folded, set(gates)


def _hard_swishes(graph: OpGraph, consumers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The last operator of each ``x * clip(x + c) * c'`` to the other operators of it."""
    gates = {}
    for i, operator in enumerate(graph.operators):
        if operator.op != "multiply" or len(operator.inputs) != 2:
            continue
        for (x, _), (at, _) in (operator.inputs, operator.inputs[::-1]):
            members = []
            for op in ("multiply", "clip", "add"):
                step = graph.operators[at]
                if step.op == op and len(step.inputs) == 1 and consumers[at] == 1:
                    members.append(at)
                    at = step.inputs[0][0]
            if len(members) >= 2 and graph.operators[members[-1]].op == "add" and at == x:
                gates[i] = tuple(members)
                break
    return gates


def _is_folded(graph: OpGraph, i: int, reads: Sequence[int], consumers: Sequence[int]) -> bool:
    operator = graph.operators[i]
    if operator.op not in FOLDED or len(reads) != 1 or reads[0] < 0:
        return False
    return consumers[operator.inputs[0][0]] == 1 and graph.costs[reads[0]].macs > 0


def _read(graph: OpGraph, i: int) -> tuple[int, ...]:
    """Shape of the first activation that an operator reads; empty where it reads none."""
    for src, index in graph.operators[i].inputs[:1]:
        return graph.operators[src].outputs[index].shape
    return ()


def physical_numbers(
    operator: Operator, cost: OpCost, read: Sequence[int], consumers: int
) -> list[float]:
    """The numbers of a token up to what is folded in, in the order of `FEATURES`.

    Args:
        operator: The operator that the token describes.
        cost: Its arithmetic and bytes.
        read: Shape of the first activation that it reads.
        consumers: How often its results are read.
    """
    attrs = operator.attrs
    out = operator.outputs[0].shape if operator.outputs else ()
    kernel, strides = _pair(attrs.get("kernel")), _pair(attrs.get("strides"))
    groups, inside = _number(attrs.get("groups")), _number(attrs.get("in_channels"))
    channels = _number(attrs.get("out_channels"))
    rows, columns, depth = _matmul_extents(operator, cost.macs, groups)
    area = kernel[0] * kernel[1]
    padding = attrs.get("padding")
    return [
        *map(
            log_amount,
            (cost.macs, cost.flops, cost.read_bytes, cost.weight_bytes, cost.written_bytes),
        ),
        math.log((1 + cost.flops) / (1 + cost.bytes)) / 4,
        *map(log_amount, (rows, columns, depth, groups - 1)),
        *map(log_amount, (*kernel, *strides, _pair(attrs.get("dilation"))[0] - 1)),
        log_amount(sum(map(_number, padding)) if isinstance(padding, tuple) else 0),
        *map(log_amount, (inside, channels)),
        *_extents(out),
        *_extents(read),
        *(_filled(columns, v) for v in _FILLS),
        *(_filled(rows, v) for v in _FILLS[:2]),
        *(_filled(depth, v) for v in _FILLS[:2]),
        float(groups > 1 and groups == inside),
        float(area == 1 and cost.macs > 0),
        float(1 < groups < inside),
        float(max(strides) > 1),
        len(operator.inputs) / 4,
        len(operator.weights) / 4,
        consumers / 4,
        len(operator.outputs) / 4,
        (operator.outputs[0].bits if operator.outputs else 32) / 32,
    ]


def _matmul_extents(operator: Operator, macs: int, groups: float) -> tuple[float, float, float]:
    """Rows, columns and depth of the matmul that an operator is, per group; 0 for none."""
    if not macs:
        return 0.0, 0.0, 0.0
    out = operator.outputs[0]
    channels = _number(operator.attrs.get("out_channels"))
    if channels:
        columns = max(1.0, channels / max(1.0, groups))
        rows = out.elements / channels
    else:
        columns = float(out.shape[-1]) if out.shape else 1.0
        rows = out.elements / columns
    return rows, columns, macs / max(1, out.elements)


def _extents(shape: Sequence[int]) -> list[float]:
    return [log_amount(extent) for extent in shape[:4]] + [0.0] * (4 - min(4, len(shape)))


def _filled(extent: float, multiple: int) -> float:
    return extent / (math.ceil(extent / multiple) * multiple) if extent > 0 else 1.0


def log_amount(amount: float) -> float:
    """An amount as tokens hold it: its natural logarithm, divided by 4."""
    return math.log1p(max(0.0, amount)) / 4


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _pair(value: Any) -> tuple[float, float]:
    """Height and width of an attribute such as a kernel; 0 where there is none."""
    if isinstance(value, tuple) and value:
        return float(value[0]), float(value[-1] if len(value) < 2 else value[1])
    return _number(value), _number(value)
