"""The layers that convolutional networks are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any

from tvm_costmodel.profiling.workloads.network import Network, Tensor, pair


def _pooled(size: int, kernel: int, stride: int, before: int, after: int, ceil: bool) -> int:
    span = size + before + after - kernel
    return (-(-span // stride) if ceil else span // stride) + 1


class Layers(Network):
    """Convolution, pooling, normalisation, activations and dense layers over ``Network``."""

    @property
    def out_dtype(self) -> str | None:
        """The output type that the importer names in convolutions and matmuls."""
        return None if self.importer == "onnx" else "float32"

    # -- convolution ---------------------------------------------------------------------------

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        """Convolution of ``x [N, C, H, W]``; ``padding`` defaults to half the kernel."""
        n, c, h, w = x.shape
        kh, kw = pair(kernel)
        ph, pw = (kh // 2, kw // 2) if padding is None else pair(padding)
        shape = (n, channels, _pooled(h, kh, stride, ph, ph, False), 0)
        shape = (*shape[:3], _pooled(w, kw, stride, pw, pw, False))
        per_output = c // groups * kh * kw
        weight = self.weight((channels, c // groups, kh, kw), sqrt(2.0 / per_output))
        key = ("conv2d", x.shape, channels, kh, kw, stride, ph, pw, groups)
        self.kernel(*key, macs=prod(shape) * per_output)
        y = self.write(
            shape,
            lambda op: op.nn.conv2d(
                x.expr,
                weight,
                strides=(stride, stride),
                padding=(ph, pw, ph, pw),
                groups=groups,
                out_dtype=self.out_dtype,
            ),
        )
        return self.channel_bias(y) if bias else y

    def channel_bias(self, x: Tensor) -> Tensor:
        """Adds one number per channel, as importers write a convolution's bias."""
        bias = self.weight((x.shape[1],), 0.1)
        if self.emit:
            reshaped = self.write((1, x.shape[1], 1, 1), lambda op: op.reshape(bias, (1, -1, 1, 1)))
            bias = reshaped.expr
        return self.write(x.shape, lambda op: op.add(x.expr, bias))

    def batch_norm(self, x: Tensor) -> Tensor:
        """Batch normalisation over axis 1, in inference."""
        c = (x.shape[1],)
        gamma, beta = self.weight(c, 0.1, 1.0), self.weight(c, 0.1)
        if self.emit:
            mean, variance = self._constant(c, 0.1, 0.0), self._constant(c, 0.05, 1.0)
        normed = self.write(
            x.shape,
            lambda op: op.nn.batch_norm(
                x.expr, gamma, beta, mean, variance, axis=1, momentum=0.9, training=False
            ),
        )
        y = self._element(normed, x.shape, 0)
        return self._scale_and_shift(y) if self.norm == "scaled" else y

    def _element(self, x: Tensor, shape: tuple[int, ...], index: int) -> Tensor:
        if not self.emit:
            return Tensor(shape)
        return Tensor(shape, self.writer.element(x.expr, index))

    def _scale_and_shift(self, x: Tensor) -> Tensor:
        """One factor and one number per channel, as in networks converted from Caffe."""
        c = (x.shape[1], 1, 1)
        factor, number = self.weight(c, 0.1, 1.0), self.weight(c, 0.1)
        y = self.write(x.shape, lambda op: op.multiply(x.expr, factor))
        return self.write(x.shape, lambda op: op.add(y.expr, number))

    def conv_bn(
        self,
        x: Tensor,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        act: str | None = "relu",
        groups: int = 1,
        padding: int | tuple[int, int] | None = None,
    ) -> Tensor:
        """Convolution, batch norm (or the bias it folds into) and an activation."""
        folded = self.norm == "folded"
        y = self.conv(x, channels, kernel, stride, padding, groups, bias=folded)
        if not folded:
            y = self.batch_norm(y)
        return self.activation(y, act)

    # -- activations ---------------------------------------------------------------------------

    def activation(self, x: Tensor, name: str | None) -> Tensor:
        """One of relu, relu6, sigmoid, tanh, silu, hardsigmoid, hardswish, gelu; None is none."""
        if name is None:
            return x
        if name == "silu":
            return self.multiply(x, self.activation(x, "sigmoid"))
        if name == "hardsigmoid":
            return self._hard_sigmoid(x)
        if name == "hardswish":
            return self._hard_swish(x)
        simple = {
            "relu": lambda op: op.nn.relu(x.expr),
            "relu6": lambda op: op.clip(x.expr, 0, 6),
            "sigmoid": lambda op: op.sigmoid(x.expr),
            "tanh": lambda op: op.tanh(x.expr),
            "gelu": lambda op: op.nn.gelu(x.expr),
        }
        return self.write(x.shape, simple[name])

    def _hard_sigmoid(self, x: Tensor) -> Tensor:
        if self.importer == "torch":
            return self._over_six(self._clip_to_six(x))
        sixth, half = self.scalar(1 / 6), self.scalar(0.5)
        scaled = self.write(x.shape, lambda op: op.multiply(sixth, x.expr))
        moved = self.write(x.shape, lambda op: op.add(scaled.expr, half))
        return self.write(x.shape, lambda op: op.clip(moved.expr, 0, 1))

    def _hard_swish(self, x: Tensor) -> Tensor:
        if self.importer == "torch":
            return self._over_six(self.multiply(x, self._clip_to_six(x)))
        return self.multiply(x, self._over_six(self._clip_to_six(x)))

    def _clip_to_six(self, x: Tensor) -> Tensor:
        three = self.scalar(3.0)
        y = self.write(x.shape, lambda op: op.add(x.expr, three))
        if self.importer == "onnx":
            return self.write(x.shape, lambda op: op.clip(y.expr, 0, 6))
        low = self.write(x.shape, lambda op: op.clip(y.expr, 0, float("inf")))
        return self.write(x.shape, lambda op: op.clip(low.expr, float("-inf"), 6))

    def _over_six(self, x: Tensor) -> Tensor:
        six = self.scalar(6.0)
        return self.write(x.shape, lambda op: op.divide(x.expr, six))

    # -- pooling -------------------------------------------------------------------------------

    def max_pool(
        self, x: Tensor, kernel: int, stride: int, padding: int = 0, rounding: str = "floor"
    ) -> Tensor:
        """Max pooling of ``x [N, C, H, W]``.

        A pooling window that reaches over the end is left out ("floor"), counted ("ceil"), or
        counted through one more row and column of padding ("pad"), as converted Caffe networks do.
        """
        return self._pool("max_pool2d", x, kernel, stride, padding, rounding, False)

    def avg_pool(
        self, x: Tensor, kernel: int, stride: int, padding: int = 0, count_padding: bool = True
    ) -> Tensor:
        """Average pooling of ``x [N, C, H, W]``."""
        return self._pool("avg_pool2d", x, kernel, stride, padding, "floor", count_padding)

    def _pool(
        self,
        name: str,
        x: Tensor,
        kernel: int,
        stride: int,
        padding: int,
        rounding: str,
        count_padding: bool,
    ) -> Tensor:
        n, c, h, w = x.shape
        ceil, end = rounding == "ceil", padding + (rounding == "pad")
        h, w = (_pooled(size, kernel, stride, padding, end, ceil) for size in (h, w))
        self.kernel(name, x.shape, kernel, stride, padding, rounding, count_padding)
        return self.write(
            (n, c, h, w),
            lambda op: getattr(op.nn, name)(
                x.expr,
                pool_size=(kernel, kernel),
                strides=(stride, stride),
                padding=(padding, padding, end, end),
                ceil_mode=ceil,
                count_include_pad=count_padding,
            ),
        )

    def global_pool(self, x: Tensor) -> Tensor:
        """Mean over the pixels: ``[N, C, H, W] -> [N, C, 1, 1]``."""
        n, c, _, _ = x.shape
        self.kernel("global_pool", x.shape)
        axes = [2, 3] if self.importer == "onnx" else [-1, -2]
        return self.write((n, c, 1, 1), lambda op: op.mean(x.expr, axis=axes, keepdims=True))

    # -- combining -----------------------------------------------------------------------------

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Element-wise sum."""
        return self.write(x.shape, lambda op: op.add(x.expr, y.expr))

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """Element-wise product; ``y`` may be ``[N, C, 1, 1]``."""
        if y.shape != x.shape:
            self.kernel("gate", x.shape)
        return self.write(x.shape, lambda op: op.multiply(x.expr, y.expr))

    def concat(self, parts: Sequence[Tensor], axis: int = 1) -> Tensor:
        """Concatenates ``parts`` along ``axis``."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        if len(parts) == 1:
            return parts[0]
        self.kernel("concat", tuple(part.shape for part in parts), axis)
        return self.write(
            tuple(shape), lambda op: op.concat([part.expr for part in parts], axis=axis)
        )

    def split(self, x: Tensor, parts: int, axis: int = 1) -> list[Tensor]:
        """``parts`` equal pieces of ``x`` along ``axis``."""
        shape = list(x.shape)
        shape[axis] //= parts
        sections = parts if self.importer == "onnx" else [shape[axis] * i for i in range(1, parts)]
        pieces = self.write(
            tuple(shape), lambda op: op.split(x.expr, indices_or_sections=sections, axis=axis)
        )
        return [self._element(pieces, tuple(shape), i) for i in range(parts)]

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The same elements in another shape."""
        return self.write(shape, lambda op: op.reshape(x.expr, shape))

    def transpose(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Permutes the axes."""
        shape = tuple(x.shape[axis] for axis in axes)
        self.kernel("transpose", x.shape, axes)
        return self.write(shape, lambda op: op.permute_dims(x.expr, axes=list(axes)))

    # -- dense ---------------------------------------------------------------------------------

    def flatten(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, C H W]``."""
        return self.reshape(x, (x.shape[0], prod(x.shape[1:])))

    def dense(self, x: Tensor, units: int, bias: bool = True) -> Tensor:
        """Matmul of ``x [..., D]`` with weights stored ``[units, D]``, plus a bias."""
        width = x.shape[-1]
        shape = (*x.shape[:-1], units)
        weight = self.weight((units, width), sqrt(1.0 / width))
        self.kernel("dense", x.shape, units, macs=prod(shape) * width)
        if self.emit:
            weight = self.write((width, units), lambda op: op.permute_dims(weight, [1, 0])).expr
        y = self.write(shape, lambda op: op.matmul(x.expr, weight, out_dtype=self.out_dtype))
        if not bias:
            return y
        offset = self.weight((units,), 0.1)
        if self.importer == "torch":
            return self.write(shape, lambda op: op.add(offset, y.expr))
        return self.write(shape, lambda op: op.add(y.expr, offset))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Matmul of two activations ``[..., M, K]`` and ``[..., K, N]``."""
        shape = (*x.shape[:-1], y.shape[-1])
        self.kernel("matmul", x.shape, y.shape, macs=prod(shape) * x.shape[-1])
        return self.write(shape, lambda op: op.matmul(x.expr, y.expr, out_dtype=self.out_dtype))

    def softmax(self, x: Tensor) -> Tensor:
        """Softmax over the last axis."""
        self.kernel("softmax", x.shape)
        return self.write(x.shape, lambda op: op.nn.softmax(x.expr, axis=-1))

    def finish(self, x: Tensor) -> Tensor:
        """The network's scores, or their softmax where the network ends in one."""
        return self.softmax(x) if self.ends_in_softmax else x

    def classifier(self, x: Tensor, classes: int) -> Tensor:
        """Mean over the pixels, then a dense layer or a 1x1 convolution."""
        if "window" in self.head:
            y = self.avg_pool(x, x.shape[2], 1, count_padding=False)
        else:
            y = self.global_pool(x)
        if "conv" in self.head:
            return self.conv(y, classes, 1, bias=True)
        return self.finish(self.dense(self.flatten(y), classes))

    def local_response_norm(self, x: Tensor, span: int = 5) -> Tensor:
        """Local response norm over ``span`` channels, as a sum of shifted slices."""
        n, c, h, w = x.shape
        alpha, beta, one = self.scalar(1e-4 / span), self.scalar(0.75), self.scalar(1.0)
        self.kernel("local_response_norm", x.shape, span)
        before = (span - 1) // 2
        widths = [0, 0, before, span - 1 - before, 0, 0, 0, 0]
        padded = (n, c + span - 1, h, w)
        squares = self._apply(padded, self.multiply(x, x), lambda op, y: op.nn.pad(y, widths))
        y = None
        for i in range(span):
            part = self._apply(
                x.shape, squares, lambda op, y, i=i: op.strided_slice(y, [1], [i], [i + c])
            )
            y = part if y is None else self.add(y, part)
        assert y is not None
        y = self._apply(x.shape, y, lambda op, y: op.multiply(y, alpha))
        y = self._apply(x.shape, y, lambda op, y: op.add(y, one))
        y = self._apply(x.shape, y, lambda op, y: op.power(y, beta))
        return self._apply(x.shape, y, lambda op, y: op.divide(x.expr, y))

    def _apply(self, shape: tuple[int, ...], x: Tensor, make: Callable[..., Any]) -> Tensor:
        return self.write(shape, lambda op: make(op, x.expr))
