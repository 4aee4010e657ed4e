"""Sixteen networks as people deploy them, few of whose kernels any label holds.

Published configurations with random weights on images of unusual sizes, so that kernels are new
even where a family is labelled; most of them built by ``transformers``
(``pip install transformers==5.24.0``), the others written here. `tuned_networks` exports them.

Not a benchmark itself; those in this folder share it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class FirstOutput(nn.Module):
    """A model of ``transformers`` that returns its first output alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input's shape depends on the model."""
        return self.model(x, return_dict=False)[0]


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, batch norm and SiLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Split(nn.Module):
    """YOLOv8's C2f: halves, a chain of residual bottlenecks on one, all of them joined."""

    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.half, self.residual = half, residual
        self.enter = convolution(inputs, outputs, 1)
        self.chain = nn.ModuleList(
            nn.Sequential(convolution(half, half), convolution(half, half)) for _ in range(depth)
        )
        self.leave = convolution((2 + depth) * half, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, inputs, H, W] -> [N, outputs, H, W]``."""
        parts = list(self.enter(x).split(self.half, 1))
        for block in self.chain:
            y = block(parts[-1])
            parts.append(parts[-1] + y if self.residual else y)
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """A detector like YOLOv8n: backbone of five scales, pyramid up and down, three heads."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 16, 3, 2), convolution(16, 32, 3, 2), Split(32, 32, 1)
        )
        self.down8 = nn.Sequential(convolution(32, 64, 3, 2), Split(64, 64, 2))
        self.down16 = nn.Sequential(convolution(64, 128, 3, 2), Split(128, 128, 2))
        self.down32 = nn.Sequential(convolution(128, 256, 3, 2), Split(256, 256, 1))
        self.squeeze, self.expand = convolution(256, 128, 1), convolution(512, 256, 1)
        self.up16, self.up8 = Split(384, 128, 1, False), Split(192, 64, 1, False)
        self.step16, self.step32 = convolution(64, 64, 3, 2), convolution(128, 128, 3, 2)
        self.fuse16, self.fuse32 = Split(192, 128, 1, False), Split(384, 256, 1, False)
        self.heads = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(convolution(c, w), convolution(w, w), nn.Conv2d(w, outputs, 1))
                for w, outputs in ((64, 64), (80, classes))
            )
            for c in (64, 128, 256)
        )

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Spatial pyramid pooling: three maxima of 5x5, one after the other."""
        parts = [self.squeeze(x)]
        for _ in range(3):
            parts.append(nn.functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.expand(torch.cat(parts, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[1, 3, S, S] -> [1, 64 + classes, boxes]``."""
        x8 = self.down8(self.stem(x))
        x16 = self.down16(x8)
        x32 = self._pooled(self.down32(x16))
        twice = nn.Upsample(scale_factor=2)
        up16 = self.up16(torch.cat([twice(x32), x16], 1))
        out8 = self.up8(torch.cat([twice(up16), x8], 1))
        out16 = self.fuse16(torch.cat([self.step16(out8), up16], 1))
        out32 = self.fuse32(torch.cat([self.step32(out16), x32], 1))
        scales = zip((out8, out16, out32), self.heads, strict=True)
        boxes = [torch.cat([head(y) for head in heads], 1).flatten(2) for y, heads in scales]
        return torch.cat(boxes, 2)


