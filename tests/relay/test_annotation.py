"""The annotated graph's kernels are those that Relay's own passes leave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tvm
from tvm import relay

from tests.relay.test_build import network as two_branches
from tests.relay.test_profile import PARAMS
from tvm_costmodel.compilers import relay as compiler
from tvm_costmodel.compilers.relay.build_module import apply_passes, pass_context
from tvm_costmodel.frontends.relay.export import from_relay
from tvm_costmodel.profiling.sources import WorkloadSource
from tvm_costmodel.tokenizer.kernel_graph import KernelGraph
from tvm_costmodel.tuning.annotate.relay import RelayAnnotator
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.relay_decisions import RELAY_DECISIONS

Kernels = Counter[tuple[str, ...]]
VIEWS = {"layout_transform", "reshape", "transpose", "squeeze"}


@pytest.fixture(scope="module")
def network() -> tuple[tvm.IRModule, Any]:
    return WorkloadSource("resnet", PARAMS, "relay").load()


def of_passes(mod: tvm.IRModule, config: compiler.RelayConfig) -> Kernels:
    """Operators of each kernel after FuseOps, in order, without those that only move data."""
    target = compiler.cpu_target()
    mod = apply_passes(mod, config)
    with target, pass_context(config):
        mod, _ = relay.optimize(mod, target=target)
    counts: Kernels = Counter()

    def visit(expr: Any) -> None:
        if not isinstance(expr, relay.Call) or not isinstance(expr.op, relay.Function):
            return
        names: list[str] = []
        relay.analysis.post_order_visit(
            expr.op.body,
            lambda e: names.append(plain(e.op.name)) if isinstance(e, relay.Call) else None,
        )
        if computing := tuple(name for name in names if name not in VIEWS):
            counts[computing] += 1

    relay.analysis.post_order_visit(mod["main"].body, visit)
    return counts


def plain(name: str) -> str:
    """An operator's name without the changes of packing its channels."""
    name = name.removeprefix("nn.").removeprefix("contrib_")
    return name.removesuffix("_NCHWc").removesuffix("_pack")


def of_annotation(graph: Any, candidate: Candidate) -> Kernels:
    kernels = KernelGraph(RelayAnnotator(graph).annotate(candidate))
    counts: Kernels = Counter()
    for token in range(len(kernels)):
        inside = [i for i, at in enumerate(kernels.token_of) if at == token]
        names = (kernels.graph.operators[i].op for i in inside)
        if computing := tuple(name for name in names if name not in VIEWS):
            counts[computing] += 1
    return counts


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"opt_level": 2},
        {"fusion": "depth1"},
        {"alter_layout": "off"},
        {"layout": "NHWC"},
    ],
    ids=str,
)
def test_kernels_are_those_of_relays_passes(network: Any, values: dict[str, Any]) -> None:
    mod, graph = network
    space = DecisionSpace.for_graph(graph, compiler="relay")
    candidate = Candidate.of({(NETWORK, name): value for name, value in values.items()})
    wanted = of_passes(mod, space.config(candidate))
    assert of_annotation(graph, candidate) == wanted and wanted.total() >= 5


def test_decisions_need_the_level_at_which_their_passes_run() -> None:
    """A pass that a level leaves out cannot be decided together with that level."""
    passes = {"alter_layout": "AlterOpLayout", "canonical": "CanonicalizeOps"}
    needs = {decision.name: dict(decision.needs) for decision in RELAY_DECISIONS}
    for name, its_pass in passes.items():
        assert getattr(relay.transform, its_pass)().info.opt_level == 3
        assert needs[name] == {"": {"opt_level": (3,)}}
    assert needs["fusion"] == {"": {"opt_level": (3, 1, 2)}}


def test_layers_that_merge_are_one_with_slices() -> None:
    annotator = RelayAnnotator(from_relay(two_branches()))
    separate, flat, batch = (
        annotator.annotate(Candidate.of({(NETWORK, "products"): value} if value else {}))
        for value in ("", "flat", "batch")
    )
    count = [sum(o.op == "dense" for o in graph.operators) for graph in (separate, flat, batch)]
    assert count == [2, 1, 2]
    marked = [o for o in batch.operators if "products as a batch" in o.attrs["relay"]]
    assert len(marked) == 2 and {o.op for o in marked} == {"dense"}
