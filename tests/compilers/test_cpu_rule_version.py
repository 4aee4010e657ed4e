"""Guards the versions of components: what the rule makes of these kernels changes only with them.

After a change that is meant, raise the version of the component that makes these kernels, see
``tvm_costmodel.compilers.components``, and write the new hashes with
``python -m tests.compilers.test_cpu_rule_version``.
"""

from __future__ import annotations

import hashlib
import json
import pathlib

import pytest
import tvm
from tvm import relax, tirx

from tvm_costmodel.compilers.cpu_rule import RULE_VERSION, CpuScheduleRule, schedule_module

from .cpu_rule_cases import fused_module, weights

RECORD = pathlib.Path(__file__).with_name("cpu_rule_kernels.json")
nn, op = relax.op.nn, relax.op


def _conv(layout, size, data, out, kernel, groups=1, **attrs):
    last = layout == "NHWC"
    per = data // groups
    shape = (kernel, kernel, per, out) if last else (out, per, kernel, kernel)
    bias = (1, 1, 1, out) if last else (1, out, 1, 1)

    def build(builder, x):
        y = nn.conv2d(
            x,
            weights(*shape),
            padding=kernel // 2,
            groups=groups,
            data_layout=layout,
            kernel_layout="HWIO" if last else "OIHW",
            **attrs,
        )
        return nn.relu(builder.emit(op.add(builder.emit(y), weights(*bias))))

    return build, [(1, size, size, data) if last else (1, data, size, size)]


def _dense(rows, steps, lanes):
    def build(builder, x):
        return op.add(builder.emit(op.matmul(x, weights(steps, lanes))), weights(lanes))

    return build, [(rows, steps)]


def _matmul(builder, x, y):
    return op.matmul(x, y)


def _merged_heads(builder, x):
    return op.reshape(builder.emit(op.permute_dims(x, [0, 2, 1, 3])), (1, 64, 768))


def _shuffle(builder, x):
    groups = builder.emit(op.reshape(x, (1, 14, 14, 4, 34)))
    swapped = builder.emit(op.permute_dims(groups, [0, 1, 2, 4, 3]))
    return op.reshape(swapped, (1, 14, 14, 136))


def _one(build, *shape):
    return (lambda builder, x: build(x)), [shape]


def _max_pool(layout, **attrs):
    return lambda x: nn.max_pool2d(x, (3, 3), layout=layout, **attrs)


KERNELS = {
    "conv 3x3": _conv("NHWC", 28, 64, 96, 3),
    "conv 1x1": _conv("NHWC", 14, 64, 256, 1),
    "conv 1x1, 1000 channels": _conv("NHWC", 13, 32, 1000, 1),
    "conv 7x7, strided": _conv("NHWC", 56, 3, 64, 7, strides=2),
    "conv 1x1, grouped": _conv("NHWC", 28, 136, 136, 1, groups=4),
    "depthwise": _conv("NHWC", 28, 40, 40, 3, groups=40),
    "depthwise, strided": _conv("NHWC", 28, 40, 40, 5, groups=40, strides=2),
    "conv 3x3, channels first": _conv("NCHW", 28, 32, 48, 3),
    "conv 3x3, channels first, strided": _conv("NCHW", 28, 32, 48, 3, strides=2),
    "depthwise, channels first": _conv("NCHW", 28, 40, 40, 3, groups=40),
    "dense, one row": _dense(1, 256, 1000),
    "dense": _dense(50, 192, 576),
    "batched matmul": (_matmul, [(3, 50, 64), (3, 64, 50)]),
    "max pool": _one(_max_pool("NHWC", strides=2, padding=1), 1, 29, 27, 72),
    "max pool, channels first": _one(_max_pool("NCHW", strides=2, padding=1), 1, 24, 29, 27),
    "mean": _one(lambda x: op.mean(x, [1, 2]), 1, 13, 13, 1000),
    "mean, channels first": _one(lambda x: op.mean(x, [2, 3]), 1, 40, 7, 7),
    "softmax": _one(lambda x: nn.softmax(x, -1), 12, 197),
    "layer norm": _one(lambda x: nn.layer_norm(x, weights(200), weights(200), -1), 50, 200),
    "gelu": _one(nn.gelu, 50, 333),
    "concatenation": (lambda builder, x, y: op.concat([x, y], -1), [(1, 7, 7, 40), (1, 7, 7, 27)]),
    "tile": _one(lambda x: op.tile(x, (1, 2, 8, 5)), 1, 3, 4, 5),
    "attention heads side by side": (_merged_heads, [(1, 12, 64, 64)]),
    "channel shuffle": (_shuffle, [(1, 14, 14, 136)]),
    "transpose": _one(lambda x: op.permute_dims(x, [0, 2, 3, 1]), 1, 40, 28, 28),
}


def _hashes() -> dict[str, str]:
    hashes = {}
    for cpu in ("znver5", "haswell"):
        target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": 1})
        for name, (build, shapes) in KERNELS.items():
            scheduled = schedule_module(fused_module(build, shapes), target, CpuScheduleRule())
            (func,) = (f for _, f in scheduled.functions_items() if isinstance(f, tirx.PrimFunc))
            hashes[f"{cpu}: {name}"] = hashlib.sha256(func.script().encode()).hexdigest()[:16]
    return hashes


def test_kernels_change_only_with_the_version():
    record = json.loads(RECORD.read_text())
    if record["rule_version"] != RULE_VERSION:
        pytest.fail(f"record of version {record['rule_version']}, rule {RULE_VERSION}: write it")
    hashes = _hashes()
    changed = [name for name, value in hashes.items() if record["kernels"].get(name) != value]
    assert not changed, f"schedules changed: {changed}; raise the version of their component"
    assert len(hashes) == len(record["kernels"]) == 50


if __name__ == "__main__":
    text = json.dumps({"rule_version": RULE_VERSION, "kernels": _hashes()}, indent=1)
    RECORD.write_text(text + "\n")
