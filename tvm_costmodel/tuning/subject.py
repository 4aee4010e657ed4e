"""The network that is tuned: its module, its graph, and how it travels to the measuring worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.files import write_atomically
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.profiling.sources import FileSource

if TYPE_CHECKING:
    from tvm import IRModule


@dataclass(frozen=True)
class Subject:
    """A network to tune.

    Attributes:
        module: Its Relax module.
        graph: Its operators before any pass, whose ids decisions name.
        path: The file that it came from; None for a module that was in memory.
        shapes: Shapes of its dynamic inputs.
    """

    module: IRModule
    graph: OpGraph
    path: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: IRModule | str | os.PathLike[str],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Subject:
        """Reads a model.

        Args:
            model: A Relax module, or a file that `tvm_costmodel.frontends.load_model` reads.
            shapes: Input name -> shape, for dynamic inputs of a file.

        Raises:
            ModelFileError: The file cannot be read or holds no program.
            UnsupportedOperatorError: The importer does not know an operator.
            GraphError: The network has dimensions unknown until run time.
        """
        from tvm_costmodel.frontends import load_model
        from tvm_costmodel.frontends.relax import from_relax

        if not isinstance(model, str | os.PathLike):
            return cls(model, from_relax(model))
        loaded = load_model(model, shapes)
        if loaded.module is None:
            raise ModelFileError(
                f"{os.fspath(model)} holds a graph without weights, which cannot be compiled; "
                "give the .onnx, .pt2 or Relax module that it was exported from"
            )
        return cls(loaded.module, loaded.graph, os.fspath(model), dict(shapes or {}))

    @property
    def name(self) -> str:
        """What reports call it."""
        return Path(self.path).name if self.path else self.graph.name or self.graph.hash[:12]

    def source(self, folder: Path) -> FileSource:
        """The network for a worker; a module in memory is written below ``folder``.

        The file stays beside the store, so that its rows can be measured again.
        """
        if self.path is not None:
            return FileSource(os.path.abspath(self.path), dict(self.shapes))
        import tvm

        path = folder / "networks" / f"{self.graph.hash}.json"
        write_atomically(path, tvm.ir.save_json(self.module))
        return FileSource(str(path.resolve()))
