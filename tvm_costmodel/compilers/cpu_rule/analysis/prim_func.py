"""Facts about a PrimFunc, block by block, that the templates match on."""

from __future__ import annotations

import dataclasses

from tvm import s_tir, tirx
from tvm.ir import Call, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import (
    DEFAULT_DECISION,
    KERNEL_DECISION,
    KernelDecision,
)

# PrimFunc attribute: indices of the parameters that every caller binds to a constant.
CONSTANT_PARAMETERS = "tvm_costmodel.constant_parameters"
# PrimFunc attribute: the name in the module; private functions carry no global symbol.
FUNCTION_NAME = "tvm_costmodel.function_name"

_SPATIAL = tirx.IterVar.DataPar
_REDUCE = tirx.IterVar.CommReduce


@dataclasses.dataclass(frozen=True)
class BlockFacts:
    """One block of a PrimFunc.

    Attributes:
        name: The block's name; ``sch.get_sblock(name)`` finds it.
        kinds: One letter per block axis: ``S`` spatial, ``R`` reduction, ``?`` anything else.
        extents: Extent of each block axis; -1 where it is not a constant.
        axes: The block axes' variables, in order.
        store: The statement that the block performs, None when it is not a single store.
        reads: Buffers read, in order of appearance and without the written one.
        plain_loops: Whether each block axis is bound to a loop of its own, in order.
    """

    name: str
    kinds: str
    extents: tuple[int, ...]
    axes: tuple[Var, ...]
    store: tirx.BufferStore | None
    reads: tuple[Var, ...]
    plain_loops: bool

    @property
    def is_reduction(self) -> bool:
        """Whether any axis is reduced over."""
        return "R" in self.kinds

    @property
    def is_static(self) -> bool:
        """Whether every extent is a constant."""
        return all(extent >= 0 for extent in self.extents)

    @property
    def is_pad(self) -> bool:
        """Whether the block copies one buffer into a zero-padded one."""
        if self.store is None or self.is_reduction:
            return False
        value = self.store.value
        return (
            isinstance(value, Call)
            and getattr(value.op, "name", "").endswith("if_then_else")
            and isinstance(value.args[1], TensorLoad)
            and isinstance(value.args[2], tirx.FloatImm | tirx.IntImm)
        )

    @property
    def is_copy(self) -> bool:
        """Whether the block copies a buffer element by element without moving anything."""
        if self.store is None or not isinstance(self.store.value, TensorLoad):
            return False
        load = self.store.value
        return len(load.indices) == len(self.store.indices) and all(
            a.same_as(b) for a, b in zip(load.indices, self.store.indices, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class FunctionFacts:
    """A PrimFunc's blocks in program order.

    Attributes:
        name: The function's name, for messages.
        blocks: Every block below the root.
        outputs: Names of the blocks that write the function's parameters.
        constants: Indices of the parameters that are constants at every call.
        decision: The kernel decision for this function.
    """

    name: str
    blocks: tuple[BlockFacts, ...]
    outputs: tuple[str, ...]
    constants: frozenset[int] = frozenset()
    decision: KernelDecision = DEFAULT_DECISION

    @property
    def reductions(self) -> tuple[BlockFacts, ...]:
        """Blocks that reduce over some axis."""
        return tuple(block for block in self.blocks if block.is_reduction)

    @property
    def is_static(self) -> bool:
        """Whether every block's extents are constants."""
        return all(block.is_static for block in self.blocks)

    def block(self, name: str) -> BlockFacts:
        """Returns the block of that name."""
        return next(block for block in self.blocks if block.name == name)


def constant_extent(extent: object) -> int:
    """Returns a constant extent as an int, and -1 for a symbolic one."""
    return int(extent.value) if isinstance(extent, tirx.IntImm) else -1


def analyse(sch: s_tir.Schedule, name: str) -> FunctionFacts:
    """Reads every block under the root of a schedule's function."""
    handles = sch.get_child_blocks(sch.get_sblock("root"))
    blocks = [_block_facts(sch, block) for block in handles]
    func = sch.mod["main"]
    outputs = [
        block.name
        for block in blocks
        if block.store is not None
        and any(block.store.buffer.same_as(parameter) for parameter in func.params)
    ]
    constants = (func.attrs or {}).get(CONSTANT_PARAMETERS, ())
    return FunctionFacts(
        name,
        tuple(blocks),
        tuple(outputs),
        frozenset(int(index) for index in constants),
        _decision(sch, handles),
    )


def _decision(sch: s_tir.Schedule, blocks: list[s_tir.SBlockRV]) -> KernelDecision:
    for block in blocks:
        text = sch.get(block).annotations.get(KERNEL_DECISION)
        if text is not None:
            return KernelDecision.from_json(str(text))
    return DEFAULT_DECISION


def _block_facts(sch: s_tir.Schedule, block: s_tir.SBlockRV) -> BlockFacts:
    stmt = sch.get(block)
    kinds = "".join({_SPATIAL: "S", _REDUCE: "R"}.get(v.iter_type, "?") for v in stmt.iter_vars)
    store = stmt.body if isinstance(stmt.body, tirx.BufferStore) else None
    loops = [sch.get(loop) for loop in sch.get_loops(block)]
    return BlockFacts(
        name=stmt.name_hint,
        kinds=kinds,
        extents=tuple(constant_extent(v.dom.extent) for v in stmt.iter_vars),
        axes=tuple(v.var for v in stmt.iter_vars),
        store=store,
        reads=tuple(region.source for region in stmt.reads),
        plain_loops=len(loops) == len(kinds),
    )
