"""Tokens of NAR-Former V2 (arXiv 2306.10792): an OpGraph as arrays, one token per operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from tvm_costmodel.errors import CheckpointError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.vocabulary import ATTRIBUTES, SLOT_OF_OPERATOR, UNKNOWN, VOCABULARY

TOKENIZER_VERSION = 1
"""Raised whenever the same graph would give other tokens."""

_MB = 1.0 / 2**20


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of a token. The defaults are NAR-Former V2's whole-network token of 152 channels.

    Attributes:
        attributes: Attribute places per operator.
        dims: Output dimensions encoded per operator; further ones are dropped, absent ones are 0.
        frequencies: Frequencies of a number's encoding; each gives a sine and a cosine. 0 leaves
            numbers as they are, one channel each.
        base: Frequency j is ``base ** (-j / frequencies)``.
    """

    attributes: int = 8
    dims: int = 4
    frequencies: int = 5
    base: float = 10000.0

    @property
    def channels(self) -> int:
        """Channels of one token: one-hot, attributes, dimensions."""
        return len(VOCABULARY) + (self.attributes + self.dims) * self.number_channels

    @property
    def static_channels(self) -> int:
        """Channels of the four encoded whole-graph numbers."""
        return 4 * self.number_channels

    @property
    def number_channels(self) -> int:
        """Channels of one encoded number."""
        return max(1, 2 * self.frequencies)


@dataclass(frozen=True, eq=False)
class TokenArrays:
    """One graph as arrays.

    Attributes:
        op_id: int64 [N], slot of each operator.
        values: float32 [N, attributes + dims], raw numbers, NaN where a place is empty.
        edges: int32 [E, 2], (producer, consumer) without repeats.
        static: float32 [static_channels], encoded batch, GFLOPs, Gparameters, GMACs.
        config: Sizes of the tokens.
    """

    op_id: np.ndarray
    values: np.ndarray
    edges: np.ndarray
    static: np.ndarray
    config: TokenizerConfig

    def __len__(self) -> int:
        return len(self.op_id)

    @property
    def features(self) -> np.ndarray:
        """float32 [N, channels]: one-hot, then the encoded values, empty places all zero."""
        return encode_tokens(self.op_id, self.values, self.config)


def encode_numbers(values: np.ndarray, config: TokenizerConfig) -> np.ndarray:
    """Sine and cosine of each number at each frequency, in float32.

    Args:
        values: Any shape ``[...]``; NaN gives zeros.
        config: Frequencies.

    Returns:
        float32 ``[..., 2 * frequencies]``, ordered sin f0, cos f0, sin f1, ...; ``[..., 1]``
        without frequencies.
    """
    if not config.frequencies:
        return np.nan_to_num(values.astype(np.float32), nan=0.0)[..., None]
    exponents = np.arange(config.frequencies) / config.frequencies
    # float32 throughout: large values at frequency 1 depend on the precision of the multiplication
    angles = values.astype(np.float32)[..., None] * (config.base**-exponents).astype(np.float32)
    pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # [..., frequencies, 2]
    encoded: np.ndarray = np.nan_to_num(pairs, nan=0.0)
    return encoded.reshape(*values.shape, 2 * config.frequencies)


def encode_tokens(op_id: np.ndarray, values: np.ndarray, config: TokenizerConfig) -> np.ndarray:
    """Tokens float32 [R, channels] of rows ``op_id [R]`` and ``values [R, attributes + dims]``."""
    one_hot = np.zeros((len(op_id), len(VOCABULARY)), dtype=np.float32)
    one_hot[np.arange(len(op_id)), op_id] = 1.0
    return np.concatenate([one_hot, encode_numbers(values, config).reshape(len(op_id), -1)], axis=1)


