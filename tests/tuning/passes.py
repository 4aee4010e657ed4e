"""The graph and the kernels that the compiler's own passes make of a network."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import tvm
from tvm import relax

from tvm_costmodel.compilers.relax import cpu_target
from tvm_costmodel.compilers.relax.config import PipelineConfig
from tvm_costmodel.compilers.relax.pass_pipeline import fuse_operators, graph_passes
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.ops import ANNOTATIONS

_PRIMFUNC_NAMES = {"concat": "concatenate", "dense": "matmul"}

Kernels = Counter[tuple[tuple[str, tuple[int, ...]], ...]]


def through_passes(mod: tvm.IRModule, config: PipelineConfig) -> tvm.IRModule:
    """The module after the graph passes, before it is legalised."""
    plain = dataclasses.replace(config, kernels=())  # tuned kernels become PrimFuncs early
    with cpu_target(), tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(graph_passes(plain))(mod)


def kernels_after(passed: tvm.IRModule, config: PipelineConfig) -> Kernels:
    """How often each kernel occurs, as the sorted names and result shapes of its PrimFuncs.

    Args:
        passed: What `through_passes` gave for this configuration.
    """
    passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()]
    if config.fuse:
        passes.append(fuse_operators(config.fuse_depth))
    with cpu_target(), tvm.transform.PassContext(opt_level=3):
        mod = tvm.transform.Sequential(passes)(passed)
    return Counter(
        tuple(sorted(_primfuncs(mod, binding.value)))
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, tvm.ir.Call)
    )


def _primfuncs(mod: tvm.IRModule, call: tvm.ir.Call) -> list[tuple[str, tuple[int, ...]]]:
    if not isinstance(call.op, tvm.ir.GlobalVar):
        name = re.sub(r"(?<=[a-z])\d+$", "", call.args[0].name_hint)
        ty = call.ty.fields[0] if isinstance(call.ty, tvm.ir.TupleType) else call.ty
        return [(_family(name), tuple(int(d) for d in ty.shape))]
    inner = mod[call.op]
    return [
        primfunc
        for block in inner.body.blocks
        for binding in block.bindings
        if isinstance(binding.value, tvm.ir.Call)
        for primfunc in _primfuncs(mod, binding.value)
    ]


def _family(name: str) -> str:
    """A PrimFunc's name without its number: ``conv2d3`` and ``conv2d`` are both ``conv``."""
    name = re.sub(r"\d+$", "", name.removeprefix("tir_"))
    # relu and a maximum with zero are one PrimFunc
    return "maximum" if name == "relu" else name.removesuffix("2d")


def annotated_kernels(graph: OpGraph) -> Kernels:
    """The kernels of an annotated graph, as ``kernels_after`` gives them."""
    parent = list(range(len(graph)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, operator in enumerate(graph.operators):
        for position in operator.attrs.get("fused", ()):
            parent[root(operator.inputs[position][0])] = root(i)
    members: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for i, operator in enumerate(graph.operators):
        if operator.op != "input":
            name = _family(_PRIMFUNC_NAMES.get(operator.op, operator.op))
            members.setdefault(root(i), []).append((name, operator.outputs[0].shape))
    return Counter(tuple(sorted(kernel)) for kernel in members.values())


def without_annotations(graph: OpGraph) -> OpGraph:
    return OpGraph(
        tuple(
            dataclasses.replace(
                operator, attrs={k: v for k, v in operator.attrs.items() if k not in ANNOTATIONS}
            )
            for operator in graph.operators
        ),
        graph.outputs,
        graph.name,
    )
