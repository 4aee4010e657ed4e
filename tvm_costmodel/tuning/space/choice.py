"""One decision of one operator: its name, values and default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm_costmodel.tuning.space.candidate import Value
from tvm_costmodel.tuning.space.decisions import Decision


@dataclass(frozen=True)
class Choice:
    """One decision for the network or for one operator.

    Attributes:
        decision: The decision.
        operator: The operator's id, or ``NETWORK``.
        values: The values that apply here, the default first.
        stage_layout: The decision about the layout of the operator's stage; empty where there is
            none.
    """

    decision: Decision
    operator: int
    values: tuple[Value, ...]
    stage_layout: str = ""

    @property
    def place(self) -> tuple[int, str]:
        """Key of the value in ``Candidate.values``."""
        return self.operator, self.decision.name

    def needed(self, value: Value) -> Mapping[str, tuple[Value, ...]]:
        """Values of network decisions that a value needs; a layout is that of its stage."""
        needs = self.decision.needed(value)
        if self.stage_layout and "layout" in needs:
            return {**needs, self.stage_layout: ("same",)}
        return needs
