"""Small Relax modules that hold every shape of program that the walk must understand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import IRModule, relax, script, tirx
from tvm.relax import TensorType, op

BUILDERS: dict[str, Callable[[], IRModule]] = {}


def module(build: Callable[[], IRModule]) -> Callable[[], IRModule]:
    BUILDERS[build.__name__] = build
    return build


def const(*shape: int, dtype: str = "float32") -> relax.Constant:
    return relax.const(np.ones(shape, dtype), dtype)


def var(name: str, *shape: int, dtype: str = "float32") -> relax.Var:
    return relax.Var(name, TensorType(shape, dtype))


def function(params: list, body: Callable[[relax.BlockBuilder], object], **attrs) -> IRModule:
    """A module whose main emits what ``body`` returns, in one dataflow block."""
    builder = relax.BlockBuilder()
    with builder.function("main", params, attrs=attrs or None):
        with builder.dataflow():
            result = builder.emit_output(body(builder))
        builder.emit_func_output(result)
    return builder.get()


@module
def convolutions() -> IRModule:
    x = var("x", 1, 8, 16, 12)

    def body(b):
        y = b.emit(op.nn.conv2d(x, const(32, 8, 3, 5), strides=2, padding=(1, 2)))
        y = b.emit(op.nn.conv2d(y, const(32, 1, 3, 3), padding=1, groups=32))
        y = b.emit(op.nn.conv2d_transpose(y, const(32, 4, 2, 2), strides=(2, 2)))
        y = b.emit(op.permute_dims(y, [0, 2, 3, 1]))
        return op.nn.conv2d(y, const(3, 3, 4, 6), data_layout="NHWC", kernel_layout="HWIO")

    return function([x], body)


@module
def tuples() -> IRModule:
    pair = relax.TupleType([TensorType((4, 6), "float32"), TensorType((4, 2), "float32")])
    t, x = relax.Var("t", pair), var("x", 4, 6)

    def body(b):
        parts = b.emit(op.split(x, [1, 3], axis=-1))
        parts_of_t = b.emit(op.split(relax.TupleGetItem(t, 0), 2, axis=1))
        nested = b.emit(relax.Tuple([parts, relax.Tuple([parts_of_t[1], t[1]])]))
        inner = b.emit(relax.TupleGetItem(nested, 1))
        merged = b.emit(op.concat([inner[0], parts[2], parts[0], inner[1]], axis=-1))
        return relax.Tuple([merged, relax.Tuple([parts_of_t, x])])

    return function([t, x], body)


@module
def literal_arguments() -> IRModule:
    x = var("x", 2, 8, 4, 4)

    def body(b):
        y = b.emit(op.clip(x, 0, 6))
        y = b.emit(op.strided_slice(y, axes=[1], begin=[2], end=[6], strides=[2]))
        y = b.emit(op.image.resize2d(y, (8, 8), layout="NCHW", method="linear"))
        y = b.emit(op.nn.pad(y, (0, 0, 0, 0, 1, 1, 2, 2), pad_value=1.5))
        y = b.emit(op.triu(y, 1))
        y = b.emit(op.reshape(y, (2, -1)))
        y = b.emit(op.nn.leakyrelu(y, 0.1))
        y = b.emit(op.expand_dims(y, -1))
        y = b.emit(op.mean(y, axis=[-2], keepdims=True))
        return op.astype(y, "float16")

    return function([x], body)


@module
def constants_before_activations() -> IRModule:
    x, i = var("x", 8, 8), var("i", 6, dtype="int64")

    def body(b):
        rows = b.emit(op.take(const(1000, 8), i, axis=0))
        left = b.emit(op.matmul(const(4, 6), rows))
        right = b.emit(op.matmul(left, x))
        folded = b.emit(op.permute_dims(const(16, 8)))
        right = b.emit(op.matmul(right, folded))
        filled = b.emit(op.full((4, 16), relax.const(2.0), dtype="float32"))
        return op.subtract(filled, right)

    return function([x, i], body)


@module
def symbolic_shapes() -> IRModule:
    n = tirx.Var("n", "int64")
    x = relax.Var("x", TensorType((n, 8), "float32"))
    s = relax.Var("s", relax.ShapeType(ndim=2))
    u = relax.Var("u", TensorType(dtype="float32", ndim=3))
    r = relax.Var("r", TensorType(dtype="float32"))

    def body(b):
        y = b.emit(op.reshape(x, (n * 2, 4)))
        z = b.emit(op.broadcast_to(u, relax.ShapeExpr([n, 4, 2])))
        shape = b.emit(op.shape_of(z))
        w = b.emit(op.reshape(y, s))
        return relax.Tuple([w, shape, z, b.emit(op.nn.relu(r))])

    return function([x, s, u, r], body)


@module
def weights_as_parameters() -> IRModule:
    x, w, b1 = var("x", 4, 8), var("w", 8, 16), var("bias", 16)
    return function(
        [x, w, b1], lambda b: op.add(b.emit(op.matmul(x, w)), b1), num_input=1, global_symbol="main"
    )


@module
def constant_results() -> IRModule:
    x = var("x", 4)
    return function([x], lambda b: relax.Tuple([op.nn.relu(x), const(3), op.zeros((2,), "int32")]))


@module
def packed_calls() -> IRModule:
    x = var("x", 4)

    def body(b):
        y = b.emit(op.call_dps_packed("my.kernel", [x, const(4)], TensorType((4,), "float32")))
        return op.call_pure_packed("my.packed", y, ty_args=[TensorType((4,), "float32")])

    return function([x], body)


@module
def odd_operators() -> IRModule:
    x = var("x", 1, 8, 4, 4)

    def body(b):
        top = b.emit(op.topk(x, 3, axis=-1, ret_type="both"))
        moved = b.emit(op.layout_transform(top[0], lambda n, c, h, w: (n, h, w, c)))
        grid = b.emit(op.zeros((1, 2, 3, 3), "float32"))
        sampled = b.emit(op.image.grid_sample(x, grid, align_corners=True))
        summed = b.emit(op.einsum([x, const(8, 5)], "nchw,cd->ndhw"))
        return relax.Tuple([moved, top[1], sampled, summed, op.cumsum(x, axis=-1)])

    return function([x], body)


@module
def networks_vocabulary() -> IRModule:
    """One call of each operator that inference networks are made of."""
    x, s = var("x", 2, 8, 6, 6), var("s", 2, 8, 6)
    v, t = var("v", 2, 8, 4, 6, 6), var("t", 2, 5, 4, 16)
    i = var("i", 2, 3, dtype="int64")
    c = const(8)

    def calls() -> list:
        nn, image = op.nn, op.image
        unary = "abs negative exp log sqrt rsqrt erf sin cos tan tanh sigmoid floor ceil round"
        unary += " sign square isnan logical_not"
        activations = "relu silu gelu gelu_tanh selu softplus"
        binary = "add subtract multiply divide maximum minimum power mod floor_divide"
        binary += " equal not_equal less less_equal greater greater_equal"
        boolean = op.greater(x, x)
        return [
            *(getattr(op, n)(boolean if n == "logical_not" else x) for n in unary.split()),
            *(getattr(nn, n)(x) for n in activations.split()),
            *(getattr(op, n)(x, x) for n in binary.split()),
            *(
                getattr(op, n)(x, axis=[2, -1])
                for n in "mean sum max min prod std variance".split()
            ),
            op.argmax(x, axis=1, keepdims=True),
            op.where(boolean, x, x),
            nn.prelu(x, c),
            nn.dropout(x, 0.3),
            nn.batch_norm(x, c, c, c, c, axis=1, training=False),
            nn.layer_norm(x, const(6), const(6), axes=[-1]),
            nn.group_norm(x, c, c, num_groups=4, channel_axis=1, axes=[2, 3]),
            nn.instance_norm(x, c, c, channel_axis=1, axes=[2, 3]),
            nn.rms_norm(x, const(6), axes=[-1]),
            nn.softmax(x, axis=-3),
            nn.log_softmax(x),
            nn.conv1d(s, const(4, 8, 3), padding=1),
            nn.conv1d_transpose(s, const(8, 4, 2), strides=2),
            nn.conv3d(v, const(4, 8, 3, 3, 3), padding=(1, 1, 1)),
            nn.conv3d_transpose(v, const(8, 4, 2, 2, 2), strides=(2, 2, 2)),
            nn.max_pool1d(s, 2),
            nn.max_pool2d(x, (3, 3), (2, 2), padding=(0, 1), ceil_mode=True),
            nn.max_pool3d(v, (1, 2, 2)),
            nn.avg_pool1d(s, 2),
            nn.avg_pool2d(x, 2, padding=1, count_include_pad=True),
            nn.avg_pool3d(v, 2),
            nn.adaptive_avg_pool1d(s, 1),
            nn.adaptive_avg_pool2d(x, (2, 3)),
            nn.adaptive_avg_pool2d(x),
            nn.adaptive_avg_pool3d(v, 1),
            nn.attention(t, t, t, scale=0.25),
            nn.attention(t, t, t, op.zeros((2, 4, 5, 5), "float32"), causal_mask="TopLeft"),
            nn.pixel_shuffle(x, 2),
            op.flatten(x),
            nn.batch_flatten(x),
            op.squeeze(op.expand_dims(x, 1), 1),
            op.squeeze(op.expand_dims(x, [0, -1])),
            op.permute_dims(x),
            op.broadcast_to(op.expand_dims(x, 0), (3, 2, 8, 6, 6)),
            op.stack([x, x], axis=-1),
            op.tile(x, (1, 2, 1, 1)),
            op.repeat(x, 2, axis=-1),
            op.flip(x, axis=-1),
            op.tril(x, -1),
            op.take(x, i, axis=-1),
            op.gather_elements(x, op.astype(x, "int64"), axis=-1),
            op.gather_nd(x, i),
            op.one_hot(i, relax.prim_value(1), relax.prim_value(0), depth=4, axis=-1),
            op.sort(x, axis=-1, descending=True),
            op.argsort(x, axis=-1),
            op.cumprod(x, axis=-1),
            image.resize2d(x, (12, 12), layout="NCHW", method="nearest_neighbor"),
            op.quantize(x, const(8), const(8, dtype="int8"), axis=1),
        ]

    return function([x, s, v, t, i], lambda b: relax.Tuple([b.emit(call) for call in calls()]))


@module
def nested_calls() -> IRModule:
    """Not in A-normal form: arguments are calls themselves."""
    x = var("x", 4, 4)
    body = op.add(op.nn.relu(x), op.tanh(op.nn.relu(x)))
    main = relax.Function([x], relax.SeqExpr([], body), ret_ty=TensorType((4, 4), "float32"))
    return IRModule({"main": main.with_attr("global_symbol", "main")})


CONTROL_FLOW = """
# from tvm.script import ir as I
# from tvm.script import relax as R
@I.ir_module
class Module:
    @R.function
    def branches(x: R.Tensor((4,), "float32"), c: R.Tensor((), "bool")):
        y = R.nn.relu(x)
        z = R.exp(x)
        if c:
            a = R.add(y, z)
            r = R.tanh(a)
        else:
            b = R.multiply(y, x)
            r = R.sigmoid(b)
        return R.sqrt(r)

    @R.function
    def other(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        y = R.nn.relu(x)
        return y

    @R.function
    def main(x: R.Tensor((4,), "float32"), u: R.Tensor(ndim=1, dtype="float32")):
        y = R.exp(x)

        @R.function
        def inner(p: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            q = R.add(p, y)
            return q

        v = R.match_cast(u, R.Tensor((4,), "float32"))
        w = inner(v)
        z = Module.other(w)
        return z
"""


@module
def control_flow() -> IRModule:
    return script.from_source(CONTROL_FLOW)


@module
def legalised() -> IRModule:
    return relax.transform.LegalizeOps()(convolutions())
