from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest

from tvm_costmodel.datasets.nasbench101_tfrecord import read_nasbench101_tfrecord
from tvm_costmodel.datasets.tfrecord import masked_checksum, masked_checksums, read_tfrecords
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cells import nasbench101_cell

CHAIN = "0100001000010000"
NAMES = "input,conv3x3-bn-relu,maxpool3x3,output"


def framed(payloads: list[bytes]) -> bytes:
    """The bytes of a TFRecord file."""
    parts = []
    for payload in payloads:
        length = struct.pack("<Q", len(payload))
        parts += [length, struct.pack("<I", masked_checksum(length))]
        parts += [payload, struct.pack("<I", masked_checksum(payload))]
    return b"".join(parts)


def model_metrics(accuracies: list[float], parameters: int = 2_500_000) -> str:
    """A ModelMetrics on the wire: field 1 repeated (evaluations), field 2 a varint."""
    wire = b""
    for accuracy in accuracies:
        moment = b"\x11" + struct.pack("<d", 60.0) + b"\x21" + struct.pack("<d", accuracy)
        wire += b"\x0a" + bytes([len(moment)]) + moment
    wire += b"\x10"
    while parameters > 127:
        wire += bytes([parameters & 127 | 128])
        parameters >>= 7
    wire += bytes([parameters]) + b"\x19" + struct.pack("<d", 3600.0)  # total_time, not read
    return base64.b64encode(wire).decode()


def record(accuracy: float, key: str = "aa", epochs: int = 108, **changes: object) -> bytes:
    fields = {"key": key, "epochs": epochs, "adjacency": CHAIN, "operations": NAMES}
    fields["metrics"] = model_metrics([0.1, 0.5, accuracy])
    return json.dumps(list((fields | changes).values())).encode()


def written(folder: Path, payloads: list[bytes]) -> Path:
    path = folder / "nasbench.tfrecord"
    path.write_bytes(framed(payloads))
    return path


def test_checksums_are_those_of_the_standard() -> None:
    """CRC-32C of "123456789" is e3069283, of 32 zero bytes 8a9136aa (RFC 3720, B.4)."""
    for content, crc in ((b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)):
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert masked_checksum(content) == masked
    many = [b"", b"123456789", bytes(32), b"a" * 300, b"123456789"]
    assert masked_checksums(many).tolist() == [masked_checksum(content) for content in many]


def test_records_come_back_in_order(tmp_path: Path) -> None:
    payloads = [b"one", b"", b"three" * 99]
    assert list(read_tfrecords(written(tmp_path, payloads))) == payloads


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    content = framed([b"first", b"second"])
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content[:-3])
    with pytest.raises(ModelFileError, match="truncated within record 1"):
        list(read_tfrecords(path))
    path.write_bytes(content[:25])
    with pytest.raises(ModelFileError, match="truncated within record 1"):
        list(read_tfrecords(path))
    path.write_bytes(content.replace(b"second", b"sec0nd"))
    with pytest.raises(ModelFileError, match="record 1 does not fit its checksum"):
        list(read_tfrecords(path))
    path.write_bytes(b"PK\x03\x04" * 30)
    with pytest.raises(ModelFileError, match="no TFRecord file"):
        list(read_tfrecords(path))
    with pytest.raises(ModelFileError, match="cannot be read"):
        list(read_tfrecords(tmp_path / "nowhere"))


def test_nasbench101_averages_the_trainings_of_a_cell(tmp_path: Path) -> None:
    other = "0010000000010000"
    records = [record(0.9), record(0.7, "bb", adjacency=other), record(0.2, epochs=4), record(0.92)]
    cells = list(read_nasbench101_tfrecord(written(tmp_path, records)))
    assert [cell.accuracy for cell in cells] == [pytest.approx(91.0), pytest.approx(70.0)]
    assert cells[0].parameters == 2.5
    matrix = [[int(digit) for digit in CHAIN[i : i + 4]] for i in range(0, 16, 4)]
    assert cells[0].graph.hash == nasbench101_cell(matrix, NAMES.split(",")).hash
    assert [node.op for node in cells[1].graph.operators] == ["input", "maxpool3x3", "output"]
    (short,) = read_nasbench101_tfrecord(tmp_path / "nasbench.tfrecord", epochs=4)
    assert short.accuracy == pytest.approx(20.0)
    with pytest.raises(ModelFileError, match="no trainings of 36 epochs, but of 4, 108"):
        list(read_nasbench101_tfrecord(tmp_path / "nasbench.tfrecord", epochs=36))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (record(0.0), "record 0: validation_accuracy is 0.0: labels are positive"),
        (record(-0.5), "is -0.5"),
        (record(float("nan")), "is nan"),
        (record(91.0), "91.0, which is no share"),
        (record(0.9, metrics=model_metrics([0.9])), "1 evaluations, not 3"),
        (record(0.9, metrics="AAAA"), "no ModelMetrics"),
        (record(0.9, metrics="%%"), "no ModelMetrics"),
        (record(0.9, adjacency="012"), "adjacency '012'"),
        (record(0.9, epochs="108"), "fields of other kinds"),
        (record(0.9, adjacency="0" * 16), "cell aa: no path"),
        (b"[1, 2]", "no JSON list of five"),
        (b"\x0a\x03abc", "no JSON list of five"),
    ],
)
def test_bad_records_of_nasbench101_are_refused(tmp_path: Path, payload, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        list(read_nasbench101_tfrecord(written(tmp_path, [payload])))
    assert "\n" not in str(caught.value)
