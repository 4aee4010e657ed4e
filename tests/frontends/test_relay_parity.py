"""The same ONNX files through Relay and through Relax: what differs, by name.

Relay runs in an environment of its own and hands its graphs over as files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.networks import ONNX_NETWORKS, onnx_network_path
from tests.relay.environment import relay_python, run_there
from tvm_costmodel.frontends.onnx.reader import from_onnx
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.sources import WorkloadSource
from tvm_costmodel.profiling.workloads import FAMILIES, sample_suite

pytestmark = pytest.mark.skipif(
    not relay_python(), reason="no Relay environment: bash scripts/test.sh makes it"
)

QUICK = ("shufflenet", "squeezenet")

GLOBAL_POOL = ({"mean": 1}, {"adaptive_avg_pool2d": 1})
"""GlobalAveragePool: Relax's importer writes a mean over pixels, Relay's its own operator."""

LOCAL_NORM_OF_RELAX = Counter(multiply=2, pad=1, strided_slice=5, add=5, power=1, divide=1)
"""One LRN: an operator in Relay, and shifted slices in Relax, which has no operator for it."""

LOCAL_NORMS = (
    {name: 2 * count for name, count in LOCAL_NORM_OF_RELAX.items()},
    {"lrn": 2},
)

DIFFERENCES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "bvlc_alexnet": LOCAL_NORMS,
    "densenet121": GLOBAL_POOL,
    "inception_v1": LOCAL_NORMS,
    "inception_v2": ({}, {}),
    "resnet50": ({}, {}),
    "shufflenet": ({}, {}),
    # Softmax over channels before opset 13: between reshapes in Relax, in place in Relay.
    "squeezenet": (
        {"mean": 1, "reshape": 2, "softmax": 1},
        {"adaptive_avg_pool2d": 1, "softmax": 1},
    ),
    "vgg19": ({}, {}),
    "zfnet512": LOCAL_NORMS,
}
"""Operators that only Relax's graph has, and that only Relay's has."""


def tokens(graph: OpGraph) -> Counter[str]:
    """Each operator as a tokenizer meets it: name, attributes, types of operands and results."""
    return Counter(
        repr((o.op, sorted(o.attrs.items()), graph.input_types(i), o.weights, o.outputs))
        for i, o in enumerate(graph.operators)
    )


def names(only: Counter[str]) -> dict[str, int]:
    return dict(Counter(text.split("'")[1] for text in only.elements()))


def check(exported: Path, network: str) -> None:
    relax = from_onnx(onnx_network_path(network))
    relay = OpGraph.from_json((exported / f"{network}.json").read_text())
    only_relax, only_relay = tokens(relax) - tokens(relay), tokens(relay) - tokens(relax)
    assert (names(only_relax), names(only_relay)) == DIFFERENCES[network]
    assert relay.macs == relax.macs
    assert relay.unknown_ops == relax.unknown_ops == ()
    if DIFFERENCES[network] == ({}, {}):
        assert relay.hash == relax.hash  # wiring and order of operands as well


def test_all_nine_networks_are_compared() -> None:
    assert sorted(DIFFERENCES) == sorted(ONNX_NETWORKS)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relay")
    run_there("tests.relay.export_networks", str(folder), *QUICK)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relay")
    run_there("tests.relay.export_networks", str(folder), *sorted(set(ONNX_NETWORKS) - set(QUICK)))
    return folder


@pytest.mark.parametrize("network", QUICK)
def test_what_differs(network: str, quick: Path) -> None:
    check(quick, network)


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(set(ONNX_NETWORKS) - set(QUICK)))
def test_what_differs_in_large_networks(network: str, others: Path) -> None:
    check(others, network)


WRITTEN_OTHERWISE = {"convnext", "encoder", "mixer", "vit"}
"""Families with GELU, which Relay has no operator for, or products that Relay writes with fewer
dimensions."""


@pytest.mark.slow
def test_workloads_are_the_same_networks(tmp_path: Path) -> None:
    run_there("tests.relay.export_networks", str(tmp_path))
    others = set()
    for family, params in sample_suite("quick", len(FAMILIES)):
        _, relax = WorkloadSource(family, params).load()
        relay = OpGraph.from_json((tmp_path / f"{family}.json").read_text())
        assert relay.macs == relax.macs, family
        if relay.hash != relax.hash:
            others.add(family)
    assert others == WRITTEN_OTHERWISE
