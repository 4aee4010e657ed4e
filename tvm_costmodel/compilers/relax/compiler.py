"""The `Compiler` object of Relax; holding it imports no TVM."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm_costmodel.compilers.compiler import PipelineDescription, TensorSpec
from tvm_costmodel.tvm_version import has_relax, require_relax

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from tvm_costmodel.compilers.build_result import Difference
    from tvm_costmodel.compilers.relax.build_module import BuildResult
    from tvm_costmodel.compilers.relax.config import PipelineConfig
    from tvm_costmodel.frontends.model_files import LoadedModel
    from tvm_costmodel.graph.op_graph import OpGraph


class RelaxCompiler:
    """Relax of TVM 0.20 and later, with the CPU schedule rule; see `Compiler` for the members."""

    __slots__ = ()

    name = "relax"
    executor = "virtual_machine"
    label_pipeline: Mapping[str, Any] | None = None

    def is_installed(self) -> bool:
        """Whether the installed TVM has the Relax that this package reads."""
        return has_relax()

    def require(self) -> None:
        """Refuses a missing TVM, and one of Relay's generation."""
        require_relax()

    def load_model(
        self, path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> LoadedModel:
        """Reads an ONNX model, a ``.pt2`` archive, a Relax module's JSON or an OpGraph's."""
        from tvm_costmodel.frontends.model_files import load_model

        return load_model(path, shapes)

    def module_graph(self, module: tvm.IRModule) -> tuple[tvm.IRModule, OpGraph]:
        """The module as it is, and its graph."""
        from tvm_costmodel.frontends.relax.export import from_relax

        return module, from_relax(module)

    def config(self, fields: Mapping[str, Any] | None = None) -> PipelineConfig:
        """A ``PipelineConfig``."""
        from tvm_costmodel.compilers.relax.config import PipelineConfig

        return PipelineConfig.from_dict(fields or {})

    def describe(self, config: PipelineConfig) -> PipelineDescription:
        """The key and fields of a config, and the versions of the pipeline and schedule rule."""
        from tvm_costmodel.compilers.cpu_rule import RULE_VERSION
        from tvm_costmodel.compilers.relax.config import PIPELINE_VERSION

        return {
            "pipeline_key": config.key,
            "pipeline": {
                "config": config.to_dict(),
                "pipeline_version": PIPELINE_VERSION,
                "rule_version": RULE_VERSION,
            },
        }

    def cpu_target(self, threads: int = 1, mcpu: str | None = None) -> tvm.target.Target:
        """An LLVM target."""
        from tvm_costmodel.compilers.relax.target import cpu_target

        return cpu_target(threads, mcpu)

    def build(
        self,
        module: tvm.IRModule,
        target: tvm.target.Target,
        config: PipelineConfig | None = None,
    ) -> BuildResult:
        """Compiles a Relax module with its weights bound as constants."""
        from tvm_costmodel.compilers.relax.build_module import build

        return build(module, target, config)

    def variant_builder(self) -> Callable[..., BuildResult]:
        """A `build` for variants of one network, which compiles equal kernels once."""
        if type(self).build is not RelaxCompiler.build:
            return self.build  # of a compiler of one's own
        from tvm_costmodel.compilers.relax.build_module import build
        from tvm_costmodel.compilers.relax.shared_kernels import SharedKernels

        return partial(build, shared=SharedKernels())

    def input_specs(self, module: tvm.IRModule) -> list[TensorSpec]:
        """(shape, dtype) of each parameter of ``main``."""
        from tvm_costmodel.compilers.relax.verification import input_specs

        return input_specs(module)

    def verify(
        self,
        build: BuildResult,
        reference: BuildResult,
        inputs: Sequence[np.ndarray],
        rtol: float = 1e-3,
        atol: float = 1e-5,
    ) -> Difference:
        """Runs both builds in virtual machines."""
        from tvm_costmodel.compilers.relax.verification import verify

        return verify(build.executable, reference.executable, inputs, rtol, atol)


RELAX = RelaxCompiler()
