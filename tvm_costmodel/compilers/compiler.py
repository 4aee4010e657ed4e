"""What a compiler is: it reads models, builds networks for a target, and compares its builds.

The members of `Compiler` are all that profiling, tuning and the commands ask of one. What those
rooms need beyond it (runners, decisions, predictors) they keep in tables of their own, keyed by
``Compiler.name`` or ``Compiler.executor``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from tvm_costmodel.compilers.build_result import Difference, KernelUse
    from tvm_costmodel.frontends.model_files import LoadedModel
    from tvm_costmodel.graph.op_graph import OpGraph

TensorSpec = tuple[tuple[int, ...], str]
"""(shape, dtype) of one input of a network."""


class BuildConfig(Protocol):
    """The graph-level decisions of a build: a ``PipelineConfig`` or a ``RelayConfig``."""

    @property
    def key(self) -> str:
        """16 hexadecimal digits that change with any field."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, of which ``Compiler.config`` makes an equal one."""


class Build(Protocol):
    """A built network."""

    @property
    def executable(self) -> Any:
        """What the compiler's executor loads."""

    @property
    def kernels(self) -> tuple[KernelUse, ...]:
        """Every kernel, in the order of its first call."""

    @property
    def unscheduled(self) -> tuple[str, ...]:
        """``name: reason`` of each kernel that has no schedule of its own."""

    @property
    def components(self) -> Mapping[str, int]:
        """Versions of what it used, see `tvm_costmodel.compilers.components`."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent in each stage of the build."""

    @property
    def kernel_library(self) -> tvm.runtime.Module:
        """The library of compiled kernels; ``time_evaluator(kernel.name, device)`` times one."""

    def export(self, path: str | Path, cross_compiler: str = "") -> Path:
        """Writes the executable as a library: ``.so`` is linked, ``.tar`` holds object files.

        Raises:
            BuildError: It could not be written.
        """


class PipelineDescription(TypedDict):
    """What labels are stored under, as JSON values.

    ``pipeline_key`` is the config's key; ``pipeline`` is what a row keeps of it: the fields
    (``config``) and the versions of the key's format (``pipeline_version``, ``rule_version``).
    """

    pipeline_key: str
    pipeline: dict[str, Any]


class Compiler(Protocol):
    """A compiler of networks.

    An object of it is cheap to hold: its methods import TVM when they are called. Every ``config``
    is one that ``Compiler.config`` of the same compiler made.
    """

    @property
    def name(self) -> str:
        """How ``--compiler``, stores, sources and names of devices write it."""

    @property
    def executor(self) -> str:
        """What runs its libraries, a key of `tvm_costmodel.profiling.runners.executors`."""

    @property
    def label_pipeline(self) -> Mapping[str, Any] | None:
        """Fields of the config under which networks are built that are timed and nothing else.

        None where that is the default config; otherwise the outputs may mean nothing.
        """

    def is_installed(self) -> bool:
        """Whether the installed TVM has this compiler; TVM is not imported."""

    def require(self) -> None:
        """Refuses an installation without this compiler; TVM is not imported.

        Raises:
            MissingDependencyError: The message says what is installed and what would help.
        """

    def load_model(
        self, path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> LoadedModel:
        """Reads a model file as a graph and, unless the file holds only that, a module.

        Args:
            path: The file.
            shapes: Input name -> shape, for inputs with dynamic dimensions.

        Raises:
            ModelFileError: The file cannot be read or is of no accepted kind.
            UnsupportedOperatorError: The importer does not know an operator.
            GraphError: The file holds a malformed graph.
        """

    def module_graph(self, module: tvm.IRModule) -> tuple[tvm.IRModule, OpGraph]:
        """The module with the types that ``build`` needs, and its graph before any pass.

        Raises:
            GraphError: The module holds no network, or one of unknown dimensions.
        """

    def config(self, fields: Mapping[str, Any] | None = None) -> BuildConfig:
        """The config of these fields; absent fields take their defaults.

        Raises:
            ConfigError: A field is unknown or out of range.
        """

    def describe(self, config: Any) -> PipelineDescription:
        """A config's key, and what rows keep of it."""

    def cpu_target(self, threads: int = 1, mcpu: str | None = None) -> tvm.target.Target:
        """TVM's target for a CPU.

        Args:
            threads: Cores that a network may use.
            mcpu: LLVM's name of the processor; this machine's where absent.

        Raises:
            DeviceError: LLVM does not know the processor, or ``threads`` is not positive.
        """

    def build(self, module: tvm.IRModule, target: tvm.target.Target, config: Any = None) -> Build:
        """Compiles a network; with the default config where none is given.

        Raises:
            BuildError: A stage failed; the message names it.
        """

    def variant_builder(self) -> Callable[..., Build]:
        """A function like `build`, for several variants of one network.

        It may compile once what variants have in common.
        """
        return self.build

    def input_specs(self, module: tvm.IRModule) -> list[TensorSpec]:
        """(shape, dtype) of each input of a network.

        Raises:
            BuildError: A shape is not constant.
        """

    def verify(
        self,
        build: Any,
        reference: Any,
        inputs: Sequence[np.ndarray],
        rtol: float = 1e-3,
        atol: float = 1e-5,
    ) -> Difference:
        """Runs two builds of this compiler on the same inputs here and compares their outputs.

        Args:
            build: The build under test.
            reference: What it is compared with.
            inputs: One array for each of ``input_specs``.
            rtol: See `tvm_costmodel.compilers.build_result.compare_outputs`.
            atol: See `tvm_costmodel.compilers.build_result.compare_outputs`.
        """
