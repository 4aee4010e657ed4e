"""Mutated files of every kind that commands read.

A case is a file, changed at random, and the command line that reads it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import lzma
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import GraphBuilder
from tests.profiling.labels import DEVICE, PIPELINE, measurement
from tests.security import onnx_mutations, pt2_mutations
from tests.security.running import Case
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models import ZOO

ROOT = Path(__file__).resolve().parents[2]
BOARD = "cpu-amd-zen5"
ODD: Sequence[Any] = (
    None, True, False, -1, 0, 1, 7, 2**31, 2**63 - 1, 10**30, 10**400, 1e308, -0.5, float("nan"),
    float("inf"), "", "x", "a" * 3000, "../../x", "\u0000", [], {}, [[1]], {"a": 1}, ["x"] * 50,
)  # fmt: skip
DEEP = "[" * 3000 + "]" * 3000

Arguments = list[str]


def shared_faults() -> Path:
    """Folder of damaged files that were found in the past, beside the data sets; may be absent."""
    data = os.environ.get("TVM_COSTMODEL_DATA", ROOT.parent / "shared" / "data")
    return Path(data).parent / "faults"


def network() -> OpGraph:
    builder = GraphBuilder(1, 3, 16, 16)
    x = builder.relu(builder.norm(builder.conv(0, 8)))
    x = builder.relu(builder.conv(x, 8, stride=2))
    return OpGraph(tuple(builder.operators), ((x, 0),), "net")


def onnx_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([1, 256], dtype=np.int64), "shape"),
        numpy_helper.from_array(rng.standard_normal((256, 5)).astype(np.float32), "m"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Corpus:
    """Whole files of every kind, made once."""

    def __init__(self, folder: Path) -> None:
        import tvm

        from tvm_costmodel.frontends.onnx.reader import onnx_to_relax
        from tvm_costmodel.profiling.label_files.networks import export_dataset
        from tvm_costmodel.profiling.store.store import Store

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.graph = network().to_json()
        (folder / "g.json").write_text(self.graph)
        self.onnx = onnx_model().SerializeToString()
        self.relax = str(tvm.ir.save_json(onnx_to_relax(onnx_model())))
        rows = [measurement(size) for size in range(4, 12)]
        with Store(folder / "s.db") as store:
            store.put_environment("env", {"processor": "test"})
            for row in rows:
                store.put_measurement(row)
            export_dataset(store, folder / "l.jsonl.xz", DEVICE, PIPELINE)
        self.store = folder / "s.db"
        self.labels = lzma.decompress((folder / "l.jsonl.xz").read_bytes()).decode()
        self.device = '[target]\nkind = "llvm"\nmcpu = "host"\n[match]\nfeatures = ["avx2"]\n'
        top = f'name = "{BOARD}"\ndescription = "d"\nthreads = 2\nrunner = "local"\n'
        self.device = top + self.device

    def write(self, kind: str, seed: int, folder: Path) -> Case:
        """Writes the mutated file of a case into an empty folder."""
        rng = random.Random(f"{kind} {seed}")
        argv = MUTATORS[kind](self, rng, folder)
        return Case(kind, seed, tuple(argument.replace("{W}", str(folder)) for argument in argv))


def _bytes(content: bytes, rng: random.Random) -> bytes:
    """Content with a few bytes changed, dropped, doubled or cut off."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(changed)))
        action = rng.randrange(5)
        if action == 0:
            del changed[at:]
        elif action == 1 and changed:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif action == 2:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        elif action == 3:
            del changed[at : at + rng.randint(1, 20)]
        else:
            changed[at:at] = changed[at : at + 30]
    return bytes(changed)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of JSON values."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _values(value: Any, rng: random.Random, odd: Sequence[Any] = ODD) -> str:
    """JSON with a few values replaced by odd ones, dropped or exchanged."""
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            break
        container, key = rng.choice(places)
        action = rng.randrange(5)
        if action == 0 and isinstance(container, dict):
            del container[key]
        elif action == 1 and isinstance(container, list):
            container.insert(key, container[key])
        elif action == 2:
            other, place = rng.choice(places)
            with contextlib.suppress(LookupError):
                container[key] = json.loads(json.dumps(other[place]))
        else:
            container[key] = copy.deepcopy(rng.choice(odd))
    text = json.dumps(value)
    if rng.random() < 0.05:
        container_text = json.dumps(rng.choice(list(_places(value)) or [(value, 0)])[1])
        text = text.replace(container_text, DEEP, 1)
    return text


def _json(text: str, rng: random.Random) -> bytes:
    if rng.random() < 0.25:
        return _bytes(text.encode(), rng)
    return _values(json.loads(text), rng).encode("utf-8", "surrogatepass")


