"""The network that is tuned: its module, its graph, and how it travels to the measuring worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.errors import ConfigError, ModelFileError
from tvm_costmodel.files import write_atomically
from tvm_costmodel.frontends.tvm_generation import require_relax, require_relay
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.profiling.sources import FileSource

if TYPE_CHECKING:
    from tvm import IRModule

_REQUIRED: Mapping[str, Callable[[], None]] = {"relax": require_relax, "relay": require_relay}
"""What refuses an installation that does not have a compiler."""


@dataclass(frozen=True)
class Subject:
    """A network to tune.

    Attributes:
        module: Its Relax or Relay module.
        graph: Its operators before any pass, whose ids decisions name.
        path: The file that it came from; None for a module that was in memory.
        shapes: Shapes of its dynamic inputs.
        compiler: What compiles it, ``relax`` or ``relay``.
    """

    module: IRModule
    graph: OpGraph
    path: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    compiler: str = "relax"

    @classmethod
    def of(
        cls,
        model: IRModule | str | os.PathLike[str],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        compiler: str = "relax",
    ) -> Subject:
        """Reads a model.

        Args:
            model: A module of the compiler with its weights as constants, or a file that
                `tvm_costmodel.frontends.load_model` (or ``load_relay_model``) reads.
            shapes: Input name -> shape, for dynamic inputs of a file.
            compiler: What compiles it, ``relax`` or ``relay``.

        Raises:
            ConfigError: There is no such compiler.
            MissingDependencyError: The installed TVM does not have it.
            ModelFileError: The file cannot be read or holds no program.
            UnsupportedOperatorError: The importer does not know an operator.
            GraphError: The network has dimensions unknown until run time.
        """
        if compiler not in _REQUIRED:
            raise ConfigError(f"unknown compiler {compiler!r}; use {' or '.join(_REQUIRED)}")
        _REQUIRED[compiler]()
        if not isinstance(model, str | os.PathLike):
            return _in_memory(model, compiler)
        from tvm_costmodel.frontends import load_model, load_relay_model

        loaded = (load_relay_model if compiler == "relay" else load_model)(model, shapes)
        if loaded.module is None:
            raise ModelFileError(
                f"{os.fspath(model)} holds a graph without weights, which cannot be compiled; "
                "give the .onnx, .pt2 or module that it was exported from"
            )
        path, fixed = os.fspath(model), dict(shapes or {})
        return cls(loaded.module, loaded.graph, path, fixed, compiler)

    @property
    def name(self) -> str:
        """What reports call it."""
        return Path(self.path).name if self.path else self.graph.name or self.graph.hash[:12]

    def source(self, folder: Path) -> FileSource:
        """The network for a worker; a module in memory is written below ``folder``.

        The file stays beside the store, so that its rows can be measured again.
        """
        if self.path is not None:
            path = os.path.abspath(self.path)
            return FileSource(path, dict(self.shapes), compiler=self.compiler)
        import tvm

        made = folder / "networks" / f"{self.graph.hash}.json"
        write_atomically(made, tvm.ir.save_json(self.module))
        return FileSource(str(made.resolve()), compiler=self.compiler)


def _in_memory(module: IRModule, compiler: str) -> Subject:
    if compiler == "relay":
        from tvm_costmodel.frontends.relay import from_relay, with_types

        module = with_types(module)
        return Subject(module, from_relay(module), compiler=compiler)
    from tvm_costmodel.frontends.relax import from_relax

    return Subject(module, from_relax(module))
