"""Template for functions without a reduction: element-wise work, copies, concatenation, padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tvm import s_tir
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, BufferStore

from tvm_costmodel.compilers.cpu_rule.analysis.expression import loads, rewrite
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import BlockFacts, FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit import loop_nests
from tvm_costmodel.compilers.cpu_rule.emit.store_access import Axis
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine


@dataclasses.dataclass(frozen=True, eq=False)
class Computed:
    """An intermediate buffer's value, in terms of its block's axes."""

    axes: tuple[Var, ...]
    indices: tuple[Expr, ...]
    value: Expr


def inline(expr: Expr, computed: Mapping[Var, Computed]) -> Expr:
    """Puts the values of intermediate buffers in place of reads of them."""

    def on_load(load: TensorLoad, indices: list[Expr]) -> Expr:
        source = computed.get(load.source)
        if source is None:
            return BufferLoad(load.source, indices)
        values = dict(zip((i for i in source.indices), indices, strict=True))
        return rewrite(source.value, {var: values[var] for var in source.axes})

    return rewrite(expr, {}, on_load)


def can_inline(block: BlockFacts) -> bool:
    """Whether a block writes one element per point of its axes, in the axes' order."""
    return (
        block.store is not None
        and not block.is_reduction
        and len(block.store.indices) == len(block.axes)
        and all(a.same_as(b) for a, b in zip(block.store.indices, block.axes, strict=True))
    )


def inlined_stores(
    blocks: Sequence[BlockFacts], outputs: Sequence[str]
) -> list[tuple[BlockFacts, BufferStore]] | None:
    """Folds every intermediate block into the outputs that read it.

    Returns:
        Each output block with its store, or None where a block cannot be inlined.
    """
    computed: dict[Var, Computed] = {}
    stores = []
    for block in blocks:
        if block.store is None:
            return None
        value = inline(block.store.value, computed)
        if block.name in outputs:
            stores.append((block, BufferStore(block.store.buffer, value, block.store.indices)))
        elif can_inline(block):
            computed[block.store.buffer] = Computed(block.axes, block.axes, value)
        else:
            return None
    written = [store.buffer for _, store in stores]
    for _, store in stores:
        if any(load.source.same_as(buffer) for load in loads(store.value) for buffer in written):
            return None
    return stores


class Elementwise:
    """Folds all blocks into the outputs and runs each as one nest of vector loops."""

    name = "elementwise"

    def apply(
        self,
        sch: s_tir.Schedule,
        facts: FunctionFacts,
        config: CpuRuleConfig,
        machine: Machine,
    ) -> s_tir.Schedule | None:
        """See Template."""
        if facts.reductions or not facts.is_static or not facts.outputs:
            return None
        stores = inlined_stores(facts.blocks, facts.outputs)
        if stores is None:
            return None
        nests = []
        for block, store in stores:
            axes = [
                Axis(var, extent) for var, extent in zip(block.axes, block.extents, strict=True)
            ]
            nests.append(loop_nests.elementwise(axes, store, machine.lanes, machine.cores))
        return loop_nests.root_function(sch.mod["main"], loop_nests.sequence(nests))


TEMPLATES = (Elementwise(),)