def _opgraph(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    (folder / "g.json").write_bytes(_json(corpus.graph, rng))
    name = "xgboost" if rng.random() < 0.1 else "flops"
    return ["predict", "{W}/g.json", "--checkpoint", f"{BOARD}/{name}", "--device", BOARD]


def _relax(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    (folder / "g.json").write_bytes(_json(corpus.relax, rng))
    return ["export", "{W}/g.json", "-o", "{W}/o.json"]


def _onnx(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    change = onnx_mutations.mutated if rng.random() < 0.8 else _bytes
    (folder / "m.onnx").write_bytes(change(corpus.onnx, rng))
    return ["export", "{W}/m.onnx", "-o", "{W}/o.json"]


def _pt2(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    (folder / "m.pt2").write_bytes(pt2_mutations.mutated(rng, _values, _bytes))
    return ["export", "{W}/m.pt2", "--shape", "x=2,3,8,8", "-o", "{W}/o.json"]


def _checkpoint(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    name = rng.choice(("flops", "flops", "xgboost"))
    checkpoint = folder / "ck"
    shutil.copytree(ZOO / BOARD / name, checkpoint)
    weights, card = checkpoint / "model.json", checkpoint / "checkpoint.json"
    if name == "flops" and rng.random() < 0.5:
        weights.write_bytes(_json(weights.read_text(), rng))
    elif rng.random() < 0.6 and name == "xgboost":
        trees = json.loads(weights.read_text())
        kept = trees["learner"]["gradient_booster"]["model"]
        kept["trees"] = kept["trees"][:3]
        kept["tree_info"] = kept["tree_info"][:3]
        kept["iteration_indptr"] = kept["iteration_indptr"][:4]
        kept["gbtree_model_param"]["num_trees"] = "3"
        weights.write_bytes(_json(json.dumps(trees), rng))
    else:
        card.write_bytes(_json(card.read_text(), rng))
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        record = json.loads(card.read_text())
        record["weights"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        card.write_text(json.dumps(record))
    return ["predict", str(corpus.folder / "g.json"), "--checkpoint", "{W}/ck", "--device", BOARD]


def _labels(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    lines = corpus.labels.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng).decode("utf-8", "replace")
    packed = lzma.compress("\n".join(lines).encode("utf-8", "surrogatepass"), preset=0)
    (folder / "l.jsonl.xz").write_bytes(_bytes(packed, rng) if rng.random() < 0.2 else packed)
    return ["train", "--store", "{W}/l.jsonl.xz", "--predictor", "flops", "-o", "{W}/out"]


def _store(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    path = folder / "s.db"
    shutil.copyfile(corpus.store, path)
    if rng.random() < 0.2:
        path.write_bytes(_bytes(path.read_bytes(), rng))
    else:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            tables = ("graphs", "pipelines", "environments", "sources", "kernels", "measurements")
            table = rng.choice(tables)
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            column = rng.choice(columns)
            old = database.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()
            value = _cell(old[0] if old else None, rng)
            with contextlib.suppress(sqlite3.Error):
                database.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid IN "
                    f"(SELECT rowid FROM {table} LIMIT 1)"
                    if table == "measurements"
                    else f"UPDATE {table} SET {column} = ?",
                    (value,),
                )
    return ["train", "--store", "{W}/s.db", "--predictor", "flops", "-o", "{W}/out"]


def _cell(old: Any, rng: random.Random) -> Any:
    """A value of another kind for a cell of a database, or its JSON changed."""
    if isinstance(old, str) and old[:1] in ("{", "[") and rng.random() < 0.7:
        return _json(old, rng).decode("utf-8", "replace")
    odd = [value for value in ODD if isinstance(value, int | float | str | None)]
    odd = [value for value in odd if not (isinstance(value, int) and abs(value) >= 2**63)]
    return rng.choice([*odd, b"\x00\x01", b"", DEEP])


def _device(corpus: Corpus, rng: random.Random, folder: Path) -> Arguments:
    if rng.random() < 0.5:
        (folder / "d.toml").write_bytes(_bytes(corpus.device.encode(), rng))
    else:
        lines = corpus.device.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if "=" in line])
        name = lines[at].partition("=")[0]
        odd = ('""', "-1", "0", "true", "[]", "{a = 1}", "1.5", "nan", "[1, 'x']", "1979-05-27")
        lines[at] = f"{name} = {rng.choice(odd)}"
        (folder / "d.toml").write_text("\n".join(lines))
    graph = str(corpus.folder / "g.json")
    return ["predict", graph, "--checkpoint", f"{BOARD}/flops", "--device", "{W}/d.toml"]


MUTATORS: dict[str, Callable[[Corpus, random.Random, Path], Arguments]] = {
    "opgraph": _opgraph,
    "relax": _relax,
    "onnx": _onnx,
    "pt2": _pt2,
    "checkpoint": _checkpoint,
    "labels": _labels,
    "store": _store,
    "device": _device,
}
SHARES = {"opgraph": 130, "relax": 70, "onnx": 60, "pt2": 20, "checkpoint": 60, "labels": 75}
SHARES |= {"store": 55, "device": 30}
"""Cases of each kind in 500."""
