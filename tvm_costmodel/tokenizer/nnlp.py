"""Tokens of NNLP: one-hot operator, normalised attributes, normalised output dimensions.

Liu et al., "NNLQP", ICPP 2022: every number is ``(x - centre) / scale`` with the constants of the
released code, empty attribute places are 0, and the whole-graph numbers (batch, GFLOPs,
Gparameters, GMACs) go in as they are. Attribute places that the release does not have take the
constants of what they are most like.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.nar_former import TokenArrays, Tokenizer, TokenizerConfig
from tvm_costmodel.tokenizer.vocabulary import ATTRIBUTES, VOCABULARY

_CHANNELS = (286.96, 2496.0)
_COUNT = (0.0, 4.0)
_MEGABYTES = (0.0, 16.0)

PLACES: dict[str, tuple[float, float]] = {
    "kernel": (2.53, 56.0),
    "strides": (1.16, 56.0),
    "padding": (0.75, 6.0),
    "dilation": (1.0, 1.0),
    "groups": (15.08, 6144.0),
    "bias": (0.77, 1.0),
    "axes": (1.78, 4.0),
    # from here on not in the release
    "in_channels": _CHANNELS,
    "in_features": _CHANNELS,
    "k": _CHANNELS,
    "size": (2.53, 56.0),
    "axis": (1.78, 4.0),
    "read_ratio": (1.0, 49.0),
    "constants": _COUNT,
    "operands": _COUNT,
    "results": _COUNT,
    "read_mb": _MEGABYTES,
    "weight_mb": _MEGABYTES,
    "written_mb": _MEGABYTES,
}
"""Centre and scale of each attribute place, by its name without the index."""

DIMENSIONS: tuple[tuple[float, float], ...] = (
    (12.25, 1024.0),
    (286.96, 2496.0),
    (32.62, 256.0),
    (31.80, 256.0),
)
"""Centre and scale of the four output dimensions, as released."""


class NnlpTokenizer(Tokenizer):
    """Encodes graphs for NNLP: 44 channels per operator, 4 static numbers.

    Args:
        config: Sizes of a token; NNLP's by default.
    """

    def __init__(self, config: TokenizerConfig | None = None) -> None:
        super().__init__(config or TokenizerConfig(frequencies=0))

    def encode(self, graph: OpGraph) -> TokenArrays:
        """Encodes one graph; errors as `Tokenizer.encode`."""
        tokens = super().encode(graph)
        sizes = (self.config.attributes, self.config.dims)
        return replace(tokens, values=normalised(tokens.op_id, tokens.values, *sizes))


def normalised(
    op_id: np.ndarray, values: np.ndarray, attributes: int = 8, dims: int = 4
) -> np.ndarray:
    """``(x - centre) / scale`` of every number of operators' tokens.

    Args:
        op_id: Slot of each operator, [R].
        values: Its attributes and dimensions, [R, attributes + dims].
        attributes: Attribute places.
        dims: Output dimensions.
    """
    centre, scale = _constants(attributes, dims)
    scaled: np.ndarray = (values - centre[op_id]) / scale[op_id]
    return scaled


@cache
def _constants(attributes: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of every place of every slot, float32 [slots, attributes + dims] each."""
    shape = (len(VOCABULARY), attributes + dims)
    centre, scale = np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=np.float32)
    for slot, name in enumerate(VOCABULARY):
        for place, attribute in enumerate(ATTRIBUTES.get(name, ())):
            constants = PLACES[attribute.partition(".")[0]]
            centre[slot, place], scale[slot, place] = constants
    for i, constants in enumerate(DIMENSIONS[:dims]):
        centre[:, attributes + i], scale[:, attributes + i] = constants
    return centre, scale
