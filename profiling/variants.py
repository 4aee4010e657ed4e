"""What a paired measurement takes and gives: a pipeline to measure, and its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm_costmodel.profiling.measuring.record import Measurement, Timing


@dataclass(frozen=True)
class VariantRun:
    """A pipeline to measure a network under.

    Attributes:
        pipeline: Fields of the compiler's ``PipelineConfig`` that differ from the baseline's.
        decisions: The decisions as JSON values, stored with the row.
    """

    pipeline: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantResult:
    """The outcome of a trial: its row, and whether the store had it already."""

    trial: VariantRun
    row: Measurement
    reused: bool = False

    @property
    def status(self) -> str:
        """Status of the row, see `tvm_costmodel.profiling.measuring.record.STATUSES`."""
        return self.row.status

    @property
    def timing(self) -> Timing | None:
        """The label; None where there is none."""
        return self.row.timing if self.row.status == "ok" else None
