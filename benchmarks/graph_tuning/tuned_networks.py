"""The networks that tuning is benchmarked on, as ONNX files with random weights.

The sixteen of `modern_networks`; with ``--networks kin`` eleven whose kernels labelled networks
have too: the nine that ship inside the ``onnx`` package, a vision transformer and a sequence
encoder; for tests two small ones. None of them may be among the labels that the shipped predictors
learned from, which `refuse_trained` checks by content hash.

Not a benchmark itself; those in this folder share it.
"""

from __future__ import annotations

import lzma
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.compiler.export_timing import light
from benchmarks.graph_tuning.modern_networks import MODERN
from tvm_costmodel import profiling
from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.frontends import from_json, load_model
from tvm_costmodel.frontends.onnx.reader import read_onnx
from tvm_costmodel.frontends.onnx.weights import randomise_weights
from tvm_costmodel.graph.op_graph import OpGraph

LABELS = Path(profiling.__file__).parent / "labels"
ONNX_NETWORKS = (
    "bvlc_alexnet densenet121 inception_v1 inception_v2 resnet50 shufflenet squeezenet vgg19 "
    "zfnet512"
).split()


class Block(nn.Module):
    """Attention and feed-forward with residuals; layer norm before (pre) or after each."""

    def __init__(self, width: int, heads: int, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.norm_first = heads, norm_first
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, T, D] -> [N, T, D]``."""
        n, t, d = x.shape
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (y.view(n, t, self.heads, d // self.heads).transpose(1, 2) for y in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v)  # [N, H, T, D / H]
        return self.out(y.transpose(1, 2).reshape(n, t, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, T, D] -> [N, T, D]``."""
        if self.norm_first:
            x = x + self.attention(self.norms[0](x))
            return x + self.inner(self.norms[1](x))
        x = self.norms[0](x + self.attention(x))
        return self.norms[1](x + self.inner(x))


class VisionTransformer(nn.Module):
    """Patches of 16 pixels, position embedding, pre-norm blocks, mean over tokens, classifier."""

    def __init__(self, image: int, width: int, heads: int, depth: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.positions = nn.Parameter(torch.randn(1, (image // 16) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[1, 3, image, image] -> [1, classes]``."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions  # [1, T, D]
        return self.head(self.norm(self.blocks(x)).mean(1))


def _vit(image: int, width: int, heads: int, depth: int) -> tuple[nn.Module, tuple[int, ...]]:
    return VisionTransformer(image, width, heads, depth, 1000), (1, 3, image, image)


def _encoder(tokens: int, width: int, heads: int, depth: int) -> tuple[nn.Module, tuple[int, ...]]:
    blocks = (Block(width, heads, False) for _ in range(depth))
    return nn.Sequential(*blocks), (1, tokens, width)


def _convolutions(image: int) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU()), (1, 3, image, image)


TORCH_NETWORKS = {
    "vit": lambda: _vit(160, 320, 5, 7),
    "encoder": lambda: _encoder(80, 320, 5, 5),
}
QUICK_NETWORKS = {
    "two_convolutions": lambda: _convolutions(14),
    "small_encoder": lambda: _encoder(8, 32, 2, 1),
}
SETS = {"modern": tuple(MODERN), "kin": (*ONNX_NETWORKS, *TORCH_NETWORKS)}
"""Names of networks by the name of the set."""
NETWORKS = SETS["modern"]


def torch_network(name: str) -> tuple[nn.Module, tuple[int, ...]] | None:
    """A network that is written here, in evaluation mode, and its input's shape.

    Returns:
        None for those of the ``onnx`` package, which come as ONNX alone.
    """
    maker = {**TORCH_NETWORKS, **QUICK_NETWORKS}.get(name)
    if maker is None and name not in MODERN:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, shape = maker() if maker else (MODERN[name][0](), MODERN[name][1])
        if maker is None:  # some start with weights that make every output 0
            for layer in (m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight)
        for norm in (m for m in network.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1.0, 0.1)  # equal weights would be exported as one
            nn.init.normal_(norm.bias, 0.0, 0.1)
    return network.eval(), shape


def write_networks(folder: Path, names: Sequence[str]) -> None:
    """Writes each network as ``NAME.onnx`` and its graph before any pass as ``NAME.json``.

    Files that are there are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.onnx"
        if not path.exists():
            write_atomically(path, _onnx_bytes(name, folder))
        graph = folder / f"{name}.json"
        if not graph.exists():
            write_atomically(graph, load_model(path).graph.to_json())


def read_graphs(folder: Path, names: Sequence[str]) -> dict[str, OpGraph]:
    """Graphs before any pass, as `write_networks` left them."""
    return {name: from_json((folder / f"{name}.json").read_text()) for name in names}


def refuse_trained(graphs: Mapping[str, OpGraph], labels: Path = LABELS) -> int:
    """Checks that none of the networks is labelled.

    Args:
        graphs: The networks by name.
        labels: Folder of exported labels.

    Returns:
        How many labelled networks they were compared with.

    Raises:
        SystemExit: A network is among them.
    """
    known = labelled_hashes(labels)
    labelled = [name for name, graph in graphs.items() if graph.hash in known]
    if labelled:
        raise SystemExit(f"{', '.join(labelled)}: {labels} holds labels of this very network")
    return len(known)


def labelled_hashes(labels: Path = LABELS) -> set[str]:
    """Content hashes of all networks in a folder of exported labels, those with variants too."""
    hashes = set()
    for path in sorted(labels.glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:  # canonical JSON, which takes long to parse
                hashes.update(re.findall(r'"graph_hash":"(\w+)"', line))
    return hashes


def input_of(shape: Sequence[int]) -> torch.Tensor:
    """A random input of a network that is written in torch: images, or token ids."""
    return torch.randint(0, 1000, tuple(shape)) if len(shape) == 2 else torch.randn(tuple(shape))


def _onnx_bytes(name: str, folder: Path) -> bytes:
    written = torch_network(name)
    if written is None:
        model = read_onnx(light(name))
        return randomise_weights(model).SerializeToString()
    network, shape = written
    scratch = folder / f".{name}.part"
    # the exporter that needs no further package
    settings: dict[str, Any] = {"dynamo": False, "opset_version": 17, "input_names": ["x"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its being the older one
        torch.onnx.export(network, (input_of(shape),), str(scratch), **settings)
    content = scratch.read_bytes()
    scratch.unlink()
    return content
