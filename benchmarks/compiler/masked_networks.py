"""A causal decoder and a windowed-attention network in ONNX, with random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Writer:
    """Collects the nodes and weights of an ONNX graph."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: str, **attrs: Any) -> str:
        """Adds a node and names its output."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attrs))
        return name

    def constant(self, value: Any) -> str:
        """Adds a constant; Python floats become float32, Python integers int64."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        """Adds weights of a normal distribution."""
        return self.constant((self._random.standard_normal(shape) * scale).astype(np.float32))

    def reshape(self, x: str, *shape: int) -> str:
        """Adds a reshape."""
        return self("Reshape", x, self.constant(list(shape)))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """Adds a matrix product with a bias."""
        product = self("MatMul", x, self.random(inputs, outputs, scale=inputs**-0.5))
        return self("Add", product, self.random(outputs, scale=0.02))

    def norm(self, x: str, width: int) -> str:
        """Adds a layer norm."""
        scale, shift = self.constant(np.ones(width)), self.constant(np.zeros(width))
        return self("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)

    def attention(
        self, x: str, shape: Sequence[int], heads: int, masks: Sequence[tuple[str, list[int]]]
    ) -> str:
        """Adds self-attention of x [batch, tokens, width] with added masks.

        Args:
            x: Name of the input.
            shape: Its shape.
            heads: Number of heads.
            masks: For each mask its name and the shape of scores that it is added to.
        """
        batch, tokens, width = shape
        size = width // heads
        merged = self.reshape(self.linear(x, width, 3 * width), batch, tokens, 3, heads, size)
        parts = self("Transpose", merged, perm=[2, 0, 3, 1, 4])
        q, k, v = (self("Gather", parts, self.constant(np.int64(i)), axis=0) for i in range(3))
        scores = self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self("Mul", scores, self.constant(size**-0.5))
        for mask, around in masks:
            scores = self("Add", self.reshape(scores, *around), mask)
        scores = self.reshape(scores, batch, heads, tokens, tokens)
        mixed = self("MatMul", self("Softmax", scores, axis=-1), v)
        mixed = self.reshape(self("Transpose", mixed, perm=[0, 2, 1, 3]), batch, tokens, width)
        return self.linear(mixed, width, width)

    def feed_forward(self, x: str, width: int) -> str:
        """Adds two products with a GELU between them."""
        y = self.linear(x, width, 4 * width)
        erf = self("Erf", self("Mul", y, self.constant(math.sqrt(0.5))))
        gate = self("Mul", self("Add", erf, self.constant(1.0)), self.constant(0.5))
        return self.linear(self("Mul", y, gate), 4 * width, width)

    def model(self, output: str, shape: Sequence[int], dtype: int, out: Sequence[int]) -> Any:
        """Makes the model of all that was added."""
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, out)],
            self._weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def causal_decoder(
    layers: int = 6, width: int = 768, heads: int = 12, tokens: int = 64, vocabulary: int = 8192
) -> onnx.ModelProto:
    """A decoder that reads ``tokens`` words and predicts each next one; masked by -inf."""
    add = Writer()
    embedding = add.random(vocabulary, width, scale=0.02)
    x = add("Gather", embedding, "x", axis=0)
    x = add("Add", x, add.random(1, tokens, width, scale=0.02))
    causal = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    mask = add.constant(causal[None, None])
    for _ in range(layers):
        around = [1, heads, tokens, tokens]
        y = add.attention(add.norm(x, width), (1, tokens, width), heads, [(mask, around)])
        x = add("Add", x, y)
        x = add("Add", x, add.feed_forward(add.norm(x, width), width))
    logits = add("MatMul", add.norm(x, width), add.random(width, vocabulary, scale=width**-0.5))
    return add.model(logits, [1, tokens], TensorProto.INT64, [1, tokens, vocabulary])


def windowed_attention(
    depths: Sequence[int] = (2, 2, 2, 2), width: int = 96, size: int = 56, window: int = 7
) -> onnx.ModelProto:
    """A Swin-like network: attention within windows, shifted in every second block.

    Liu et al., Swin Transformer, ICCV 2021. The image is embedded in 4x4 patches; four stages, each
    of half the size and twice the width of the one before.
    """
    add = Writer()
    patches = add.random(width, 3, 4, 4, scale=0.1)
    x = add("Conv", "x", patches, kernel_shape=[4, 4], strides=[4, 4])
    x = add("Transpose", x, perm=[0, 2, 3, 1])
    heads = 3
    image = [1, 3, 4 * size, 4 * size]
    for stage, depth in enumerate(depths):
        if stage:
            x = add.reshape(x, 1, size // 2, 2, size // 2, 2, width)
            x = add("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
            size, heads = size // 2, heads * 2
            x = add.norm(add.reshape(x, 1, size, size, 4 * width), 4 * width)
            product = add.random(4 * width, 2 * width, scale=(4 * width) ** -0.5)
            x, width = add("MatMul", x, product), 2 * width
        for block in range(depth):
            shift = window // 2 if block % 2 and size > window else 0
            x = _swin_block(add, x, width, size, window, heads, shift)
    x = add("ReduceMean", add.norm(x, width), axes=[1, 2], keepdims=0)
    return add.model(add.linear(x, width, 1000), image, TensorProto.FLOAT, [1, 1000])


def _swin_block(
    add: Writer, x: str, width: int, size: int, window: int, heads: int, shift: int
) -> str:
    count, tokens = size // window, window * window
    y = add.norm(x, width)
    if shift:
        y = _rolled(add, y, shift, size)
    y = add.reshape(y, 1, count, window, count, window, width)
    y = add.reshape(add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), count**2, tokens, width)
    bias = add.random(1, heads, tokens, tokens, scale=0.02)
    masks = [(bias, [count**2, heads, tokens, tokens])]
    if shift:
        mask = add.constant(shift_mask(size, window, shift)[None, :, None])
        masks.append((mask, [1, count**2, heads, tokens, tokens]))
    y = add.attention(y, (count**2, tokens, width), heads, masks)
    y = add.reshape(y, 1, count, count, window, window, width)
    y = add.reshape(add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), 1, size, size, width)
    if shift:
        y = _rolled(add, y, size - shift, size)
    x = add("Add", x, y)
    return add("Add", x, add.feed_forward(add.norm(x, width), width))


def _rolled(add: Writer, x: str, shift: int, size: int) -> str:
    """Moves rows and columns towards 0, those that leave there to the other end."""
    for axis in (1, 2):
        at = add.constant([axis])
        cut, end, start = add.constant([shift]), add.constant([size]), add.constant([0])
        parts = add("Slice", x, cut, end, at), add("Slice", x, start, cut, at)
        x = add("Concat", *parts, axis=axis)
    return x


def shift_mask(size: int, window: int, shift: int) -> np.ndarray:
    """What keeps the parts of a shifted window apart, -100 or 0. [windows, tokens, tokens]."""
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    regions = np.zeros((size, size), np.float32)
    for number, (rows, columns) in enumerate((r, c) for r in edges for c in edges):
        regions[rows, columns] = number
    count = size // window
    windows = regions.reshape(count, window, count, window).transpose(0, 2, 1, 3)
    flat = windows.reshape(count**2, window**2)
    return np.where(flat[:, None] == flat[:, :, None], 0, -100).astype(np.float32)
