"""Tokens of a decided network: one for each kernel, with what was decided for it.

The graph says by ``fused`` which activations an operator reads from within its own kernel, so that
a kernel's token holds what crosses its boundary: bytes that really move, not those of every
operator in it. Behind the physical quantities of the kernel as it would be undecided follow those
that decisions change: the algorithm with its products and tiles, the register tile, the type of
the weights. Neighbours see only the first part (`roofline_former.CONTEXT`), so what is decided for
a kernel changes its own cost and nothing else, and a search prices each decision once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph import Edge, Operator, OpGraph
from tvm_costmodel.ops import CATALOGUE, OpCost, operator_cost
from tvm_costmodel.tokenizer.physical import (
    FEATURES,
    FOLDED,
    PhysicalTokens,
    log_amount,
    physical_numbers,
    require_same,
)
from tvm_costmodel.tokenizer.vocabulary import SLOT_OF_OPERATOR, UNKNOWN, VOCABULARY

KERNEL_VERSION = 1
"""Raised whenever the same graph would give other tokens."""

_ALGORITHMS = ("im2col", "winograd2", "winograd4")
_ORDERS = ("channels", "pixels")
DECIDED: tuple[str, ...] = (
    *("fused elementwise", "fused other", "operators", "reads", "channels last"),
    *(f"algorithm {name}" for name in _ALGORITHMS),
    *("products", "tiles", "tile share", "transformed", "stored weights"),
    *("accumulators", "vectors", *(f"outer loop {name}" for name in _ORDERS), "half weights"),
)
"""What follows `FEATURES` in a token: of the fused kernel, then of its decisions."""

KERNEL_FEATURES: tuple[str, ...] = (*FEATURES, *DECIDED)
"""What the numbers of a kernel's token are."""

Row = tuple[list[float], tuple[float, float, float]]
"""Numbers of a token, and its work."""


@dataclass(slots=True)
class _Kind:
    """What kernels of equal operators, reads and readers share.

    Attributes:
        numbers: Those of their tokens that no decision changes.
        cost: What crosses their boundary, with the products of their anchor.
        beside: Other arithmetic, in multiply-accumulates.
        undecided: Their token where nothing is decided.
    """

    numbers: list[float]
    cost: OpCost
    beside: float
    undecided: tuple[np.ndarray, np.ndarray] | None = None


class KnownKernels:
    """Kernels that were described already, for many graphs that are largely the same.

    Under other decisions about a network most of its operators and kernels are what they were;
    what is shared here is described once.
    """

    def __init__(self) -> None:
        self._operators: dict[tuple[object, ...], int] = {}
        self._costs: list[OpCost] = []
        self._kinds: dict[tuple[object, ...], int] = {}
        self.kinds: list[_Kind] = []

    def operators(self, graph: OpGraph) -> tuple[list[int], list[OpCost]]:
        """For each operator a number, equal for those of equal content, and its cost."""
        numbers = []
        for i, operator in enumerate(graph.operators):
            attrs = tuple(operator.attrs.items())
            read = graph.input_types(i)
            content = (operator.op, attrs, read, operator.outputs, operator.weights)
            number = self._operators.get(content)
            if number is None:
                number = self._operators[content] = len(self._costs)
                self._costs.append(operator_cost(graph, i))
            numbers.append(number)
        return numbers, [self._costs[number] for number in numbers]

    def kind(self, content: tuple[object, ...], describe: Callable[[], _Kind]) -> int:
        """The number of the kernels of some content, described if it is the first of them."""
        number = self._kinds.get(content)
        if number is None:
            number = self._kinds[content] = len(self.kinds)
            self.kinds.append(describe())
        return number