class UNet(nn.Module):
    """Four scales down and up, with upsampling by Resize and skip connections."""

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width << i for i in range(depth)]
        self.down = nn.ModuleList(
            nn.Sequential(self._layer(a, b), self._layer(b, b))
            for a, b in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(self._layer(a + b, b), self._layer(b, b))
            for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(width, 2, 1)

    @staticmethod
    def _layer(inputs: int, outputs: int) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[1, 3, S, S] -> [1, 2, S, S]``."""
        skipped: list[torch.Tensor] = []
        for i, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if i else x)
            skipped.append(x)
        for block, skip in zip(self.up, skipped[-2::-1], strict=True):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = block(torch.cat([x, skip], 1))
        return self.last(x)


class Decoder(nn.Module):
    """A causal decoder as GPT-2 has it: pre-norm blocks, learned positions, tied embedding."""

    def __init__(self, tokens: int, width: int, heads: int, depth: int, words: int) -> None:
        super().__init__()
        self.heads = heads
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(tokens, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.inner = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
            for _ in range(depth)
        )
        self.parts = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.register_buffer("order", torch.arange(tokens)[None])
        self.register_buffer("mask", torch.full((tokens, tokens), -1e9).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """int64 ``[1, T]`` -> ``[1, T, words]``."""
        y = self.words(x) + self.positions(self.order)
        n, t, d = y.shape
        for i, (parts, out, inner) in enumerate(zip(self.parts, self.out, self.inner, strict=True)):
            split = parts(self.norms[2 * i](y)).view(n, t, 3, self.heads, d // self.heads)
            q, k, v = split.permute(2, 0, 3, 1, 4)
            weights = q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5 + self.mask
            y = y + out((weights.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))
            y = y + inner(self.norms[2 * i + 1](y))
        return self.norms[-1](y) @ self.words.weight.T


def _published(kind: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    """A model of ``transformers`` by class and configuration, otherwise as it is published."""

    def make() -> nn.Module:
        import transformers

        configured = getattr(transformers, config)(attn_implementation="eager", **settings)
        return FirstOutput(getattr(transformers, kind)(configured))

    return make


def _whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6}
    settings = WhisperConfig(**sizes, encoder_ffn_dim=1536, attn_implementation="eager")
    return FirstOutput(WhisperEncoder(settings))


_IMAGE, _LARGE = (1, 3, 236, 236), (1, 3, 308, 308)
_LABELS = {"num_labels": 1000}

MODERN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobilenet_v2": (
        _published("MobileNetV2ForImageClassification", "MobileNetV2Config", **_LABELS), _IMAGE
    ),
    "efficientnet_b0": (
        _published(
            "EfficientNetForImageClassification", "EfficientNetConfig", **_LABELS, image_size=308,
            width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
        ), _LARGE,
    ),
    "resnet18": (
        _published(
            "ResNetForImageClassification", "ResNetConfig", **_LABELS, layer_type="basic",
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
        ), (1, 3, 340, 340),
    ),
    "regnet_y": (
        _published(
            "RegNetForImageClassification", "RegNetConfig", **_LABELS, groups_width=8,
            hidden_sizes=[48, 104, 208, 440], depths=[1, 3, 6, 6],
        ), _IMAGE,
    ),
    "convnext_tiny": (
        _published("ConvNextForImageClassification", "ConvNextConfig", **_LABELS), _LARGE
    ),
    "mobilevit_xs": (
        _published(
            "MobileViTForImageClassification", "MobileViTConfig", **_LABELS,
            hidden_sizes=[96, 120, 144], neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 384],
        ), (1, 3, 264, 264),
    ),
    "poolformer_s12": (
        _published("PoolFormerForImageClassification", "PoolFormerConfig", **_LABELS), _IMAGE
    ),
    "segformer_b0": (
        _published("SegformerForSemanticSegmentation", "SegformerConfig", num_labels=150),
        (1, 3, 264, 264),
    ),
    "pvt_v2_b0": (
        _published("PvtV2ForImageClassification", "PvtV2Config", **_LABELS, image_size=236), _IMAGE
    ),
    "swin_tiny": (
        _published("SwinForImageClassification", "SwinConfig", **_LABELS), _IMAGE
    ),
    "deit_tiny": (
        _published(
            "ViTForImageClassification", "ViTConfig", **_LABELS, hidden_size=192,
            num_attention_heads=3, intermediate_size=768, image_size=240,
        ), (1, 3, 240, 240),
    ),
    "bert4": (_published("BertModel", "BertConfig", num_hidden_layers=4), (1, 112)),
    "whisper_tiny_encoder": (_whisper, (1, 80, 3000)),
    "decoder": (lambda: Decoder(77, 768, 12, 6, 50257), (1, 77)),
    "yolov8n": (Detector, (1, 3, 416, 416)),
    "unet": (UNet, (1, 3, 184, 184)),
}  # fmt: skip
"""Each network's maker and the shape of its input; token ids where that has two dimensions."""
