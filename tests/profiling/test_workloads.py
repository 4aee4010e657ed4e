from __future__ import annotations

import json
import statistics
import time

import numpy as np
import pytest

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.sources import suite
from tvm_costmodel.profiling.workloads import FAMILIES, SIZES, sample_suite, suite_names
from tvm_costmodel.profiling.workloads.sampling import divisible

ALL = sorted(FAMILIES)


def test_there_are_at_least_twelve_families_each_with_its_paper() -> None:
    assert len(FAMILIES) >= 12
    for name, family in FAMILIES.items():
        assert family.name == name
        assert "arXiv" in family.reference or "19" in family.reference or "20" in family.reference


@pytest.mark.parametrize("name", ALL)
def test_reference_configuration_costs_what_was_published(name: str) -> None:
    family = FAMILIES[name]
    cost = family.cost(family.reference_params)
    assert cost.macs == pytest.approx(family.reference_macs, rel=0.03)
    if family.reference_parameters is not None:
        assert cost.parameters == pytest.approx(family.reference_parameters, rel=0.01)


@pytest.mark.parametrize("name", ALL)
def test_samples_are_json_and_follow_the_seed(name: str) -> None:
    family = FAMILIES[name]
    first, second, other = (
        [family.sample(np.random.default_rng(seed)) for _ in range(3)] for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize("name", ALL)
def test_a_parameter_dict_costs_the_same_after_json(name: str) -> None:
    family = FAMILIES[name]
    params = family.sample(np.random.default_rng(5))
    again = json.loads(json.dumps(params))
    assert family.cost(again) == family.cost(params)


@pytest.mark.parametrize("name", ALL)
def test_samples_differ(name: str) -> None:
    family, rng = FAMILIES[name], np.random.default_rng(0)
    drawn = {json.dumps(family.sample(rng), sort_keys=True) for _ in range(60)}
    assert len(drawn) >= 56


def test_sizes_span_from_a_fraction_of_a_millisecond_to_real_networks() -> None:
    costs = [FAMILIES[name].cost(params) for name, params in sample_suite("default", 400)]
    macs = sorted(cost.macs for cost in costs)
    assert macs[0] < 6e6
    assert 100e6 < statistics.median(macs) < 400e6
    assert 0.15 < sum(m > 500e6 for m in macs) / len(macs) < 0.4
    assert macs[-1] > 8e9


@pytest.mark.parametrize(
    "name",
    [
        *("resnet", "resnet_bottleneck", "vgg", "alexnet", "squeezenet", "googlenet"),
        *("inception_v2", "densenet", "mobilenet_v1", "mobilenet_v2", "shufflenet_v1"),
        "efficientnet",
    ],
)
def test_the_published_configuration_lies_inside_the_sampled_range(name: str) -> None:
    family, rng = FAMILIES[name], np.random.default_rng(0)
    drawn = [family.sample(rng, size) for size in ("medium", "large") for _ in range(150)]
    published = family.cost(family.reference_params)
    costs = [family.cost(params) for params in drawn]
    assert min(c.macs for c in costs) < published.macs < 1.01 * max(c.macs for c in costs)
    assert any(params["image"] == 224 for params in drawn)


def test_suite_goes_round_the_families_and_begins_alike_whatever_its_length() -> None:
    ten = list(sample_suite("default", 10, seed=3))
    fifty = list(sample_suite("default", 50, seed=3))
    assert fifty[:10] == ten
    assert [name for name, _ in fifty[: len(FAMILIES)]] == list(FAMILIES)
    assert list(sample_suite("default", 10, seed=4)) != ten


def test_quick_suite_is_tiny() -> None:
    for name, params in sample_suite("quick", 2 * len(FAMILIES)):
        assert FAMILIES[name].cost(params).macs < 3 * SIZES["tiny"][2]


def test_suite_yields_sources_of_one_family() -> None:
    sources = list(suite("vgg", 3, seed=1))
    assert [source.family for source in sources] == ["vgg"] * 3
    expected = [params for _, params in sample_suite("vgg", 3, seed=1)]
    assert [dict(source.params) for source in sources] == expected


def test_families_of_a_suite_draw_what_they_draw_in_the_whole_suite() -> None:
    chosen = list(sample_suite("default", 6, 2, ["vit", "resnet"]))
    assert [name for name, _ in chosen] == ["resnet", "vit"] * 3
    whole = list(sample_suite("default", 3 * len(FAMILIES), 2))
    assert chosen == [(name, params) for name, params in whole if name in ("vit", "resnet")]
    with pytest.raises(ConfigError, match="families of the suite 'vgg': unknown key 'resnet'"):
        list(sample_suite("vgg", 1, families=["resnet"]))


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="resnet_bottleneck"):
        list(sample_suite("resnett", 1))
    assert {"default", "quick", "vgg"} <= set(suite_names())


def test_unknown_importer_is_refused() -> None:
    with pytest.raises(ConfigError, match="onnx, torch"):
        FAMILIES["vgg"].cost({**FAMILIES["vgg"].reference_params, "importer": "caffe"})


def test_channels_round_as_in_mobilenet() -> None:
    assert [divisible(v) for v in (3, 11, 12, 32 * 0.35, 24 * 1.4)] == [8, 16, 16, 16, 32]


@pytest.mark.parametrize("name", ALL)
def test_twenty_samples_build_into_well_formed_modules_that_the_graph_reads(name: str) -> None:
    pytest.importorskip("tvm")
    from tvm import relax

    from tvm_costmodel.frontends.relax.export import from_relax

    family, rng = FAMILIES[name], np.random.default_rng(9)
    seconds = []
    for i in range(20):
        params = family.sample(rng, "medium" if i % 4 == 0 else "small")
        start = time.process_time()
        module = family.build(params)
        seconds.append(time.process_time() - start)
        relax.analysis.well_formed(module)
        graph = from_relax(module)
        assert graph.unknown_ops == ()
        assert len(graph.inputs) == 1
        assert graph.macs == family.cost(params).macs
        assert len(graph) == family.cost(params).operators + 1
    assert statistics.median(seconds) < 0.6


@pytest.mark.parametrize("name", ALL)
def test_equal_parameters_give_equal_graphs(name: str) -> None:
    pytest.importorskip("tvm")
    from tvm_costmodel.frontends.relax.export import from_relax

    family = FAMILIES[name]
    params = family.sample(np.random.default_rng(4), "tiny")
    graphs = [from_relax(family.build(p)) for p in (params, json.loads(json.dumps(params)))]
    assert graphs[0].hash == graphs[1].hash


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in ALL])
def test_tiny_networks_compile_and_run(name: str) -> None:
    _compile_and_run(name)


@pytest.mark.parametrize("name", ["resnet", "vit", "shufflenet_v2"])
def test_a_few_tiny_networks_compile_and_run(name: str) -> None:
    _compile_and_run(name)


def _compile_and_run(name: str) -> None:
    tvm = pytest.importorskip("tvm")
    family = FAMILIES[name]
    params = family.sample(np.random.default_rng(2), "tiny")
    executable = tvm.compile(family.build(params), tvm.target.Target("llvm"))
    machine = tvm.relax.VirtualMachine(executable, tvm.cpu())
    x = np.random.default_rng(0).standard_normal(family.input_shape(params), dtype=np.float32)
    output = machine["main"](tvm.runtime.tensor(x)).numpy()
    expected = family.cost(params).output
    assert output.shape == expected
    assert np.isfinite(output).all()
    assert output.std() > 1e-6
