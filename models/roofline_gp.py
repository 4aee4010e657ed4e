"""`RooflineGP`: a physical cost for each kernel, corrected by a Gaussian process.

A network's latency is a sum over its kernels, and a kernel's is a sum of terms::

    latency = sum_i sum_t amount_it * base_ct * exp(h_kt(i))                             [ms]

``amount_it`` is what kernel ``i`` computes, moves and waits for (`TERMS`), ``base_ct`` what a unit
of it costs in a class of kernels, from non-negative least squares. ``h`` is a sum of Gaussian
processes with mean 0: a constant for every kind of kernel and term, and for arithmetic a smooth
function of a matmul's extents. Rows, columns and depth are those of the matmul that a convolution
is, and one function of them serves all kinds: a 3 x 3 convolution of 16 channels costs as much as a
1 x 1 convolution of 144, which other networks have. Where the training networks say nothing about
a kernel, ``h`` is 0 and the physical cost is the prediction: for families of networks that were
never seen, a free function would predict anything far from its data.

``depth`` is the extent that is summed over, one element after the other however many cores there
are: a kernel with few outputs cannot be faster than that (the critical path). A pooling of a whole
map is the plainest case: each of its few outputs reads every element of a channel.

Functions are sums of random Fourier features (Rahimi and Recht, NeurIPS 2007), so that a fit is a
few steps of Gauss and Newton with one linear system each: seconds on one core for thousands of
networks. ``exp`` keeps every kernel's cost positive, and the parts sum to the whole.

Shape legend: ``G`` networks, ``K`` kernels of all networks, ``R`` rows: a kernel and a term of it
that is not 0, ``P`` weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import csr_array

from tvm_costmodel.gaussian_process import Factored, ridge
from tvm_costmodel.tokenizer.operator_features import CATEGORY_OF_SLOT, PhysicalTokens
from tvm_costmodel.tokenizer.roofline_terms import (
    CLASSES,
    DEPTHWISE,
    FILLED,
    MATMUL,
    OTHER,
    POOLING,
    TERMS,
    VARIANTS,
    KernelTable,
    kernel_table,
)
from tvm_costmodel.tokenizer.vocabulary import SLOT_OF_OPERATOR

_ARITHMETIC, _ACTIVATIONS, _, _, _KERNELS = range(len(TERMS))
_SHARED = ("rows", "columns", "depth")
_OWN = ("rows", "columns", "channels", "kernel", "stride")
_MOVED = ("read", "written")
_DENSE_PLACE = ("columns", "weights")
_LIMIT = 3.0  # of a correction, as a logarithm
_WEAK, _STRONG = 1e-4, 0.1  # ridges of the two solutions that a base cost is mixed from
_LEAST = 1e-4  # share of a latency that every term has at least
_MATMULS = CATEGORY_OF_SLOT[SLOT_OF_OPERATOR["conv2d"]]


@dataclass(frozen=True)
class RooflineGPConfig:
    """The prior, and how it is fitted.

    Attributes:
        constant: Prior standard deviation of a kind's constants, as a logarithm.
        shared: Prior standard deviation of the smooth function of all matmuls.
        fine: Prior standard deviation of a second function of these, of shorter scale.
        own: Prior standard deviation of the function of each kind of convolution.
        moved: Prior standard deviation of the functions of the bytes that other kernels and dense
            layers move.
        filled: Prior standard deviation of the slope in how full vectors and tiles are.
        scale: Length scale of functions, in natural logarithms of extents.
        fine_scale: Length scale of ``fine``.
        mixed: Share of the strongly regularised solution in the base costs, which spreads a cost
            over terms that occur together.
        noise: Relative error of a sum of kernels' costs.
        features: Random features of each function.
        steps: Steps of Gauss and Newton.
        networks: Training networks at most; more are sampled.
        seed: Seed of features and sample.
    """

    constant: float = 0.4
    shared: float = 0.5
    fine: float = 0.1
    own: float = 0.1
    moved: float = 0.3
    filled: float = 0.3
    scale: float = 4.0
    fine_scale: float = 1.0
    mixed: float = 0.02
    noise: float = 0.05
    features: int = 100
    steps: int = 5
    networks: int = 2000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Block:
    """Some columns of the linear model that ``h`` is.

    Attributes:
        rows: int64 [r], the rows with these columns.
        values: float32 [r, p].
    """

    rows: np.ndarray
    values: np.ndarray


class RooflineGP:
    """Latency of networks on one device, kernel by kernel.

    Args:
        config: The prior.

    Attributes:
        kinds: Kinds of kernels in the training networks, int64.
        base: Cost of a unit, ms, float64 [classes, terms].
        weights: float64 [P].
    """

    def __init__(self, config: RooflineGPConfig) -> None:
        self.config = config
        self.kinds = np.zeros(0, np.int64)
        self.base = np.zeros((len(CLASSES), len(TERMS)))
        self.weights = np.zeros(0)
        self._directions: dict[str, np.ndarray] = {}

    def fit(self, networks: Sequence[PhysicalTokens], latency_ms: np.ndarray) -> RooflineGP:
        """Conditions the prior on measured networks.

        Args:
            networks: Their tokens.
            latency_ms: float64 [G], above 0.

        Raises:
            ValueError: A latency is not positive and finite, or their number is another.
        """
        if latency_ms.shape != (len(networks),) or not np.all(
            np.isfinite(latency_ms) & (latency_ms > 0)
        ):
            raise ValueError(
                f"{len(networks)} networks need as many positive finite latencies, got "
                f"{latency_ms.size}, of which {int(np.sum(latency_ms > 0))} are positive"
            )
        rng = np.random.default_rng(self.config.seed)
        if len(networks) > self.config.networks:
            chosen = np.sort(rng.permutation(len(networks))[: self.config.networks])
            networks, latency_ms = [networks[i] for i in chosen], latency_ms[chosen]
        table = kernel_table(networks)
        self.kinds = np.unique(table.kind)
        self._directions = {
            name: rng.standard_normal((len(place), self.config.features // 2))
            for name, place in self._functions().items()
        }
        self.base = _base_costs(table, latency_ms, self.config.mixed)
        kernel, term, base = self._rows(table)
        blocks = self._blocks(table, kernel, term)
        self.weights = np.zeros(sum(block.values.shape[1] for block in blocks))
        for step in range(self.config.steps):
            cost = base * np.exp(self._correction(blocks, len(kernel)))
            share = cost / latency_ms[table.graph[kernel]]  # of its network's measured latency
            design = _slopes(blocks, table.graph[kernel], share, table.graphs)
            total = np.bincount(table.graph[kernel], weights=share, minlength=table.graphs)
            target = 1.0 - total + design @ self.weights
            solution = ridge(design, target, self.config.noise**2)
            self.weights = self.weights + (1.0 if step else 0.7) * (solution - self.weights)
        return self

    def parts(self, table: KernelTable) -> np.ndarray:
        """Each kernel's share of its network's latency, ms, float64 [K]."""
        kernel, term, base = self._rows(table)
        correction = self._correction(self._blocks(table, kernel, term), len(kernel))
        cost = base * np.exp(correction)
        return np.bincount(kernel, weights=cost, minlength=len(table.graph))

    def predict(self, networks: Sequence[PhysicalTokens]) -> np.ndarray:
        """Latency of networks, ms, float64 [G]."""
        table = kernel_table(networks)
        return table.sums(self.parts(table))

    def state(self) -> dict[str, np.ndarray]:
        """The fitted state, by name."""
        directions = {f"directions.{name}": value for name, value in self._directions.items()}
        return {"kinds": self.kinds, "base": self.base, "weights": self.weights, **directions}

    def load_state(self, state: Mapping[str, np.ndarray]) -> RooflineGP:
        """Takes what `state` gave.

        Raises:
            KeyError: A part is missing.
            ValueError: The parts do not belong together.
        """
        self.kinds, self.base = state["kinds"], state["base"]
        self._directions = {name: state[f"directions.{name}"] for name in self._functions()}
        expected = self._count()
        if state["weights"].shape != (expected,):
            raise ValueError(f"{state['weights'].shape} weights, not {expected}")
        self.weights = state["weights"]
        return self

    def _functions(self) -> dict[str, tuple[str, ...]]:
        """Smooth functions by name, and the extents that each is a function of."""
        functions: dict[str, tuple[str, ...]] = {"shared": _SHARED, "fine": _SHARED}
        for kind in self.kinds.tolist():
            functions[f"kind{kind}"] = _place_of(kind)
        return functions

    def _count(self) -> int:
        """Number of weights ``P``."""
        features = 2 * (self.config.features // 2)
        return len(self.kinds) * (len(TERMS) + len(FILLED) + features) + 2 * features

    def _rows(self, table: KernelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kernel, term and physical cost in ms of every row, each [R]."""
        cost = table.amount * self.base[table.group]
        kernel, term = np.nonzero(cost)
        return kernel, term, cost[kernel, term]

    def _blocks(self, table: KernelTable, kernel: np.ndarray, term: np.ndarray) -> list[_Block]:
        """All columns that a weight of ``h`` multiplies."""
        config, every, places = self.config, np.arange(len(kernel)), self._functions()
        kind, group = table.kind[kernel], table.group[kernel]
        blocks = []
        arithmetic = term == _ARITHMETIC
        for name, spread, scale in (
            ("shared", config.shared, config.scale),
            ("fine", config.fine, config.fine_scale),
        ):
            rows = every[arithmetic & (group == MATMUL)]
            place = table.extents(kernel[rows], places[name])
            blocks.append(_Block(rows, self._function(name, place, spread, scale)))
        convolves = np.isin(group, (MATMUL, DEPTHWISE))
        for value in self.kinds.tolist():
            mine = kind == value
            rows = every[mine]
            constants = config.constant * (term[rows, None] == np.arange(len(TERMS)))
            blocks.append(_Block(rows, constants.astype(np.float32)))
            rows = every[mine & arithmetic & convolves]
            filled = config.filled * table.filled[kernel[rows]]
            blocks.append(_Block(rows, filled.astype(np.float32)))
            smooth = np.where(convolves, arithmetic, term == _ACTIVATIONS)
            rows = every[mine & smooth]
            is_matmul = bool(len(rows)) and bool(convolves[rows[0]])
            spread = config.own if is_matmul else config.moved
            name = f"kind{value}"
            place = table.extents(kernel[rows], places[name])
            blocks.append(_Block(rows, self._function(name, place, spread, config.scale)))
        return blocks

    def _function(self, name: str, place: np.ndarray, spread: float, scale: float) -> np.ndarray:
        """Random Fourier features of a function with a squared exponential kernel, float32."""
        directions = self._directions[name] / scale
        angle = (place @ directions).astype(np.float32)
        amplitude = np.float32(spread / np.sqrt(max(1, directions.shape[1])))
        features: np.ndarray = amplitude * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        return features

    def _correction(self, blocks: Sequence[_Block], rows: int) -> np.ndarray:
        """``h`` of every row, float64 [R]."""
        total, at = np.zeros(rows), 0
        for block in blocks:
            count = block.values.shape[1]
            total[block.rows] += block.values @ self.weights[at : at + count]
            at += count
        return np.clip(total, -_LIMIT, _LIMIT)


