from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.published import published
from tvm_costmodel.datasets.nn_meter import NnMeterBench, pack_nnmeter, read_nnmeter_jsonl
from tvm_costmodel.datasets.tf_graph import TensorflowNode, to_graph
from tvm_costmodel.errors import GraphError, ModelFileError, UnsupportedOperatorError

COLUMNS = "in_n in_h in_w in_c in_x k_h k_w k_in k_out s_h s_w out_n out_h out_w out_c out_x"


def small_arrays() -> dict[str, np.ndarray]:
    """Two networks: input, 3x3 convolution of stride 2, ReLU; and input, ReLU."""
    zero = [0] * 11
    rows = [
        [*zero, -1, 8, 8, 3, 0],
        [-1, 8, 8, 3, 0, 3, 3, 3, 6, 2, 2, -1, 4, 4, 6, 0],
        [*zero, -1, 4, 4, 6, 0],
        [*zero, 1, 8, 8, 3, 0],
        [*zero, 1, 8, 8, 3, 0],
    ]
    return {
        "families": np.array(["plain", "tiny"]),
        "op_vocab": np.array(["Placeholder", "Conv2D", "Relu"]),
        "feat_cols": np.array(COLUMNS.split()),
        "label_cols": np.array(["cpu", "gpu"]),
        "family": np.array([0, 1], np.int8),
        "label_ms": np.array([[2.0, np.nan], [0.5, 1.0]], np.float32),
        "node_ptr": np.array([0, 3, 5]),
        "edge_ptr": np.array([0, 2, 3]),
        "op": np.array([0, 1, 2, 0, 2], np.int16),
        "feat": np.array(rows, np.int32),
        "edge": np.array([[0, 1], [1, 2], [0, 1]], np.int32),
    }