class KernelGraph:
    """The kernels of an annotated graph.

    Args:
        graph: With ``fused`` where operators read inside their kernel, see
            `tvm_costmodel.tuning.annotation`; without, each operator is a kernel.
        known: Kernels of graphs that were read before.

    Attributes:
        anchors: For each kernel that computes, the operator that its token is of.
        token_of: Token of each operator, -1 for those of none.
        kinds: A number for each kernel, equal for those that any decision makes equal tokens of,
            in all graphs read with the same ``known``.

    Raises:
        GraphError: The graph has nothing that computes, or has dimensions unknown until run time.
    """

    def __init__(self, graph: OpGraph, known: KnownKernels | None = None) -> None:
        graph.require_static()
        self.graph = graph
        self._known = known or KnownKernels()
        root = _roots(graph)
        members: dict[int, list[int]] = {}
        for i, at in enumerate(root):
            members.setdefault(at, []).append(i)
        kept = {at: inside for at, inside in members.items() if _computes(graph, inside)}
        if not kept:
            raise GraphError("the graph has no operators that compute: export the model again")
        reading = _Reading(graph, root, *self._known.operators(graph))
        self.anchors = [reading.anchor(inside) for inside in kept.values()]
        token = {at: number for number, at in enumerate(kept)}
        self.token_of = [token.get(at, -1) for at in root]
        self.kinds = [
            self._known.kind(reading.content(inside), partial(reading.describe, inside, at))
            for inside, at in zip(kept.values(), self.anchors, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.anchors)

    def row(self, token: int, operator: Operator | None = None) -> Row:
        """Numbers and work of a kernel.

        Args:
            token: Which kernel.
            operator: Its anchor as it was decided; as in the graph when not given.
        """
        kind = self._known.kinds[self.kinds[token]]
        operator = operator or self.graph.operators[self.anchors[token]]
        decided, macs, weights = _decided_numbers(operator, kind.cost)
        moved = kind.cost.read_bytes + kind.cost.written_bytes + weights
        return kind.numbers + decided, ((macs + kind.beside) / 1e9, moved / 1e9, 1.0)

    def tokens(self) -> PhysicalTokens:
        """All kernels as arrays."""
        rows = [self._undecided(token) for token in range(len(self))]
        unknown = VOCABULARY.index(UNKNOWN)
        names = [self.graph.operators[i].op for i in self.anchors]
        return PhysicalTokens(
            slot=np.array([SLOT_OF_OPERATOR.get(name, unknown) for name in names], dtype=np.int64),
            numbers=np.array([numbers for numbers, _ in rows]),
            work=np.array([work for _, work in rows]),
            edges=self._edges(),
            anchor=np.array(self.anchors, dtype=np.int64),
        )

    def _undecided(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        kind = self._known.kinds[self.kinds[token]]
        if kind.undecided is None:
            numbers, work = self.row(token)
            kind.undecided = np.array(numbers, np.float32), np.array(work, np.float32)
        return kind.undecided

    def _edges(self) -> np.ndarray:
        """(producer, consumer) kernels, through what computes nothing."""
        behind: list[set[int]] = []
        pairs = set()
        for i, operator in enumerate(self.graph.operators):
            token = self.token_of[i]
            read = set().union(*(behind[src] for src, _ in operator.inputs))
            if token < 0:
                behind.append(read)
                continue
            pairs |= {(src, token) for src in read if src != token}
            behind.append({token})
        return np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)


class _Reading:
    """A graph while its kernels are described.

    Args:
        graph: The graph.
        root: First operator of each operator's kernel.
        numbers: Number of each operator's content.
        costs: What each operator costs alone.
    """

    def __init__(
        self, graph: OpGraph, root: Sequence[int], numbers: Sequence[int], costs: Sequence[OpCost]
    ) -> None:
        self._graph, self._numbers, self._costs = graph, numbers, costs
        self._readers = _readers(graph, root)
        self._reads = [_outside_reads(operator) for operator in graph.operators]

    def anchor(self, inside: Sequence[int]) -> int:
        """The operator that a kernel is made around: of most products, arithmetic, bytes."""
        if len(inside) == 1:
            return inside[0]
        costs = self._costs
        return max(inside, key=lambda i: (costs[i].macs, costs[i].flops, costs[i].bytes))

    def content(self, inside: Sequence[int]) -> tuple[object, ...]:
        """Everything that a kernel's token follows from."""
        number: dict[Edge, int] = {}
        return tuple(
            (
                self._numbers[i],
                self._readers[i],
                *[number.setdefault(edge, len(number)) for edge in self._reads[i]],
            )
            for i in inside
        )

    def describe(self, inside: Sequence[int], at: int) -> _Kind:
        """A kernel of these operators, made around one of them."""
        graph, anchor = self._graph, self._graph.operators[at]
        cost = self._boundary(inside, self._costs[at].macs)
        read = [graph.operators[src].outputs[index].shape for src, index in anchor.inputs[:1]]
        outside = sum(self._readers[i] for i in inside)
        numbers = physical_numbers(anchor, cost, read[0] if read else (), outside)
        others = [graph.operators[i] for i in inside if i != at]
        numbers += [float(sum(o.op == name for o in others)) for name in FOLDED]
        kinds = [spec.category for o in others if (spec := CATALOGUE.get(o.op)) is not None]
        elementwise = sum(kind in ("elementwise", "activation") for kind in kinds)
        numbers += [
            elementwise / 4,
            (len(others) - elementwise) / 4,
            len(inside) / 8,
            len({edge for i in inside for edge in self._reads[i]}) / 4,
            float(str(anchor.attrs.get("data_layout", "")).endswith("C")),
        ]
        return _Kind(numbers, cost, cost.flops / 2 - cost.macs)

    def _boundary(self, inside: Sequence[int], macs: int) -> OpCost:
        """What a kernel computes and moves, its weights in full precision."""
        graph, costs = self._graph, self._costs
        seen: set[Edge] = set()
        read = weights = 0
        for i in inside:
            new = [edge for edge in self._reads[i] if edge not in seen]
            seen.update(new)
            whole = sum(graph.operators[src].outputs[index].bytes for src, index in new)
            read += min(whole, costs[i].read_bytes or whole)  # a lookup touches less
            weights += costs[i].weight_bytes + _halved(graph.operators[i])
        written = sum(
            t.bytes for i in inside if self._readers[i] for t in graph.operators[i].outputs
        )
        flops = sum(costs[i].flops for i in inside)
        return OpCost(flops, macs, read, weights, written)


class KernelTokenizer:
    """Encodes annotated graphs as kernels."""

    def encode(self, graph: OpGraph) -> PhysicalTokens:
        """Encodes one graph.

        Raises:
            GraphError: The graph has nothing that computes, or has dimensions unknown until run
                time.
        """
        return KernelGraph(graph).tokens()

    def describe(self) -> dict[str, Any]:
        """Version, vocabulary and features, as a checkpoint stores them."""
        return {
            "kernels": KERNEL_VERSION,
            "vocabulary": list(VOCABULARY),
            "features": list(KERNEL_FEATURES),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> KernelTokenizer:
        """The tokenizer that a checkpoint was trained with.

        Raises:
            CheckpointError: Its version, vocabulary or features are not this package's.
        """
        tokenizer = cls()
        require_same(tokenizer.describe(), description, "kernels", "kernel tokens")
        return tokenizer


def _roots(graph: OpGraph) -> list[int]:
    """The first operator of the kernel that each operator is in."""
    root = list(range(len(graph)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, operator in enumerate(graph.operators):
        for position in _fused(operator):
            one, other = find(operator.inputs[position][0]), find(i)
            root[max(one, other)] = min(one, other)
    return [find(i) for i in range(len(graph))]


def _fused(operator: Operator) -> tuple[int, ...]:
    fused = operator.attrs.get("fused", ())
    return tuple(int(str(position)) for position in fused) if isinstance(fused, tuple) else ()


def _readers(graph: OpGraph, root: Sequence[int]) -> list[int]:
    """How often each operator is read from outside of its kernel, the caller included."""
    readers = [0] * len(graph)
    for i, operator in enumerate(graph.operators):
        for src, _ in operator.inputs:
            readers[src] += root[src] != root[i]
    for src, _ in graph.outputs:
        readers[src] += 1
    return readers


def _outside_reads(operator: Operator) -> tuple[Edge, ...]:
    """What an operator reads from outside of its kernel."""
    fused = _fused(operator)
    if not fused:
        return operator.inputs
    return tuple(edge for position, edge in enumerate(operator.inputs) if position not in fused)


def _computes(graph: OpGraph, inside: Sequence[int]) -> bool:
    for i in inside:
        name = graph.operators[i].op
        spec = CATALOGUE.get(name)
        if name not in ("input", "constant") and not (spec is not None and spec.is_view):
            return True
    return False


def _halved(operator: Operator) -> int:
    """Bytes that weights stored in half precision save."""
    if not operator.outputs or operator.outputs[0].dtype != "float32":
        return 0
    return sum(t.bytes for t in operator.weights if t.dtype == "float16")


def _decided_numbers(operator: Operator, cost: OpCost) -> tuple[list[float], float, float]:
    """The numbers of a kernel's decisions, its products, and the bytes of its stored weights."""
    attrs = operator.attrs
    algorithm = str(attrs.get("algorithm", "direct"))
    halved = _halved(operator)
    macs, weights = float(cost.macs), float(cost.weight_bytes - halved)
    tiles = share = transformed = 0.0
    if algorithm.startswith("winograd"):
        edge = int(algorithm.removeprefix("winograd"))
        window = int(_number(_first(attrs.get("kernel"))))
        layout = str(attrs.get("data_layout", "NCHW"))
        shape = operator.outputs[0].shape
        height, width = shape[layout.index("H")], shape[layout.index("W")]
        count = math.ceil(height / edge) * math.ceil(width / edge) * shape[0]
        square = (edge + window - 1) ** 2
        inside, channels = _count(attrs, "in_channels"), _count(attrs, "out_channels")
        tiles = count
        share = height * width * shape[0] / (count * edge**2)
        transformed = count * square * (inside + channels)
        macs = macs * (count * square) / (height * width * shape[0] * window**2)
        weights *= square / window**2
    elif algorithm == "im2col" and cost.macs:
        transformed = operator.outputs[0].elements / _count(attrs, "out_channels")
        transformed *= cost.macs / max(1, operator.outputs[0].elements)
    tile = attrs.get("tile", (0, 0, "auto"))
    accumulators, vectors, order = tile if isinstance(tile, tuple) else (0, 0, "auto")
    numbers = [
        *(float(algorithm == name) for name in _ALGORITHMS),
        log_amount(macs),
        log_amount(tiles),
        share,
        log_amount(transformed),
        log_amount(weights),
        _number(accumulators) / 28,
        _number(vectors) / 4,
        *(float(order == name) for name in _ORDERS),
        float(halved > 0),
    ]
    return numbers, macs, weights


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else 1


def _count(attrs: Mapping[str, Any], name: str) -> int:
    value = attrs.get(name, 1)
    return value if isinstance(value, int) else 1