def _place_of(kind: int) -> tuple[str, ...]:
    """Extents that the smooth function of a kind of kernel depends on."""
    slot = kind // VARIANTS
    if slot == SLOT_OF_OPERATOR["dense"]:
        return _DENSE_PLACE
    return _OWN if CATEGORY_OF_SLOT[slot] == _MATMULS else _MOVED


def _slopes(
    blocks: Sequence[_Block], graph: np.ndarray, share: np.ndarray, graphs: int
) -> np.ndarray:
    """What a network's relative latency gains with each weight, float64 [G, P]."""
    parts = []
    for block in blocks:
        at = np.arange(len(block.rows))
        sums = csr_array((share[block.rows], (graph[block.rows], at)), shape=(graphs, len(at)))
        parts.append(sums @ block.values.astype(np.float64))
    return np.concatenate(parts, axis=1)


def _base_costs(table: KernelTable, latency_ms: np.ndarray, mixed: float) -> np.ndarray:
    """Cost of a unit of each term in each class, ms, by least squares of relative errors.

    A class that no training network has costs as much as the most expensive other class. For
    pooling and reductions, an element costs as much as a multiply-accumulate of a depthwise
    convolution, and a byte as much as one of other kernels: networks have too few of them to fit
    more. To start a kernel costs the same in every class: with a cost for each, networks of a
    family, which have about as many kernels of a class, would put there whatever else they have in
    common.
    """
    columns = np.arange(len(CLASSES) * len(TERMS)).reshape(len(CLASSES), len(TERMS))
    columns[POOLING, _ARITHMETIC] = columns[DEPTHWISE, _ARITHMETIC]  # both slide a window
    columns[POOLING, _ACTIVATIONS] = columns[OTHER, _ACTIVATIONS]
    columns[:, _KERNELS] = columns[MATMUL, _KERNELS]
    sums = np.zeros((table.graphs, columns.size))
    for group in range(len(CLASSES)):
        mine = np.flatnonzero(table.group == group)
        for term in range(len(TERMS)):
            sums[:, columns[group, term]] += np.bincount(
                table.graph[mine], weights=table.amount[mine, term], minlength=table.graphs
            )
    sums /= latency_ms[:, None]
    size = np.sqrt(np.square(sums).mean(axis=0))
    known = np.flatnonzero(size > 0)
    scaled = sums[:, known] / size[known]
    solution = _LEAST * scaled.mean(axis=0)  # of the cost at which this term is all the latency
    for strength, share in ((_WEAK, 1.0 - mixed), (_STRONG, mixed)):
        normal = Factored(scaled.T @ scaled + strength * table.graphs * np.eye(len(known)))
        part, _ = nnls(normal.lower.T, normal.whiten(scaled.sum(axis=0)))
        solution = solution + share * part
    costs = np.full(columns.size, np.nan)
    costs[known] = solution / size[known]
    costs = costs[columns]
    highest = np.nanmax(np.vstack([costs, np.zeros(len(TERMS))]), axis=0)
    return np.where(np.isnan(costs), highest, costs)
