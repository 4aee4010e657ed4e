"""Small Relax networks for the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm_ffi import structural_hash

from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.compilers.relax.verification import random_inputs, run

nn, op = relax.op.nn, relax.op


def values(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def module(
    make: Callable[..., relax.Expr], shapes: Sequence[Sequence[int]], dtype: str = "float32"
) -> tvm.IRModule:
    """A module whose ``main`` is what ``make(emit, *inputs)`` returns."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(list(s), dtype)) for i, s in enumerate(shapes)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(make(builder.emit, *inputs))
        builder.emit_func_output(result)
    return builder.get()


def convolution(emit, x, out, kernel=3, seed=0, groups=1, **attrs):
    """A convolution of an NCHW tensor with fixed weights."""
    channels = int(x.ty.shape[1])
    weight = values(out, channels // groups, kernel, kernel, seed=seed, scale=0.2)
    return emit(nn.conv2d(x, relax.const(weight), padding=kernel // 2, groups=groups, **attrs))


def batch_norm(emit, x, seed=0, training=False):
    """A batch norm along the channels of an NCHW tensor."""
    channels = int(x.ty.shape[1])
    gamma, beta, mean = (values(channels, seed=seed + i) for i in range(3))
    variance = np.abs(values(channels, seed=seed + 3)) + 0.5
    constants = [relax.const(v) for v in (gamma, beta, mean, variance)]
    return emit(
        relax.TupleGetItem(emit(nn.batch_norm(x, *constants, axis=1, training=training)), 0)
    )


def residual_network(emit, x):
    """Convolution, batch norm, clip, depthwise, a residual, pooling, a dense layer, softmax."""
    y = batch_norm(emit, convolution(emit, x, 20), seed=5)
    first = emit(op.clip(y, 0, 6))
    y = convolution(emit, first, 20, seed=1, groups=20)
    y = emit(nn.relu(batch_norm(emit, y, seed=9)))
    y = emit(op.add(batch_norm(emit, convolution(emit, y, 20, 1, seed=2), seed=13), first))
    y = emit(nn.max_pool2d(y, (3, 3), strides=(2, 2), padding=(1, 1)))
    y = emit(op.mean(y, [2, 3]))
    y = emit(op.matmul(y, relax.const(values(20, 11, seed=3))))
    return nn.softmax(emit(op.add(y, relax.const(values(11, seed=4)))), -1)


def dense_network(emit, x):
    """Pre-activation with batch norm between concatenations, and one branch read twice."""
    y = convolution(emit, x, 12, strides=2)
    z = emit(nn.relu(batch_norm(emit, y, seed=5)))
    z = convolution(emit, z, 9, seed=1)
    merged = emit(op.concat([y, z], 1))
    z = emit(nn.relu(batch_norm(emit, merged, seed=7)))
    pooled = emit(nn.avg_pool2d(z, (2, 2), strides=(2, 2)))
    return emit(op.reshape(pooled, (1, -1)))


def attention_network(emit, x):
    """One encoder layer's attention and norm on a (1, tokens, width) tensor."""
    tokens, width = int(x.ty.shape[1]), int(x.ty.shape[2])
    heads = 4

    def project(y, seed):
        return emit(op.matmul(y, relax.const(values(width, width, seed=seed, scale=0.2))))

    def split(y, axes):
        parted = emit(op.reshape(y, (1, tokens, heads, width // heads)))
        return emit(op.permute_dims(parted, axes))

    query, key, value = (project(x, seed) for seed in range(3))
    score = emit(op.matmul(split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1])))
    score = emit(nn.softmax(emit(op.multiply(score, relax.const(0.3, "float32"))), -1))
    mixed = emit(op.matmul(score, split(value, [0, 2, 1, 3])))
    merged = emit(op.reshape(emit(op.permute_dims(mixed, [0, 2, 1, 3])), (1, tokens, width)))
    y = emit(op.add(x, project(merged, 3)))
    gamma, beta = relax.const(values(width, seed=8)), relax.const(values(width, seed=9))
    y = emit(nn.layer_norm(y, gamma, beta, axes=-1))
    return nn.gelu(project(y, 4))


def staged_network(emit, x):
    """Three sizes of image: a pooled stem, a residual block with a gate, a split and a concat."""
    y = emit(nn.relu(batch_norm(emit, convolution(emit, x, 16, strides=2), seed=5)))
    y = first = emit(nn.max_pool2d(y, (2, 2), strides=(2, 2)))
    y = emit(nn.relu(batch_norm(emit, convolution(emit, y, 16, seed=1), seed=9)))
    gate = emit(op.mean(y, [2, 3], keepdims=True))
    gate = emit(nn.relu(convolution(emit, gate, 4, 1, seed=2)))
    gate = emit(op.sigmoid(convolution(emit, gate, 16, 1, seed=3)))
    y = emit(nn.relu(emit(op.add(emit(op.multiply(y, gate)), first))))
    down = convolution(emit, y, 24, strides=2, seed=4)
    parts = emit(op.split(emit(nn.relu(down)), 2, 1))
    left, right = (emit(relax.TupleGetItem(parts, i)) for i in range(2))
    right = emit(nn.relu(convolution(emit, right, 12, seed=6)))
    y = emit(op.concat([left, right], 1))
    y = emit(nn.relu(batch_norm(emit, y, seed=7)))
    y = emit(nn.relu(convolution(emit, y, 20, 1, seed=8)))
    return emit(op.matmul(emit(op.mean(y, [2, 3])), relax.const(values(20, 11, seed=3))))


def staged() -> tvm.IRModule:
    """``staged_network`` for one image."""
    return module(staged_network, [(1, 3, 48, 40)])


NETWORKS = {
    "residual": (residual_network, (1, 3, 23, 21)),
    "dense": (dense_network, (1, 3, 24, 20)),
    "attention": (attention_network, (1, 17, 24)),
}


def network(name: str) -> tvm.IRModule:
    make, shape = NETWORKS[name]
    return module(make, [shape])


_OUTPUTS: dict[tuple[int, bool], list[np.ndarray]] = {}


def _outputs(mod: tvm.IRModule, by_tvm: bool) -> list[np.ndarray]:
    key = (structural_hash(mod), by_tvm)
    if key not in _OUTPUTS:
        target = tvm.target.Target("llvm")
        built = tvm.compile(mod, target) if by_tvm else build(mod, cpu_target()).executable
        _OUTPUTS[key] = run(built, random_inputs(mod))
    return _OUTPUTS[key]


def outputs_of_tvm(mod: tvm.IRModule) -> Callable[..., list[np.ndarray]]:
    """Reference for `verify` on `random_inputs`: TVM's own default build, built once a network."""
    return lambda *inputs: _outputs(mod, by_tvm=True)


def outputs_of_default(mod: tvm.IRModule) -> Callable[..., list[np.ndarray]]:
    """Reference for `verify` on `random_inputs`: the default configuration, built once."""
    return lambda *inputs: _outputs(mod, by_tvm=False)
