"""Messages between profiler and worker."""

from __future__ import annotations

import os
import threading

import pytest

from tvm_costmodel.profiling.runners.arguments import ArgumentPool, random_array
from tvm_costmodel.profiling.worker.pipe import Receiver, send


def test_messages_of_any_size_arrive_whole_and_in_order() -> None:
    source, sink = os.pipe()
    messages = [{"n": 0}, {"text": "x" * 300_000}, {"n": 1, "umlaut": "ü"}]
    writer = threading.Thread(target=lambda: [send(sink, m) for m in messages])
    writer.start()
    receiver = Receiver(source)
    assert [receiver.receive(10) for _ in messages] == messages
    writer.join()
    assert receiver.receive(0.01) is None
    os.close(sink)
    with pytest.raises(EOFError):
        receiver.receive(1)


def test_arguments_are_plain_numbers_and_do_not_overlap() -> None:
    floats = random_array(((3, 50_000), "float32"))
    assert floats.shape == (3, 50_000) and floats.min() >= 0.1 and floats.max() < 1.0
    assert not random_array(((4,), "int64")).any()
    parameters = (((5, 7), "float32"), ((3,), "int64"), ((5, 7), "float32"), ((2, 9), "float32"))
    tensors = ArgumentPool().tensors(parameters)
    assert [(t.shape, str(t.dtype)) for t in tensors] == list(parameters)
    places = sorted((t.numpy().size, float(t.numpy().sum())) for t in tensors)
    assert len({t.data_ptr() for t in tensors} if hasattr(tensors[0], "data_ptr") else places) >= 3
