"""All families, and the suites drawn from them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tvm_costmodel.errors import ConfigError, require_known
from tvm_costmodel.profiling.workloads import (
    alexnet_vgg,
    densenet,
    inception,
    mobilenet,
    mobilenet_searched,
    nasbench201,
    regnet_convnext,
    resnet,
    shufflenet,
    squeezenet,
    transformer,
)
from tvm_costmodel.profiling.workloads.family import Family, Params

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            resnet.RESNET,
            resnet.RESNET_BOTTLENECK,
            alexnet_vgg.VGG,
            alexnet_vgg.ALEXNET,
            squeezenet.SQUEEZENET,
            inception.GOOGLENET,
            inception.INCEPTION_V2,
            densenet.DENSENET,
            mobilenet.MOBILENET_V1,
            mobilenet.MOBILENET_V2,
            mobilenet_searched.MOBILENET_V3,
            mobilenet_searched.MNASNET,
            mobilenet_searched.EFFICIENTNET,
            shufflenet.SHUFFLENET_V1,
            shufflenet.SHUFFLENET_V2,
            nasbench201.NASBENCH201,
            regnet_convnext.REGNET,
            regnet_convnext.CONVNEXT,
            transformer.VIT,
            transformer.ENCODER,
            transformer.MIXER,
        )
    }
)


def suite_names() -> tuple[str, ...]:
    """Suites that exist: "default", "quick" and one per family."""
    return ("default", "quick", *FAMILIES)


def sample_suite(
    name: str, count: int, seed: int = 0, families: Sequence[str] = ()
) -> Iterator[tuple[str, Params]]:
    """Draws ``count`` networks, one family after the other.

    The draws of a family depend on the seed and the family alone, so that a longer suite starts
    with the shorter one's networks.

    Args:
        name: "default" (all families), "quick" (all families, tiny networks) or a family's name.
        count: How many networks.
        seed: Equal seeds give equal networks.
        families: Only these families of the suite; all of them when empty.

    Yields:
        Family name and parameters.

    Raises:
        ConfigError: No suite has this name, or the suite no such family.
    """
    if name not in suite_names():
        raise ConfigError(f"unknown suite {name!r}; choose one of: {', '.join(suite_names())}")
    names = [name] if name in FAMILIES else list(FAMILIES)
    require_known(families, names, f"families of the suite {name!r}")
    chosen = [FAMILIES[family] for family in names if not families or family in families]
    size = "tiny" if name == "quick" else None
    rngs = [np.random.default_rng([seed, zlib.crc32(f.name.encode())]) for f in chosen]
    for i in range(count):
        family = chosen[i % len(chosen)]
        yield family.name, family.sample(rngs[i % len(chosen)], size)
