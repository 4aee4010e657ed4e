"""Writes a network straight into Relax, the way TVM's importers would have written it.

One builder serves two ends. With ``emit`` it writes operators through ``relax.BlockBuilder`` with
random weights bound as constants; without it, it only follows the shapes and adds up the costs,
which takes about a millisecond and needs no TVM. Sampling uses the second to keep every network
inside its size class.

What an operator looks like depends on the front end that a network came through. The builder
writes the forms of ``tvm.relax.frontend.onnx`` (``importer="onnx"``) or of
``tvm.relax.frontend.torch`` (``importer="torch"``), so that a predictor trained on these networks
meets the same operators in imported ones.

Shape legend: N batch, C channels, H height, W width, T tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.workloads.writers import WRITERS

IMPORTERS = ("onnx", "torch")
NORMS = ("op", "folded", "scaled")
HEADS = ("mean", "window", "mean-conv")
_NOISE_LENGTH = (1 << 20) + 7


@dataclass(frozen=True)
class Tensor:
    """A value inside the network being written.

    Attributes:
        shape: Its static shape.
        expr: Its expression, or None where only costs are counted.
    """

    shape: tuple[int, ...]
    expr: Any = None


@dataclass
class NetworkCost:
    """The costs of a network, summed while it is written.

    Attributes:
        macs: Multiply-accumulates of all convolutions and matmuls.
        parameters: Weights, running statistics of batch norms not counted.
        operators: Operators written (a batch norm counts once).
        kernels: Distinct convolutions, matmuls and pooling by shape, which is nearly what has to
            be compiled.
        output: Shape of the network's result.
    """

    macs: int = 0
    parameters: int = 0
    operators: int = 0
    kernels: set[tuple[Any, ...]] = field(default_factory=set)
    output: tuple[int, ...] = ()


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Standard normal numbers that all weights are cut from.  # shape [1048583]."""
    return np.random.default_rng(20).standard_normal(_NOISE_LENGTH, dtype=np.float32)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """``(value, value)`` for an int, the two values otherwise."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


class Network:
    """Layers over a writer; each takes tensors and returns tensors.

    Args:
        importer: Front end whose forms are written, "onnx" or "torch".
        norm: Form of batch norms: as operators ("op"), as the bias of the convolution
            before them ("folded", as many exporters do), or followed by a factor and a number per
            channel ("scaled", as in networks converted from Caffe).
        head: Form of classifiers: "mean" or "window" (pooling over the whole image), with "-conv"
            where a 1x1 convolution takes the dense layer's place.
        softmax: Whether the network ends in a softmax.

    Attributes:
        emit: Whether a program is written; otherwise only shapes and costs are followed.
        cost: The costs so far.
    """

    def __init__(
        self,
        importer: str = "onnx",
        norm: str = "op",
        head: str = "mean",
        softmax: bool = False,
    ):
        for name, value, allowed in (
            ("importer", importer, IMPORTERS),
            ("norm", norm, NORMS),
            ("head", head, HEADS),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        self.importer = importer
        self.norm = norm
        self.head = head
        self.ends_in_softmax = softmax
        self.emit = False
        self.cost = NetworkCost()
        self.writer: Any = None
        self._noise_at = 0

    # -- whole network -------------------------------------------------------------------------

    def trace(self, shape: tuple[int, ...], body: Callable[[Tensor], Tensor]) -> Tensor:
        """Follows shapes and costs of ``body`` on an input of ``shape``, without Relax."""
        result = body(Tensor(shape))
        self.cost.output = result.shape
        return result

    def module(
        self, shape: tuple[int, ...], body: Callable[[Tensor], Tensor], compiler: str = "relax"
    ) -> Any:
        """The ``tvm.IRModule`` whose ``main`` is ``body`` on one input of ``shape``."""
        self.emit = True
        self.writer = WRITERS[compiler]()
        module = self.writer.module(shape, lambda x: body(Tensor(shape, x)).expr)
        self.emit = False
        return module

    # -- writing -------------------------------------------------------------------------------

    def weight(self, shape: tuple[int, ...], scale: float, centre: float = 0.0) -> Any:
        """A constant of random numbers around ``centre``; counts as parameters.

        Numbers are cut from one pool, so that a hundred million of them take a fraction of a
        second.
        """
        size = int(np.prod(shape))
        self.cost.parameters += size
        return self._constant(shape, scale, centre) if self.emit else None

    def _constant(self, shape: tuple[int, ...], scale: float, centre: float) -> Any:
        noise = _noise()
        values = np.empty(shape, np.float32)
        flat = values.reshape(-1)
        at, start = 0, self._noise_at
        while at < flat.size:
            count = min(flat.size - at, _NOISE_LENGTH - start)
            np.multiply(noise[start : start + count], np.float32(scale), out=flat[at : at + count])
            at, start = at + count, 0
        self._noise_at = (self._noise_at + flat.size) % (_NOISE_LENGTH - 1)
        if centre:
            flat += np.float32(centre)
        return self.writer.constant(values)

    def write(self, shape: tuple[int, ...], make: Callable[[Any], Any], counts: int = 1) -> Tensor:
        """Writes ``make(relax.op)`` and returns it as a tensor of ``shape``."""
        self.cost.operators += counts
        if not self.emit:
            return Tensor(shape)
        return Tensor(shape, self.writer.emit(make(self.writer.operators)))

    def scalar(self, value: float) -> Any:
        """A scalar float32 constant."""
        return self.writer.constant(np.float32(value)) if self.emit else None

    def index(self, value: int) -> Any:
        """A scalar int64 constant."""
        return self.writer.constant(np.int64(value)) if self.emit else None

    def kernel(self, *key: Any, macs: int = 0) -> None:
        """Notes a kernel that has to be compiled, and its multiply-accumulates."""
        self.cost.kernels.add(key)
        self.cost.macs += macs
