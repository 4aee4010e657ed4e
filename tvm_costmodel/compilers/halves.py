"""Which values of a network are stored in half precision where that is decided.

Convolutions and matrix products read halves and sum in single precision, so that nothing else has
to compute in half precision, which many CPUs cannot. What moves values about without computing
passes them on as halves; all other operators compute in single precision, with the conversions
inside their kernels. Inputs and outputs of the network stay as they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from tvm_costmodel.ops import CATALOGUE

PRODUCTS = frozenset(("conv2d", "dense", "matmul"))
"""Operators that read halves and make single precision of them."""

MOVING = frozenset(
    "max_pool2d concat transpose reshape flatten batch_flatten squeeze expand_dims strided_slice "
    "split".split()
)
"""Operators that pass halves on."""


@dataclass(frozen=True)
class Step:
    """One operator as the choice of halves sees it.

    Attributes:
        op: Its canonical name.
        reads: Its activations.
        makes: Its results.
        plain: Whether every tensor that it reads or makes is of single precision.
    """

    op: str
    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]
    plain: bool


def halved_values(steps: Sequence[Step], kept: Iterable[Hashable]) -> set[Hashable]:
    """The values that are stored as halves.

    That is what products read, what moving operators make such values of, and what they make of
    others for element-wise operators whose own results are halves.

    Args:
        steps: All operators but the network's inputs, each after those that it reads.
        kept: Inputs and outputs of the network.
    """
    whole = set(kept)
    moved = {value for step in steps if step.op in MOVING for value in step.makes}
    halved: set[Hashable] = set()
    for step in reversed(steps):
        moves = step.plain and step.op in MOVING and whole.isdisjoint(step.makes)
        wanted = not halved.isdisjoint(step.makes)
        if not step.plain or (step.op in MOVING and not moves):
            halved.difference_update(step.makes)
        elif step.op in PRODUCTS:
            halved.update(set(step.reads) - whole)
        elif wanted and moves:  # all of an operator's results are of one type
            halved.update(step.makes, set(step.reads) - whole)
        elif wanted and _is_element_wise(step.op):
            halved.update(moved.intersection(step.reads) - whole)
    return halved


def _is_element_wise(op: str) -> bool:
    spec = CATALOGUE.get(op)
    return spec is not None and spec.category in ("elementwise", "activation")
