"""Corrects a predictor's latencies for one device to those of another device.

The model of the correction is in `tvm_costmodel.transfer.calibration`, which fits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.network_features import GROUPS, group_of

if TYPE_CHECKING:
    from typing_extensions import Self


_SHIFT, _SLOPE, _SIZE, _TILT, _SIMILARITY = 10.0, 0.1, 0.1, 0.3, 0.5  # in log latency
_REACH = 0.7  # length scale of the similarity term
_BALANCE = 16.0  # FLOPs that count as much as moving a byte, for the shares of the work only
_SCALARS = 4  # log of predicted seconds, FLOPs, bytes, operators


@dataclass(frozen=True)
class Calibration:
    """Correction of log latencies.

    Attributes:
        rows: Work profile of each measured network, see `work_profile`.
        weights: Weight of each measured network in the posterior mean.
        groups: Names of the groups of operators in the rows.
        source: Device that the predictor was trained for.
    """

    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    groups: tuple[str, ...]
    source: str

    def apply(self, graphs: Sequence[OpGraph], latency_s: np.ndarray) -> np.ndarray:
        """Corrected seconds, float64 [G]."""
        measured = np.array(self.rows)
        covariance = correction_covariance(work_profile(graphs, latency_s), measured, measured)
        return np.asarray(latency_s * np.exp(covariance @ np.array(self.weights)))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The calibration that `to_dict` wrote.

        Raises:
            ValueError: It was written by a version with other groups of operators.
        """
        if tuple(stored["groups"]) != GROUPS:
            raise ValueError("calibrated with other groups of operators")
        rows = tuple(tuple(row) for row in stored["rows"])
        table, weights = np.array(rows, dtype=np.float64), np.array(stored["weights"], np.float64)
        expected = (len(weights), _SCALARS + len(GROUPS))
        if table.shape != expected or not (np.isfinite(table).all() and np.isfinite(weights).all()):
            raise ValueError(f"rows of shape {table.shape} are no work profiles of {expected}")
        return cls(rows, tuple(stored["weights"]), GROUPS, stored["source"])


def work_profile(graphs: Sequence[OpGraph], latency_s: np.ndarray) -> np.ndarray:
    """Size of networks and composition of their work, float64 [G, 4 + groups].

    Args:
        graphs: The networks.
        latency_s: Predicted seconds.

    Returns:
        Logs of the predicted seconds, of FLOPs, bytes and operators, then the share of the work of
        each group of operators. Work is FLOPs or 16 per byte moved, whichever is larger.
    """
    rows = np.zeros((len(graphs), _SCALARS + len(GROUPS)))
    for row, graph, seconds in zip(rows, graphs, latency_s, strict=True):
        row[:_SCALARS] = np.log([seconds, 1.0 + graph.flops, 1.0 + graph.bytes, len(graph)])
        for i, cost in enumerate(graph.costs):
            work = max(float(cost.flops), _BALANCE * cost.bytes)
            row[_SCALARS + GROUPS.index(group_of(graph, i))] += work
        row[_SCALARS:] /= max(row[_SCALARS:].sum(), 1.0)
    return rows


def correction_covariance(a: np.ndarray, b: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Prior covariance of the corrections of two sets of networks, float64 [A, B]."""
    centre = measured[:, :_SCALARS].mean(axis=0)
    pa, pb = a[:, :_SCALARS] - centre, b[:, :_SCALARS] - centre
    wa, wb = a[:, _SCALARS:], b[:, _SCALARS:]
    squared = (0.2 * (pa[:, :1] - pb[:, 0])) ** 2
    squared += wa.sum(axis=1)[:, None] + wb.sum(axis=1) - 2.0 * np.sqrt(wa) @ np.sqrt(wb).T
    distance = np.sqrt(np.maximum(squared, 0.0))
    return np.asarray(
        _SHIFT**2
        + _SLOPE**2 * np.outer(pa[:, 0], pb[:, 0])
        + _SIZE**2 * pa[:, 1:] @ pb[:, 1:].T
        + _TILT**2 * wa @ wb.T
        + _SIMILARITY**2 * np.exp(-distance / _REACH)
    )
