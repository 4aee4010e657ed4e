from __future__ import annotations

import logging

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig, CpuScheduleRule, schedule_module
from tvm_costmodel.compilers.cpu_rule.analysis.expression import rewrite, simplify
from tvm_costmodel.compilers.cpu_rule.emit.packing import PackedParameter, dump_packed, load_packed
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Cut, choose_tile, cuts
from tvm_costmodel.errors import ConfigError

from .cpu_rule_cases import target


@pytest.mark.parametrize("extent", [1, 7, 16, 17, 34, 136, 1000])
@pytest.mark.parametrize("width", [1, 8, 16])
def test_cuts_cover_the_axis_and_stay_inside(extent, width):
    if width > extent:
        return
    for cut in cuts(extent, width, 6):
        rows = cut.elements()
        assert len(rows) == cut.pieces
        assert {len(row) for row in rows} == {cut.size}
        assert {element for row in rows for element in row} == set(range(extent))


def test_cut_starts_agree_with_its_elements():
    for cut in (Cut(34, 16, 3), Cut(1000, 16, 3), Cut(55, 1, 14), Cut(50, 8, 4), Cut(64, 16, 2)):
        piece, vector = tvm.tirx.Var("p", "int64"), tvm.tirx.Var("v", "int64")
        start = cut.start(piece, vector)
        for p, row in enumerate(cut.elements()):
            for v in range(cut.vectors):
                values = {piece: tvm.tirx.IntImm("int64", p), vector: tvm.tirx.IntImm("int64", v)}
                assert int(simplify(rewrite(start, values)).value) == row[v * cut.width]


@pytest.mark.parametrize(("registers", "lanes"), [(32, 16), (16, 8), (32, 4)])
def test_tiles_fit_the_registers(registers, lanes):
    for rows in (1, 7, 49, 3136):
        for extent in (1, 3, 24, 64, 1000):
            tile = choose_tile(rows, extent, 576, vector=lanes, registers=registers)
            assert tile.accumulators + tile.lanes.vectors + 1 <= registers
            assert tile.lanes.width <= min(lanes, extent)


def test_configured_tile_is_used():
    tile = choose_tile(56, 64, 576, vector=16, registers=32, accumulators=16, vectors=4)
    assert (tile.lanes.vectors, tile.accumulators) == (4, 16)


def test_packing_puts_each_panel_together():
    plain = np.arange(2 * 3 * 5).reshape(1, 2, 3, 5)
    packed = PackedParameter(1, 3, ((0, 1, 2, 3), (1, 2, 3, 4)), (1, 2))
    result = packed.pack(plain)
    assert result.shape == packed.shape(plain.shape) == (2, 2, 3, 4)
    np.testing.assert_array_equal(result[1, 1, 2], plain[0, 1, 2, 1:5])
    assert load_packed(dump_packed([packed])) == [packed]


def test_config_round_trip_and_refusals():
    config = CpuRuleConfig(vector_bits=256, accumulators=12, loop_order="pixels")
    assert CpuRuleConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="did you mean 'accumulators'"):
        CpuRuleConfig.from_dict({"acumulators": 3})
    for wrong in ({"vector_bits": 100}, {"accumulators": 65}, {"loop_order": "rows"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            CpuRuleConfig(**wrong)


@pytest.mark.parametrize(
    ("cpu", "lanes", "registers"), [("znver5", 16, 32), ("haswell", 8, 16), ("nehalem", 4, 16)]
)
def test_machine_follows_the_target(cpu, lanes, registers):
    cpu_target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": 6})
    machine = Machine.from_target(cpu_target, CpuRuleConfig())
    assert (machine.lanes, machine.registers, machine.cores) == (lanes, registers, 6)
    assert Machine.from_target(cpu_target, CpuRuleConfig(vector_bits=128)).lanes == 4
    assert Machine.from_target(cpu_target, CpuRuleConfig(parallel=False)).cores == 1


def test_function_that_no_template_takes_is_reported(caplog):
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType([n, 8], "float32"))
    w = relax.Var("w", relax.TensorType([8, 4], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        builder.emit_func_output(builder.emit(relax.op.matmul(x, w)))
    with target():
        mod = relax.transform.LegalizeOps()(builder.get())
    rule = CpuScheduleRule()
    with caplog.at_level(logging.WARNING):
        schedule_module(mod, target(), rule)
    assert [entry.name for entry in rule.unscheduled] == ["matmul"]
    assert "matmul" in caplog.text
