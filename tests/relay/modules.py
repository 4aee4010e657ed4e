"""Small Relay modules with every form of program that the walk must understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relay

BUILDERS: dict[str, Callable[[], Any]] = {}


def module(build: Callable[[], Any]) -> Callable[[], Any]:
    BUILDERS[build.__name__] = build
    return build


def const(*shape: int, dtype: str = "float32") -> relay.Constant:
    return relay.const(np.ones(shape, dtype), dtype)


def var(name: str, *shape: Any, dtype: str = "float32") -> relay.Var:
    return relay.var(name, shape=shape, dtype=dtype)


def typed(body: relay.Expr, *params: relay.Var) -> tvm.IRModule:
    function = relay.Function(list(params) or relay.analysis.free_vars(body), body)
    return relay.transform.InferType()(tvm.IRModule.from_expr(function))


def small_network() -> tvm.IRModule:
    """Convolution, batch norm, bias, pool and a dense layer."""
    x = var("x", 1, 8, 16, 12)
    y = relay.nn.conv2d(x, const(32, 8, 3, 5), strides=2, padding=(1, 2), channels=32,
                        kernel_size=(3, 5))  # fmt: skip
    y = relay.nn.batch_norm(y, const(32), const(32), const(32), const(32))[0]
    y = relay.nn.relu(relay.nn.bias_add(y, const(32)))
    y = relay.nn.max_pool2d(y, (2, 2), strides=(2, 2))
    y = relay.nn.batch_flatten(y)
    return typed(relay.nn.softmax(relay.nn.dense(y, const(10, 384))), x)


@module
def convolutions() -> tvm.IRModule:
    x = var("x", 1, 8, 16, 12)
    y = relay.nn.conv2d(x, const(32, 8, 3, 5), strides=2, padding=(1, 2))
    y = relay.nn.conv2d(y, const(32, 1, 3, 3), padding=1, groups=32)
    y = relay.nn.conv2d_transpose(y, const(32, 4, 2, 2), strides=(2, 2))
    y = relay.transpose(y, [0, 2, 3, 1])
    return typed(relay.nn.conv2d(y, const(3, 3, 4, 6), data_layout="NHWC", kernel_layout="HWIO"), x)


@module
def tuples() -> tvm.IRModule:
    pair = relay.TupleType([relay.TensorType((4, 6)), relay.TensorType((4, 2))])
    t, x = relay.var("t", type_annotation=pair), var("x", 4, 6)
    parts = relay.split(x, [1, 3], axis=-1)
    columns = relay.split(relay.TupleGetItem(t, 0), 2, axis=1)
    nested = relay.Tuple([parts.astuple(), relay.Tuple([columns[1], relay.TupleGetItem(t, 1)])])
    inner = relay.TupleGetItem(nested, 1)
    merged = relay.concatenate(
        [relay.TupleGetItem(inner, 0), parts[2], parts[0], relay.TupleGetItem(inner, 1)], axis=-1
    )
    return typed(relay.Tuple([merged, relay.Tuple([columns.astuple(), x])]), t, x)


@module
def attributes() -> tvm.IRModule:
    x = var("x", 2, 8, 4, 4)
    y = relay.clip(x, 0, 6)
    y = relay.strided_slice(y, [0, 2, 0, 0], [2, 6, 4, 4])
    y = relay.image.resize2d(y, (8, 8), layout="NCHW", method="linear")
    y = relay.nn.pad(y, ((0, 0), (0, 0), (1, 1), (2, 2)), 1.5)
    y = relay.trilu(y, relay.const(1, "int32"), upper=True)
    y = relay.reshape(y, (2, -1))
    y = relay.nn.leaky_relu(y, 0.1)
    y = relay.expand_dims(y, -1)
    y = relay.mean(y, axis=[-2], keepdims=True)
    y = relay.sum(y, axis=[0], exclude=True)
    return typed(relay.cast(y, "float16"), x)


@module
def matmuls() -> tvm.IRModule:
    x, i = var("x", 8, 8), var("i", 6, dtype="int64")
    rows = relay.take(const(1000, 8), i, axis=0)
    y = relay.nn.dense(rows, const(16, 8))  # [6, 16]
    y = relay.nn.dense(y, relay.transpose(const(16, 8), [1, 0]))  # [6, 8], a weight computed
    y = relay.nn.dense(y, x)  # both computed
    y = relay.nn.matmul(y, const(8, 4))
    z = relay.expand_dims(y, 0)
    z = relay.nn.batch_matmul(z, const(1, 5, 4))
    z = relay.nn.batch_matmul(z, const(1, 6, 7), transpose_a=True, transpose_b=False)
    return typed(relay.nn.bias_add(z, const(5), axis=1), x, i)


@module
def dynamic() -> tvm.IRModule:
    x = var("x", relay.Any(), 8)
    return typed(relay.nn.dense(relay.nn.relu(x), const(4, 8)), x)


@module
def quantised() -> tvm.IRModule:
    x = var("x", 1, 3, 8, 8, dtype="int8")
    zero, one = relay.const(0, "int32"), relay.const(0.5, "float32")
    y = relay.qnn.op.conv2d(
        x, const(4, 3, 3, 3, dtype="int8"), zero, zero, one, one, kernel_size=(3, 3), channels=4
    )
    y = relay.qnn.op.requantize(y, one, zero, one, zero, out_dtype="int8")
    y = relay.qnn.op.add(y, y, one, zero, one, zero, one, zero)
    return typed(relay.qnn.op.dequantize(y, one, zero), x)


@module
def branches() -> tvm.IRModule:
    x, flag = var("x", 4, 4), relay.var("flag", shape=(), dtype="bool")
    y, z = relay.var("y"), relay.var("z")
    choice = relay.If(flag, relay.add(y, z), relay.nn.relu(y))
    body = relay.Let(y, relay.tanh(x), relay.Let(z, relay.exp(x), relay.sigmoid(choice)))
    return typed(body, x, flag)


@module
def closures() -> tvm.IRModule:
    """A loop: a function bound in the function, which calls itself."""
    x = var("x", 4)
    loop = relay.var("loop")
    i, acc = relay.var("i", shape=(), dtype="int32"), var("acc", 4)
    again = loop(relay.subtract(i, relay.const(1, "int32")), relay.add(acc, x))
    body = relay.If(relay.equal(i, relay.const(0, "int32")), acc, again)
    function = relay.Function([i, acc], body, relay.TensorType((4,)))
    return typed(relay.Let(loop, function, loop(relay.const(3, "int32"), relay.nn.relu(x))), x)


@module
def references() -> tvm.IRModule:
    x = var("x", 4)
    cell, written = relay.var("cell"), relay.var("written")
    body = relay.Let(
        cell,
        relay.RefCreate(x),
        relay.Let(written, relay.RefWrite(cell, relay.exp(x)), relay.tanh(relay.RefRead(cell))),
    )
    return typed(body, x)
