"""OpGraph: what it refuses, canonical JSON, and what its content hash sees."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType

T = TensorType((1, 8), "float32")


def op(name, *inputs, weights=(), outputs=(T,), label="", **attrs):
    edges = tuple(i if isinstance(i, tuple) else (i, 0) for i in inputs)
    return Operator(name, edges, outputs, weights, attrs, label)


def graph(*operators, outputs=None):
    last = len(operators) - 1
    return OpGraph(tuple(operators), outputs or ((last, 0),))


def diamond() -> OpGraph:
    return graph(
        op("input"),
        op("relu", 0),
        op("tanh", 1),
        op("sigmoid", 1),
        op("subtract", 2, 3),
    )


def reordered(original: OpGraph, seed: int) -> OpGraph:
    """The same graph with its operators in another topological order and other names."""
    rng = random.Random(seed)
    waiting = {i: {src for src, _ in o.inputs} for i, o in enumerate(original.operators)}
    inputs = list(original.inputs)
    new_id: dict[int, int] = {}
    operators = []
    while waiting:
        ready = [i for i, sources in waiting.items() if sources <= set(new_id)]
        first_input = next((i for i in inputs if i in waiting), None)
        ready = [i for i in ready if i not in inputs or i == first_input]
        chosen = rng.choice(ready)
        del waiting[chosen]
        o = original.operators[chosen]
        edges = tuple((new_id[src], index) for src, index in o.inputs)
        operators.append(
            Operator(o.op, edges, o.outputs, o.weights, dict(o.attrs), f"n{rng.random()}")
        )
        new_id[chosen] = len(operators) - 1
    outputs = tuple((new_id[src], index) for src, index in original.outputs)
    return OpGraph(tuple(operators), outputs, f"g{seed}")


def random_graph(seed: int, size: int = 40) -> OpGraph:
    rng = random.Random(seed)
    operators = [op("input"), op("input")]
    for i in range(2, size):
        reads = [rng.randrange(i) for _ in range(rng.choice((1, 2, 2)))]
        operators.append(op(rng.choice(("relu", "add", "subtract")), *reads))
    return graph(*operators, outputs=((size - 1, 0), (size - 2, 0)))


def test_views_of_a_graph() -> None:
    g = diamond()
    assert g.edges.dtype == np.int32
    assert g.edges.tolist() == [[0, 1], [1, 2], [1, 3], [2, 4], [3, 4]]
    assert g.consumers == (((1, 0),), ((2, 0), (3, 0)), ((4, 0),), ((4, 1),), ())
    assert g.inputs == (0,)
    assert g.input_types(4) == (T, T)
    assert graph(op("input")).edges.shape == (0, 2)
    assert graph(op("input"), op("my.op", 0), op("call_tir", 1)).unknown_ops == (
        "call_tir",
        "my.op",
    )
    assert not g.is_dynamic
    assert graph(op("input", outputs=(TensorType((-1, 8), "float32"),))).is_dynamic


@pytest.mark.parametrize(
    ("dtype", "shape", "elements", "bytes_"),
    [
        ("float32", (2, 3), 6, 24),
        ("float16", (5,), 5, 10),
        ("bfloat16", (5,), 5, 10),
        ("float8_e4m3fn", (5,), 5, 5),
        ("int4", (5,), 5, 3),
        ("int64", (), 1, 8),
        ("bool", (7,), 7, 7),
        ("float32", (-1, 4), 4, 16),
        ("float32", (0, 4), 0, 0),
        ("object", (), 1, 0),
    ],
)
def test_tensor_sizes(dtype, shape, elements, bytes_) -> None:
    t = TensorType(shape, dtype)
    assert (t.elements, t.bytes) == (elements, bytes_)


@pytest.mark.parametrize(
    ("operators", "outputs", "words"),
    [
        ((op("input"), op("relu", 7)), ((1, 0),), "reads operator 7, but there are 2"),
        ((op("input"), op("relu", -1)), ((1, 0),), "reads operator -1"),
        ((op("input"), op("relu", 1)), ((1, 0),), "cycle"),
        ((op("input"), op("relu", 2), op("relu", 1)), ((2, 0),), "cycle"),
        ((op("input"), op("relu", (0, 1))), ((1, 0),), "output 1 of operator 0, which has 1"),
        ((op("input"),), ((1, 0),), "outputs reads operator 1"),
        ((op("input"), op("input", 0)), ((1, 0),), "operator 1 is an input, but reads"),
    ],
)
def test_wiring_is_checked(operators, outputs, words) -> None:
    with pytest.raises(GraphError, match=words):
        OpGraph(operators, outputs)


def test_json_is_canonical_and_comes_back_equal() -> None:
    w = TensorType((8, 8), "float32")
    attrs = {"b": (1, (2, 3)), "a": -1, "f": 0.1, "s": "ü", "t": True, "lo": float("-inf")}
    g = OpGraph(
        (op("input"), op("dense", 0, weights=(w,), label="fc", **attrs)), ((1, 0),), name="net"
    )
    text = g.to_json()
    assert OpGraph.from_json(text) == g
    assert OpGraph.from_json(text).to_json() == text
    assert OpGraph.from_json(text).hash == g.hash
    assert " " not in text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    backwards = op("dense", 0, weights=(w,), label="fc", **dict(reversed(attrs.items())))
    assert OpGraph((op("input"), backwards), ((1, 0),), name="net").to_json() == text


def test_json_golden() -> None:
    assert graph(op("input"), op("relu", 0, label="r")).to_json() == (
        '{"format":"tvm-costmodel.opgraph","operators":[{"op":"input","outputs":[["float32",[1,8]]'
        ']},{"inputs":[[0,0]],"name":"r","op":"relu","outputs":[["float32",[1,8]]]}],'
        '"outputs":[[1,0]],"version":1}'
    )


def broken(**changes) -> str:
    payload = json.loads(diamond().to_json())
    payload.update(changes)
    return json.dumps(payload)


def broken_operator(**changes) -> str:
    payload = json.loads(diamond().to_json())
    payload["operators"][1].update(changes)
    return json.dumps(payload)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON graph"),
        (diamond().to_json()[:-20], "no JSON graph"),
        ("[" * 100_000, "no JSON graph"),
        (broken_operator(attrs={"a": "@"}).replace('"@"', "[" * 900 + "]" * 900), "no JSON graph"),
        ("[]", "not a graph"),
        ("3", "not a graph"),
        ("{}", '"format" is None'),
        (broken(format="onnx"), "not a graph"),
        (broken(version=99), "schema version 99, this package reads 1"),
        (broken(version="1"), "schema version '1'"),
        (broken(operators=None), "operators: expected a list"),
        (broken(outputs=[[9, 0]]), "reads operator 9"),
        (broken(outputs=[[0]]), "pairs"),
        (broken(name=3), "name: expected a string"),
        (broken(extra=1), "only the fields"),
        (broken(operators=[3]), "operator 0: expected an object"),
        (broken_operator(op=3), "op of operator 1"),
        (broken_operator(op=""), "op of operator 1"),
        (broken_operator(inputs=[[0, True]]), "inputs of operator 1"),
        (broken_operator(inputs=[["0", 0]]), "inputs of operator 1"),
        (broken_operator(inputs=[[4, 0]]), "cycle"),
        (broken_operator(outputs=[["float32", [1.5]]]), "outputs of operator 1"),
        (broken_operator(outputs=[["float32", [-2]]]), "outputs of operator 1"),
        (broken_operator(outputs=[[[1], "float32"]]), "outputs of operator 1"),
        (broken_operator(weights={}), "weights of operator 1"),
        (broken_operator(attrs=[]), "attrs of operator 1"),
        (broken_operator(attrs={"a": None}), "a of operator 1"),
        (broken_operator(attrs={"a": {"b": 1}}), "a of operator 1"),
        (broken_operator(shape=[1]), "only the fields"),
    ],
)
def test_malformed_json_is_a_graph_error(text, words) -> None:
    with pytest.raises(GraphError, match=words) as caught:
        OpGraph.from_json(text)
    assert "\n" not in str(caught.value)


def test_attribute_without_canonical_form() -> None:
    with pytest.raises(GraphError, match="attributes must be int"):
        _ = graph(op("input"), op("clip", 0, min=np.float32(1))).hash


@pytest.mark.parametrize("seed", range(20))
def test_hash_ignores_names_and_tie_order(seed) -> None:
    for original in (diamond(), random_graph(seed)):
        again = reordered(original, seed)
        assert again.hash == original.hash
        assert len(again.hash) == 32


def test_hash_does_not_depend_on_the_process() -> None:
    code = (
        "import sys; from tvm_costmodel.graph.op_graph import OpGraph;"
        "print(OpGraph.from_json(sys.stdin.read()).hash)"
    )
    g = random_graph(3)
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=g.to_json(),
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        )
        assert done.stdout.strip() == g.hash


def test_hash_golden() -> None:
    assert diamond().hash == "5bcdaa9c8be7bb7be04397d6b34eb659"


def test_hash_sees_every_part_of_an_operator() -> None:
    w = TensorType((8, 8), "float32")
    variants = [
        graph(op("input"), op("relu", 0)),
        graph(op("input"), op("tanh", 0)),
        graph(op("input"), op("relu", 0, alpha=1)),
        graph(op("input"), op("relu", 0, alpha=2)),
        graph(op("input"), op("relu", 0, alpha=1.5)),
        graph(op("input"), op("relu", 0, alpha="1")),
        graph(op("input"), op("relu", 0, alpha=(1,))),
        graph(op("input"), op("relu", 0, weights=(w,))),
        graph(op("input"), op("relu", 0, weights=(w, w))),
        graph(op("input"), op("relu", 0, outputs=(TensorType((1, 8), "float16"),))),
        graph(op("input"), op("relu", 0, outputs=(TensorType((8, 1), "float32"),))),
        graph(op("input"), op("relu", 0, outputs=(T, T))),
        graph(op("input", outputs=(T, T)), op("relu", (0, 1))),
        graph(op("input", outputs=(T, T)), op("relu", (0, 0))),
        graph(op("input"), op("relu", 0), outputs=((0, 0),)),
        graph(op("input"), op("relu", 0), outputs=((1, 0), (0, 0))),
        graph(op("input"), op("relu", 0), outputs=((0, 0), (1, 0))),
        graph(op("input"), op("relu", 0), outputs=((1, 0), (1, 0))),
    ]
    assert len({g.hash for g in variants}) == len(variants)


def test_hash_sees_operand_order_and_direction() -> None:
    straight = graph(
        op("input"), op("conv2d", 0, groups=1), op("conv2d", 0, groups=2), op("subtract", 1, 2)
    )
    swapped = graph(
        op("input"), op("conv2d", 0, groups=1), op("conv2d", 0, groups=2), op("subtract", 2, 1)
    )
    assert straight.hash != swapped.hash
    inputs = graph(op("input"), op("input"), op("subtract", 0, 1))
    assert inputs.hash != graph(op("input"), op("input"), op("subtract", 1, 0)).hash
    chain = graph(op("input"), op("relu", 0), op("tanh", 1))
    assert chain.hash != graph(op("input"), op("tanh", 0), op("relu", 1)).hash


def test_hash_tells_sharing_from_duplication() -> None:
    shared = graph(op("input"), op("relu", 0), op("add", 1, 1))
    doubled = graph(op("input"), op("relu", 0), op("relu", 0), op("add", 1, 2))
    assert shared.hash != doubled.hash
    # Every operator here has the same ancestors and descendants as its counterpart there:
    # only who shares with whom differs.
    crossed = graph(
        op("input"),
        op("relu", 0),
        op("relu", 0),
        op("add", 1, 2),
        op("add", 2, 1),
        op("add", 3, 4),
    )
    parallel = graph(
        op("input"),
        op("relu", 0),
        op("relu", 0),
        op("add", 1, 1),
        op("add", 2, 2),
        op("add", 3, 4),
    )
    assert crossed.hash != parallel.hash


def test_hash_counts_operators_that_no_output_needs() -> None:
    live = graph(op("input"), op("relu", 0))
    dead = OpGraph((op("input"), op("relu", 0), op("tanh", 0), op("erf", 1)), ((1, 0),))
    assert dead.hash != live.hash
    for seed in range(5):
        assert reordered(dead, seed).hash == dead.hash
    other = OpGraph((op("input"), op("relu", 0), op("tanh", 1), op("erf", 0)), ((1, 0),))
    assert other.hash != dead.hash


def test_hash_of_random_graphs_never_collides_and_deep_graphs_work() -> None:
    assert len({random_graph(seed).hash for seed in range(200)}) == 200
    chain = [op("input")] + [op("relu", i) for i in range(5000)]
    assert len(graph(*chain).hash) == 32


def test_hash_is_quick() -> None:
    chain = [op("input")] + [op("conv2d", i, strides=(1, 1), groups=1) for i in range(230)]
    seconds = []
    for _ in range(5):
        g = graph(*chain)
        start = time.perf_counter()
        assert g.hash
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.010


def test_graphs_are_values() -> None:
    assert diamond() == diamond()
    assert len({diamond(), diamond(), random_graph(1)}) == 2
