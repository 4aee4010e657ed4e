"""The `Compiler` object of Relay; holding it imports no TVM."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tvm_costmodel.compilers.compiler import PipelineDescription, TensorSpec
from tvm_costmodel.compilers.relay import PIPELINE_VERSION, RULE_VERSION, RelayConfig
from tvm_costmodel.tvm_version import has_relay, require_relay

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from tvm_costmodel.compilers.build_result import Difference
    from tvm_costmodel.compilers.relay.build_module import BuildResult
    from tvm_costmodel.frontends.model_files import LoadedModel
    from tvm_costmodel.graph.op_graph import OpGraph


class RelayCompiler:
    """Relay of TVM up to 0.19, with its own schedules; see `Compiler` for the members.

    A Relay build spends most of its time on the values of weights, which latency does not depend
    on: networks that are only timed are built with random constants.
    """

    __slots__ = ()

    name = "relay"
    executor = "graph_executor"
    label_pipeline: Mapping[str, Any] | None = MappingProxyType({"random_constants": True})

    def is_installed(self) -> bool:
        """Whether the installed TVM has Relay."""
        return has_relay()

    def require(self) -> None:
        """Refuses a missing TVM, and one of the generation after Relay."""
        require_relay()

    def load_model(
        self, path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> LoadedModel:
        """Reads an ONNX model, a Relay module's JSON or an OpGraph's."""
        from tvm_costmodel.frontends.relay.model_files import load_relay_model

        return load_relay_model(path, shapes)

    def module_graph(self, module: tvm.IRModule) -> tuple[tvm.IRModule, OpGraph]:
        """The module with its types inferred, and its graph."""
        from tvm_costmodel.frontends.relay.export import from_relay, with_types

        typed = with_types(module)
        return typed, from_relay(typed)

    def config(self, fields: Mapping[str, Any] | None = None) -> RelayConfig:
        """A ``RelayConfig``."""
        return RelayConfig.from_dict(fields or {})

    def describe(self, config: RelayConfig) -> PipelineDescription:
        """The key and fields of a config, and this package's version of Relay builds."""
        return {
            "pipeline_key": config.key,
            "pipeline": {
                "config": config.to_dict(),
                "pipeline_version": PIPELINE_VERSION,
                "rule_version": RULE_VERSION,
            },
        }

    def cpu_target(self, threads: int = 1, mcpu: str | None = None) -> tvm.target.Target:
        """An LLVM target for this machine's architecture."""
        from tvm_costmodel.compilers.relay.target import cpu_target

        return cpu_target(threads, mcpu)

    def build(
        self, module: tvm.IRModule, target: tvm.target.Target, config: RelayConfig | None = None
    ) -> BuildResult:
        """Compiles a typed Relay module with its weights bound as constants."""
        from tvm_costmodel.compilers.relay.build_module import build

        return build(module, target, config)

    def variant_builder(self) -> Callable[..., BuildResult]:
        """`build` itself."""
        return self.build

    def input_specs(self, module: tvm.IRModule) -> list[TensorSpec]:
        """(shape, dtype) of each parameter of ``main``."""
        from tvm_costmodel.compilers.relay.verification import input_specs

        return input_specs(module)

    def verify(
        self,
        build: BuildResult,
        reference: BuildResult,
        inputs: Sequence[np.ndarray],
        rtol: float = 1e-3,
        atol: float = 1e-5,
    ) -> Difference:
        """Runs both builds in graph executors."""
        from tvm_costmodel.compilers.relay.verification import verify

        return verify(build, reference, inputs, rtol, atol)


RELAY = RelayCompiler()
