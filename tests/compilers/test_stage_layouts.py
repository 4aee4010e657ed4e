"""Layouts of single stages of a network."""

from __future__ import annotations

import pytest

from tests.tuning.passes import through_passes
from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target, verify
from tvm_costmodel.compilers.relax.verification import random_inputs
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.tunable_ops import STAGES, convolution_stages, stages_of

from .networks_small import outputs_of_default, staged


def test_stages_are_halvings_of_the_image():
    sizes = {"stem": 149, "second": 147, "third": 73, "fourth": 71, "late": 35, "gate": 1}
    stages = stages_of({name: side * side for name, side in sizes.items()})
    assert stages == {"stem": 1, "second": 1, "third": 2, "fourth": 2, "late": 3}
    many = stages_of({n: 4**n for n in range(1, 11)})
    assert many[10] == 1 and many[6] == 5
    assert {n for n, stage in many.items() if stage == STAGES} == {1, 2, 3, 4, 5}
    assert stages_of({}) == {} and stages_of({"gate": 1}) == {}


def test_stages_of_a_network_leave_out_images_of_one_pixel():
    graph = from_relax(staged())
    stages = convolution_stages(graph)
    sizes = {
        n: {graph.operators[i].outputs[0].shape[2:] for i in stages if stages[i] == n}
        for n in set(stages.values())
    }
    assert sizes == {1: {(24, 20)}, 2: {(12, 10)}, 3: {(6, 5)}}


@pytest.mark.parametrize(
    ("layout", "departing"),
    [("NHWC", (1,)), ("NHWC", (2, 3)), ("NCHW", (2,)), ("NCHW", (3,)), ("NCHW", (1, 3))],
)
def test_only_the_named_stages_depart_and_outputs_stay_the_same(layout, departing):
    other = {"NHWC": "NCHW", "NCHW": "NHWC"}[layout]
    config = PipelineConfig(layout=layout, stage_layouts=tuple((n, other) for n in departing))
    mod = staged()
    stages = convolution_stages(from_relax(mod))
    expected = [
        other if stages.get(i) in departing else layout
        for i, o in enumerate(from_relax(mod).operators)
        if o.op == "conv2d"
    ]
    graph = from_relax(through_passes(mod, config))
    layouts = [str(o.attrs["data_layout"]) for o in graph.operators if o.op == "conv2d"]
    assert layouts == expected
    built = build(mod, cpu_target(), config)
    plain = outputs_of_default(mod)
    assert verify(built.executable, plain, random_inputs(mod), rtol=1e-4).equal
    assert built.unscheduled == ()


def test_configs_keep_only_stages_that_depart():
    config = PipelineConfig(stage_layouts=((3, "NCHW"), (1, "NCHW"), (2, "NHWC")))
    assert config.stage_layouts == ((1, "NCHW"), (3, "NCHW"))
    assert PipelineConfig.from_dict(config.to_dict()) == config
    assert PipelineConfig(stage_layouts=((2, "NHWC"),)).key == PipelineConfig().key != config.key
    for stages, message in (
        (((0, "NCHW"),), "stages .0.; name each of 1 to 6"),
        (((1, "NCHW"), (1, "NHWC")), "at most once"),
        (((1, "NCHW16c"),), "use one of NHWC, NCHW"),
    ):
        with pytest.raises(ConfigError, match=message):
            PipelineConfig(stage_layouts=stages)
    with pytest.raises(ConfigError, match="precision is 'bfloat16'"):
        PipelineConfig(precision="bfloat16")
    assert PipelineConfig(precision="float16").key != PipelineConfig().key


def test_the_default_keys_are_those_of_the_labels():
    assert PipelineConfig().key == "406af521d93343d4"
    assert set(PipelineConfig().to_dict()) == {"layout", "fuse", "fold_batch_norm", "rule"}