class Tokenizer:
    """Encodes graphs for NAR-Former V2.

    Args:
        config: Sizes of a token.

    Attributes:
        attributes: Names of the attribute places of each slot.
    """

    attributes: ClassVar[Mapping[str, tuple[str, ...]]] = ATTRIBUTES

    def __init__(self, config: TokenizerConfig | None = None) -> None:
        self.config = config or TokenizerConfig()

    def encode(self, graph: OpGraph) -> TokenArrays:
        """Encodes one graph.

        Raises:
            GraphError: The graph is empty or has dimensions unknown until run time.
        """
        if not graph.operators:
            raise GraphError("the graph has no operators: export the model again")
        graph.require_static()
        config, unknown = self.config, VOCABULARY.index(UNKNOWN)
        empty = [np.nan] * config.attributes
        slots, rows = [], []
        for i, operator in enumerate(graph.operators):
            slot = SLOT_OF_OPERATOR.get(operator.op, unknown)
            places = self.attributes.get(VOCABULARY[slot], ())
            numbers = [read(graph, i) for read in _readers(places)]
            shape = operator.outputs[0].shape[: config.dims] if operator.outputs else ()
            slots.append(slot)
            rows.append(
                numbers + empty[len(numbers) :] + [*shape] + [0] * (config.dims - len(shape))
            )
        return TokenArrays(
            op_id=np.array(slots, dtype=np.int64),
            values=np.array(rows, dtype=np.float32),
            edges=np.unique(graph.edges, axis=0) if len(graph.edges) else graph.edges,
            static=encode_numbers(_static_numbers(graph), config).reshape(-1),
            config=config,
        )

    def describe(self) -> dict[str, Any]:
        """Version, vocabulary and sizes, as a checkpoint stores them."""
        return {
            "version": TOKENIZER_VERSION,
            "vocabulary": list(VOCABULARY),
            "attributes": {slot: list(places) for slot, places in self.attributes.items()},
            **{"sizes": asdict(self.config)},
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that a checkpoint was trained with.

        Raises:
            CheckpointError: Its version or vocabulary is not this package's.
        """
        if not isinstance(description, Mapping) or "sizes" not in description:
            raise CheckpointError("the checkpoint names no tokenizer: train it again")
        try:
            tokenizer = cls(TokenizerConfig(**description["sizes"]))
        except TypeError as error:
            raise CheckpointError(f"the checkpoint's tokenizer is unreadable: {error}") from error
        mine = tokenizer.describe()
        for key in ("version", "vocabulary", "attributes"):
            if description.get(key) != mine[key]:
                raise CheckpointError(
                    f"the checkpoint's tokenizer has another {key} (version "
                    f"{description.get('version')}, this package has {TOKENIZER_VERSION}): "
                    "train it again with `tvm-costmodel train`"
                )
        return tokenizer


def _static_numbers(graph: OpGraph) -> np.ndarray:
    """float32 [4]: batch (first extent of the first input), GFLOPs, Gparameters, GMACs."""
    first = graph.operators[graph.inputs[0]].outputs[0].shape if graph.inputs else ()
    parameters = sum(weight.elements for op in graph.operators for weight in op.weights)
    batch = first[0] if first else 1
    return np.array([batch, graph.flops / 1e9, parameters / 1e9, graph.macs / 1e9], np.float32)


Reader = Callable[[OpGraph, int], float]


def _read_ratio(graph: OpGraph, i: int) -> float:
    read = sum(t.elements for t in graph.input_types(i))
    written = sum(t.elements for t in graph.operators[i].outputs)
    return read / max(1, written)


DERIVED: Mapping[str, Reader] = MappingProxyType(
    {
        "bias": lambda graph, i: float(len(graph.operators[i].weights) > 1),
        "constants": lambda graph, i: float(len(graph.operators[i].weights)),
        "operands": lambda graph, i: float(len(graph.operators[i].inputs)),
        "results": lambda graph, i: float(len(graph.operators[i].outputs)),
        "read_ratio": _read_ratio,
        "read_mb": lambda graph, i: graph.costs[i].read_bytes * _MB,
        "weight_mb": lambda graph, i: graph.costs[i].weight_bytes * _MB,
        "written_mb": lambda graph, i: graph.costs[i].written_bytes * _MB,
        "fused_reads": lambda graph, i: float(len(_tuple(graph.operators[i].attrs.get("fused")))),
        "weight_bits": lambda graph, i: float(
            max((w.bits for w in graph.operators[i].weights), default=0)
        ),
    }
)
"""Attribute places that no attribute holds: counts of constants (``bias``: more than one),
operands and results, elements read over elements written, bytes in units of 2^20, activations read
inside the kernel, and the width of the widest constant."""

_CODES = {"im2col": 1, "winograd2": 2, "winograd4": 3, "channels": 1, "pixels": 2}
"""Numbers that texts are encoded as, which are decisions about a kernel; 0 for all else."""


def _tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()


def _attribute_reader(place: str) -> Reader:
    name, _, index = place.partition(".")

    def read(graph: OpGraph, i: int) -> float:
        value = graph.operators[i].attrs.get(name)
        if isinstance(value, tuple):
            position = int(index or 0)
            value = value[position] if position < len(value) else None
        if isinstance(value, str):
            return float(_CODES.get(value, 0))
        return float(value) if isinstance(value, (int, float)) else np.nan

    return read


@cache
def _readers(places: tuple[str, ...]) -> tuple[Reader, ...]:
    """Reader of each attribute place of a slot."""
    return tuple(DERIVED.get(place) or _attribute_reader(place) for place in places)


_DECISIONS = ("fused_reads", "algorithm", "tile.0", "tile.1", "tile.2", "weight_bits")


class TunedTokenizer(Tokenizer):
    """Encodes annotated graphs: six more places hold the tuning decisions about an operator.

    Args:
        config: Sizes of a token, 14 attribute places by default.
    """

    attributes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        slot: (*ATTRIBUTES.get(slot, ()), *_DECISIONS[:1])
        if slot not in ("conv2d", "dense", "matmul")
        else (*ATTRIBUTES.get(slot, ()), *_DECISIONS)
        for slot in VOCABULARY
    }

    def __init__(self, config: TokenizerConfig | None = None) -> None:
        super().__init__(config or TokenizerConfig(attributes=14))
