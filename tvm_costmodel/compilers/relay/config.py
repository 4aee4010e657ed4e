"""The graph-level decisions of a Relay build."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.json_config import JsonConfig

RELAY_PIPELINE_VERSION = 1
"""Part of ``RelayConfig.key``, which names the format of that key: it stays. Builds have
the versions of `tvm_costmodel.compilers.components`."""

_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "opt_level": (0, 1, 2, 3, 4),
    "layout": ("imported", "NHWC", "NCHW"),
    "combine_dense": ("apart", "flat", "batch"),
    "precision": ("float32", "float16"),
}
_MAX_FUSE_DEPTH = 256


@dataclasses.dataclass(frozen=True)
class RelayConfig(JsonConfig):
    """The graph-level decisions of a Relay build.

    Attributes:
        opt_level: Optimisation level of ``PassContext``; passes above it are left out.
        alter_layout: Whether AlterOpLayout packs the channels of convolutions and dense layers.
        fuse_depth: Most operators of one kernel; 0 for Relay's own limit of 256.
        layout: Layout that ConvertLayout brings convolutions to; ``imported`` leaves them.
        fast_math: Whether exponentials, tanh and erf are approximated.
        canonicalize_ops: Whether CanonicalizeOps writes bias additions as plain ones.
        combine_dense: Whether dense layers of one input stay separate (``apart``), become one by
            concatenating their weights (``flat``), or become one batched matmul (``batch``).
        combine_conv2d: Whether convolutions of one input become one.
        combine_matmul: Whether batched matmuls of one input become one.
        precision: ``float16`` computes in half precision where Relay considers it safe.
        random_constants: Whether expressions of constants alone are replaced by random constants
            of their type, which builds two to three times as fast and runs the same kernels; the
            outputs then mean nothing, so it is for measuring latency alone.
    """

    title = "the Relay build's config"

    opt_level: int = 3
    alter_layout: bool = True
    fuse_depth: int = 0
    layout: str = "imported"
    fast_math: bool = False
    canonicalize_ops: bool = True
    combine_dense: str = "apart"
    combine_conv2d: bool = False
    combine_matmul: bool = False
    precision: str = "float32"
    random_constants: bool = False

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ConfigError: A field is out of range.
        """
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; use one of {', '.join(map(str, allowed))}")
        if not 0 <= self.fuse_depth <= _MAX_FUSE_DEPTH:
            raise ConfigError(
                f"fuse_depth is {self.fuse_depth}; use 1 to {_MAX_FUSE_DEPTH}, or 0 for no limit"
            )

    @property
    def key(self) -> str:
        """16 hexadecimal characters that change with any field and with the key's format."""
        versions = {"relay": RELAY_PIPELINE_VERSION}
        text = json.dumps({"config": self.to_dict(), "versions": versions}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