def archive(folder: Path, **changes: np.ndarray | None) -> Path:
    arrays = {**small_arrays(), **changes}
    path = folder / "bench.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_networks_of_the_archive(tmp_path: Path) -> None:
    bench = NnMeterBench(archive(tmp_path))
    assert len(bench) == 2 and bench.devices == ("cpu", "gpu")
    assert bench.families == ("plain", "tiny")
    np.testing.assert_allclose(bench.latency_s, [[2e-3, np.nan], [5e-4, 1e-3]])
    graph = bench.graph(0)
    assert [operator.op for operator in graph.operators] == ["input", "conv2d", "relu"]
    conv = graph.operators[1]
    assert conv.outputs[0].shape == (1, 4, 4, 6) and conv.weights[0].shape == (3, 3, 3, 6)
    assert conv.attrs["padding"] == (0, 0, 1, 1) and conv.attrs["strides"] == (2, 2)
    assert graph.macs == 4 * 4 * 6 * 27
    assert [operator.op for operator in bench.graph(1).operators] == ["input", "relu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge": None}, "an archive of something else"),
        ({"label_ms": np.array([[2.0, 0.0], [1.0, 1.0]])}, "network 0 on gpu is 0.0 ms"),
        ({"label_ms": np.array([[2.0, 1.0], [-1.0, 1.0]])}, "network 1 on cpu is -1.0 ms"),
        ({"label_ms": np.array([[2.0, 1.0], [1.0, np.inf]])}, "network 1 on gpu is inf ms"),
        ({"label_ms": np.ones((2, 3))}, "do not fit together"),
        ({"node_ptr": np.array([0, 3, 9])}, "do not fit together"),
        ({"op": np.array([0, 1, 2, 0, 7], np.int16)}, "do not fit together"),
        ({"feat_cols": np.array(COLUMNS.split()[::-1])}, "another version"),
    ],
)
def test_bad_archives_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        NnMeterBench(archive(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_archives_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        NnMeterBench(path)
    path.write_text("hello")
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        NnMeterBench(path)
    with pytest.raises(ModelFileError, match="no such file"):
        NnMeterBench(tmp_path / "nowhere.npz")


def node(kind: str, inbounds: list[str], shape: list[int], **own: object) -> dict:
    attr = {"type": kind, "output_shape": [shape], "attr": own}
    return {"attr": attr, "inbounds": inbounds, "outbounds": []}


def record(**changes: object) -> str:
    """A published line: the nodes in no order, weights named but not there."""
    graph = {
        "pool": node("MaxPool", ["conv"], [-1, 4, 4, 6], ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1]),
        "conv": node(
            "Conv2D",
            ["input", "conv/weight"],
            [-1, 8, 8, 6],
            weight_shape=[5, 5, 3, 6],
            strides=[1, 1],
            dilations=[2, 2],
        ),
        "input": node("Placeholder", [], [-1, 8, 8, 3]),
    }
    line = {"id": "net_1", "cortexA76cpu_tflite21": 3.5, "adreno640gpu_tflite21": None}
    return json.dumps({**line, "graph": graph, **changes})


def test_published_lines(tmp_path: Path) -> None:
    path = tmp_path / "nets.jsonl"
    path.write_text(record() + "\n\n")
    (network,) = read_nnmeter_jsonl(path)
    assert network.name == network.graph.name == "net_1"
    assert dict(network.latency_s) == {"cortexA76cpu_tflite21": pytest.approx(3.5e-3)}
    assert [operator.op for operator in network.graph.operators] == [
        "input",
        "conv2d",
        "max_pool2d",
    ]
    conv, pool = network.graph.operators[1:]
    assert conv.attrs["dilation"] == (2, 2) and conv.attrs["padding"] == (4, 4, 4, 4)
    assert pool.attrs["kernel"] == (2, 2) and pool.attrs["strides"] == (2, 2)
    assert pool.attrs["padding"] == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no networks"),
        (record()[:-9], "line 1: damaged or truncated JSON"),
        ("[]", "no network of nn-Meter's bench"),
        (record(graph=None), "no network of nn-Meter's bench"),
        (record(adreno640gpu_tflite21=-1), "adreno640gpu_tflite21 is -1"),
        (record(adreno640gpu_tflite21=float("nan")), "is nan"),
        (record(adreno640gpu_tflite21=0), "is 0"),
        (record(adreno640gpu_tflite21="fast"), "is 'fast'"),
        (record(graph={"a": {}}), "node is incomplete"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "nets.jsonl"
    path.write_text(line)
    with pytest.raises(ModelFileError, match=message) as caught:
        list(read_nnmeter_jsonl(path))
    assert "\n" not in str(caught.value)


def test_published_lines_and_their_archive_hold_the_same(tmp_path: Path) -> None:
    dilated = record()
    plain = record().replace('"dilations": [2, 2]', '"dilations": [1, 1]')
    paths = [tmp_path / "ones.jsonl", tmp_path / "twos.jsonl"]
    paths[0].write_text(plain)
    paths[1].write_text(record(graph={"a": node("Placeholder", [], [1, 9])}) + "\n" + plain)
    assert pack_nnmeter(paths, tmp_path / "bench.npz") == 3
    bench = NnMeterBench(tmp_path / "bench.npz")
    published = [network for path in paths for network in read_nnmeter_jsonl(path)]
    assert bench.families == ("ones", "twos", "twos")
    assert [bench.graph(i).hash for i in range(3)] == [n.graph.hash for n in published]
    np.testing.assert_allclose(bench.latency_s[:, 0], 3.5e-3, rtol=1e-6)
    assert np.isnan(bench.latency_s[:, 1:]).all()
    paths[1].write_text(dilated)
    with pytest.raises(ModelFileError, match=r"twos.jsonl, line 1: a dilated convolution"):
        pack_nnmeter(paths, tmp_path / "bench.npz")


INPUT = TensorflowNode("Placeholder", (), (1, 8, 8, 4))


def test_shape_arithmetic_is_dropped_and_transposes_follow_the_extents() -> None:
    nodes = [
        INPUT,
        TensorflowNode("Const", (), (4,)),
        TensorflowNode("StridedSlice", (1, 1), ()),
        TensorflowNode("Pack", (2, 1), ()),
        TensorflowNode("Reshape", (0, 3), (1, 8, 8, 2, 3)),
        TensorflowNode("Transpose", (4, 1), (1, 8, 8, 3, 2)),
    ]
    graph = to_graph(nodes)
    assert [operator.op for operator in graph.operators] == ["input", "reshape", "transpose"]
    assert graph.operators[2].attrs["axes"] == (0, 1, 2, 4, 3)


def test_readers_of_a_split_get_a_part_each() -> None:
    half = (1, 8, 8, 2)
    nodes = [
        INPUT,
        TensorflowNode("Split", (0,), half),
        TensorflowNode("Relu", (1,), half),
        TensorflowNode("ConcatV2", (2, 1), (1, 8, 8, 4)),
    ]
    graph = to_graph(nodes)
    assert graph.operators[1].attrs == {"axis": 3, "sections": 2}
    assert len(graph.operators[1].outputs) == 2
    assert graph.operators[2].inputs == ((1, 0),) and graph.operators[3].inputs == ((2, 0), (1, 1))


def test_constants_become_weights_and_groups_follow_the_kernel() -> None:
    nodes = [
        INPUT,
        TensorflowNode("Const", (), ()),
        TensorflowNode("Mul", (0, 1), (1, 8, 8, 4)),
        TensorflowNode("Conv2D", (2,), (1, 8, 8, 6), (1, 1, 2, 6)),
        TensorflowNode("DepthwiseConv2dNative", (3,), (1, 8, 8, 6), (3, 3, 6, 1)),
    ]
    operators = to_graph(nodes).operators
    assert operators[1].weights[0].shape == ()
    assert operators[2].attrs["groups"] == 2 and operators[2].weights[0].shape == (1, 1, 2, 6)
    assert operators[3].attrs["groups"] == 6 and operators[3].weights[0].shape == (3, 3, 1, 6)


def test_what_a_global_mean_reads_gets_its_four_dimensions_back() -> None:
    nodes = [
        INPUT,
        TensorflowNode("MaxPool", (0,), (1, 4), (3, 3, 0, 0), (2, 2)),
        TensorflowNode("Mean", (1,), (1, 4)),
    ]
    pool, mean = to_graph(nodes).operators[1:]
    assert pool.outputs[0].shape == (1, 3, 3, 4) and mean.outputs[0].shape == (1, 4)
    concatenated = [INPUT, TensorflowNode("ConcatV2", (0, 0), (1, 8))]
    assert to_graph(concatenated).operators[1].outputs[0].shape == (1, 8, 8, 8)


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        ([TensorflowNode("Fft", (0,), (1,))], GraphError, "circle"),
        ([INPUT, TensorflowNode("Fft", (0,), (1,))], UnsupportedOperatorError, "Fft.*known: Add"),
        ([INPUT, TensorflowNode("Relu", (7,), (1,))], GraphError, "reads node 7"),
        ([TensorflowNode("Relu", (), (1,))], GraphError, "reads no activation"),
        (
            [TensorflowNode("Placeholder", (), (1, 4)), TensorflowNode("Conv2D", (0,), (1, 4))],
            GraphError,
            "does not fit its inputs",
        ),
    ],
)
def test_inconsistent_nodes_are_refused(nodes, error, message: str) -> None:
    with pytest.raises(error, match=message):
        to_graph(nodes)


def test_published_archive() -> None:
    bench = NnMeterBench(published("nnmeter_bench/nnmeter_bench.npz"))
    assert len(bench) == 20698 and len(set(bench.families)) == 11
    assert bench.devices[0] == "cortexA76cpu_tflite21"
    assert bench.latency_s[0, 0] == pytest.approx(0.148164)
    first = bench.graph(0)  # an AlexNet: the sum over its five convolutions and three matmuls
    convolutions = [
        (56, 3, 63, 7), (28, 63, 38, 1), (13, 38, 652, 3), (13, 652, 204, 7), (13, 204, 179, 3),
    ]  # fmt: skip
    macs = sum(size**2 * k**2 * a * b for size, a, b, k in convolutions)
    assert first.macs == macs + 179 * 2867 + 2867 * 4505 + 4505 * 1000
    logs = []
    for i in range(7, len(bench), 400):
        graph = bench.graph(i)
        assert not graph.is_dynamic and graph.unknown_ops == ()
        assert len(graph.inputs) == len(graph.outputs) == 1
        if np.isfinite(bench.latency_s[i, 0]):
            logs.append((np.log(graph.macs), np.log(bench.latency_s[i, 0])))
    assert np.corrcoef(np.array(logs).T)[0, 1] > 0.98
