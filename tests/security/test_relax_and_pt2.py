"""Models that would run code when they are read or run: refused, and nothing has run."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.mutations import BOARD, shared_faults
from tests.security.running import run_command
from tvm_costmodel.errors import (
    ModelFileError,
)
from tvm_costmodel.frontends.pt2_archive import clean_archive
from tvm_costmodel.frontends.symbolic_sizes import is_size
from tvm_costmodel.profiling.sources import FileSource

FAULTS = shared_faults()


def relax_calling(function: str, name: str) -> str:
    """JSON of a module that calls a packed function or, from TIR, a C function."""
    tvm = pytest.importorskip("tvm")
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 2), "float32"))
    with builder.function("main", [x]):
        callee = relax.ExternFunc(name)
        if function == "call_packed":
            y = relax.Call(callee, [x], ty_args=[x.ty])
        else:
            y = getattr(relax.op, function)(callee, x, **_keywords(function, x))
        builder.emit_func_output(builder.emit(y))
    return str(tvm.ir.save_json(builder.get()))


def _keywords(function: str, x: Any) -> dict[str, Any]:
    if function == "call_dps_packed":
        return {"out_ty": x.ty}
    return {"ty_args": x.ty} | ({"inplace_indices": 0} if "inplace" in function else {})


@pytest.mark.parametrize("name", ["packed", "extern"])
def test_modules_that_call_out_are_refused_by_every_command(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    path = FAULTS / "relax" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    for argv in (
        ["predict", str(path), "--checkpoint", f"{BOARD}/flops", "--device", BOARD],
        ["export", str(path), "-o", str(tmp_path / "o.json")],
    ):
        what, text = run_command(argv)
        assert (what, "calls" in text) == ("refused", True), text
    with pytest.raises(ModelFileError, match="is no function of TVM's own"):
        FileSource(str(path)).load()  # what `profile` asks its worker for


@pytest.mark.parametrize("name", ["ffi.ModuleLoadFromFile", "vm.builtin.call_py_func", "my.own"])
def test_foreign_packed_functions_are_refused(name: str, tmp_path: Path) -> None:
    from tvm_costmodel.frontends.model_files import load_model

    (tmp_path / "m.json").write_text(relax_calling("call_packed", name))
    with pytest.raises(ModelFileError, match=f"calls {name}"):
        load_model(tmp_path / "m.json")


def test_functions_of_tvm_are_not_foreign(tmp_path: Path) -> None:
    from tvm_costmodel.frontends.model_files import load_model

    (tmp_path / "m.json").write_text(relax_calling("call_packed", "relax.run.unique"))
    assert len(load_model(tmp_path / "m.json").graph) == 2


def test_functions_that_derive_types_are_checked(tmp_path: Path) -> None:
    from tvm_costmodel.frontends.model_files import load_model

    text = relax_calling("call_packed", "relax.run.unique")
    assert "tvm.relax.type.infer_by_ty_args" in text
    changed = text.replace("tvm.relax.type.infer_by_ty_args", "ffi.ModuleLoadFromFile")
    (tmp_path / "m.json").write_text(changed)
    with pytest.raises(ModelFileError, match=r"calls ffi.ModuleLoadFromFile"):
        load_model(tmp_path / "m.json")


def program() -> dict[str, Any]:
    """The JSON of a small exported program, as torch.export.save writes it."""
    node = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}],
        "outputs": [{"as_tensor": {"name": "relu"}}],
        "metadata": {"stack_trace": "here"},
        "name": "relu",
    }
    size = {"as_expr": {"expr_str": "s0", "hint": {"as_int": 4}}}
    graph = {
        "inputs": [{"as_tensor": {"name": "x"}}],
        "outputs": [{"as_tensor": {"name": "relu"}}],
        "nodes": [node],
        "tensor_values": {"x": {"sizes": [size]}},
    }
    return {
        "graph_module": {"graph": graph, "signature": {"input_specs": []}},
        "range_constraints": {"s0": {"min_val": 2, "max_val": 9}},
        "guards_code": ["__import__('os').system('touch marker')"],
    }


def archive(path: Path, change: Callable[[dict[str, Any]], None], **extra: bytes) -> Path:
    record = program()
    change(record)
    config = json.dumps({"config": {}})
    members = {
        "archive_format": b"pt2",
        "models/model.json": json.dumps(record).encode(),
        "data/weights/model_weights_config.json": config.encode(),
        "data/constants/model_constants_config.json": config.encode(),
        "data/sample_inputs/model.pt": b"",
    }
    members |= {name.replace("__", "/").replace("_DOT_", "."): c for name, c in extra.items()}
    with zipfile.ZipFile(path, "w") as writing:
        for name, content in members.items():
            writing.writestr(f"net/{name}", content)
    return path


def node_of(record: dict[str, Any]) -> dict[str, Any]:
    return record["graph_module"]["graph"]["nodes"][0]


def test_a_clean_archive_holds_no_code_and_no_pickle(tmp_path: Path) -> None:
    content = clean_archive(archive(tmp_path / "m.pt2", lambda record: None))
    with zipfile.ZipFile(io.BytesIO(content)) as reading:
        cleaned = json.loads(reading.read("model/models/model.json"))
        assert reading.read("model/data/sample_inputs/model.pt") == b""
    assert cleaned["guards_code"] == []
    assert node_of(cleaned)["metadata"] == {}
    assert node_of(cleaned)["target"] == "torch.ops.aten.relu.default"


def _expression(record: dict[str, Any]) -> None:
    sizes = record["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = "__import__('os').system('touch marker')"


@pytest.mark.parametrize(
    "change",
    [
        _expression,
        lambda r: node_of(r).update(target="torch.hub.load"),
        lambda r: node_of(r).update(target="torch.ops.aten.from_file.default"),
        lambda r: node_of(r).update(target="_operator.attrgetter"),
        lambda r: node_of(r).update(name="x): import os\n"),
        lambda r: node_of(r)["inputs"][0].update(name="self=open('marker', 'w')"),
        lambda r: node_of(r)["inputs"][0]["arg"].update(as_operator="torch.load"),
        lambda r: r["range_constraints"].update({"open('marker','w')": {}}),
        lambda r: r.update(in_spec='[1, {"type": "collections.defaultdict"}]'),
    ],
)
def test_programs_that_would_run_code_are_refused(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=r"torch\.export\.save"):
        clean_archive(archive(tmp_path / "m.pt2", change))


@pytest.mark.parametrize(
    "name",
    [
        "serialized_state_dict_DOT_json",
        "models__a__b_DOT_json",
        "data__aotinductor__model__net_DOT_so",
        "data__constants__custom_obj_0",
        "data__constants__opaque_obj_0",
        "data__weights__model_DOT_pt",
        "data__weights__lib_DOT_so",
        "models__second_DOT_json",
    ],
)
def test_members_that_no_network_needs_are_refused(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pt2", lambda record: None, **{name: b"x"})
    with pytest.raises(ModelFileError, match="and nothing else"):
        clean_archive(path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    entry = {"path_name": "weight_0", "use_pickle": True, "tensor_meta": {}}
    config = json.dumps({"config": {"w": entry}}).encode()
    extra = {"data__weights__model_weights_config_DOT_json": config, "data__weights__weight_0": b""}
    path = archive(tmp_path / "m.pt2", lambda record: None, **extra)
    with pytest.raises(ModelFileError, match="holds pickled Python objects"):
        clean_archive(path)


@pytest.mark.parametrize(
    "text",
    [
        "s0",
        "2*s0 + 1",
        "Mod(s77, 16)",
        "((s0 - 1)//2) + 1",
        "Max(1, u0)",
        "s0**2",
        "Eq(s0, 4)",
        "Symbol('s77', positive=True, integer=True)",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Mul(Rational(3, 2), Symbol('s77', positive=True))",
        "Float('1.5', precision=53)",
        "FloorDiv(Add(Symbol('s0', integer=True), Integer(-1)), Integer(2))",
        "(s0 - 1)//2 + 1",
    ],
)
def test_sizes_that_torch_writes_are_expressions(text: str) -> None:
    assert is_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "s0.__class__", "open(1)", "s0(1)", "eval", "lambda: 0", "[1]", "'a'",
        "9**9**9", "2**999", "(lambda)(1)", "s0; s1", "a" * 5000, "", None, 7, "print(s0)", "1(2)",
        "Symbol('s0').name", "Symbol('__import__(1)')", "Symbol('s0', positive=open(1))",
        "Pow(9, Pow(9, 9))", "Pow(Pow(9, 9), 9)", "Integer('9')", "Symbol(Symbol('s0'))",
    ],
)  # fmt: skip
def test_anything_else_is_no_expression(text: object) -> None:
    assert not is_size(text)
