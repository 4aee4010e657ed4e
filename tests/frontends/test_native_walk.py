"""The native walk against its Python twin, and what happens where it cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.frontends.relax_modules import BUILDERS
from tests.networks import ONNX_NETWORKS, onnx_network_path
from tvm_costmodel.errors import MissingDependencyError
from tvm_costmodel.frontends.graph_arrays import ARRAY_FIELDS, GraphArrays
from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax
from tvm_costmodel.frontends.relax import native_walk
from tvm_costmodel.frontends.relax.export import from_relax, walk
from tvm_costmodel.profiling.workloads import FAMILIES

ROOT = Path(__file__).parents[2]


def assert_same(first: GraphArrays, second: GraphArrays) -> None:
    assert first.strings == second.strings
    assert first.names == second.names
    for name in ARRAY_FIELDS:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)


def assert_parity(module, func: str = "main") -> None:
    assert_same(walk(module, func, engine="native"), walk(module, func, engine="python"))


def test_native_walk_was_built() -> None:
    assert native_walk.native_available(), native_walk.unavailable_because()


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_parity_on_small_modules(name) -> None:
    assert_parity(BUILDERS[name]())


@pytest.mark.parametrize("func", ["branches", "other"])
def test_parity_on_control_flow(func) -> None:
    assert_parity(BUILDERS["control_flow"](), func)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n, marks=pytest.mark.slow if n in ("vgg19", "bvlc_alexnet", "zfnet512") else ()
        )
        for n in ONNX_NETWORKS
    ],
)
def test_parity_on_onnx_networks(name) -> None:
    assert_parity(onnx_to_relax(load_onnx(onnx_network_path(name))))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_parity_on_workload_families(name) -> None:
    family = FAMILIES[name]
    module = family.build(family.sample(np.random.default_rng(0)))
    assert_parity(module)
    assert from_relax(module).unknown_ops == ()


def test_every_type_and_field_read_natively_is_in_the_installed_tvm() -> None:
    schema = (ROOT / "csrc" / "relax_schema.h").read_text()
    types = re.findall(r'Type \w+\{"([^"]+)"\}', schema)
    fields = re.findall(r'Field \w+\{"([^"]+)", "([^"]+)"\}', schema)
    assert len(types) > 20
    assert len(fields) > 30
    for type_key, field in fields:
        native_walk.check_field(type_key, field)


def test_a_renamed_type_or_field_is_named() -> None:
    with pytest.raises(AttributeError, match=r"no type `relax\.expr\.Call`"):
        native_walk.check_field("relax.expr.Call", "op")
    with pytest.raises(AttributeError, match=r"type `ir\.Call` has no field `operator`"):
        native_walk.check_field("ir.Call", "operator")


def test_native_errors_are_python_errors() -> None:
    with pytest.raises(TypeError):
        native_walk.walk("not a function", 1)


@pytest.fixture
def without_extension(monkeypatch, tmp_path):
    native_walk._load.cache_clear()
    monkeypatch.setattr(native_walk, "LIBRARY", tmp_path / "_native.so")
    yield tmp_path / "_native.so"
    native_walk._load.cache_clear()


def test_python_walk_serves_where_nothing_was_built(without_extension) -> None:
    module = BUILDERS["convolutions"]()
    assert not native_walk.native_available()
    assert "was not built" in native_walk.unavailable_because()
    assert from_relax(module).macs > 0
    with pytest.raises(MissingDependencyError, match="pip install"):
        from_relax(module, engine="native")


def test_a_library_from_before_a_change_is_not_used(monkeypatch) -> None:
    native_walk._load.cache_clear()
    monkeypatch.setattr(native_walk, "WALK_VERSION", -1)
    assert not native_walk.native_available()
    assert "built from an older source" in native_walk.unavailable_because()
    native_walk._load.cache_clear()


def test_python_walk_serves_where_the_library_does_not_load(without_extension, caplog) -> None:
    without_extension.write_bytes(b"not a library")
    assert not native_walk.native_available()
    assert "does not work here" in caplog.text
    assert from_relax(BUILDERS["tuples"]()).outputs
