"""The network that is tuned: where its module comes from, and how it travels to the worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.compilers.registry import DEFAULT_COMPILER, known_compiler
from tvm_costmodel.errors import BadRowError, GraphError, ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.measuring.record import measurement_key
from tvm_costmodel.profiling.sources import FileSource

if TYPE_CHECKING:
    from tvm import IRModule

    from tvm_costmodel.profiling.store.store import Store


@dataclass(frozen=True)
class TuneTask:
    """A network to tune.

    A file is read once, by the worker that builds it; this program reads it only where it has to
    compile the network itself.

    Attributes:
        held: The Relax or Relay module and its graph, where it is in memory.
        path: The file, where it is one.
        shapes: Shapes of the file's dynamic inputs.
        compiler: What compiles it, ``relax`` or ``relay``.
    """

    held: tuple[IRModule, OpGraph] | None = None
    path: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    compiler: str = DEFAULT_COMPILER

    @classmethod
    def of(
        cls,
        model: IRModule | str | os.PathLike[str],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        compiler: str = DEFAULT_COMPILER,
    ) -> TuneTask:
        """The task of a model.

        Args:
            model: A module of the compiler with its weights as constants, or a file that
                the compiler's ``load_model`` reads.
            shapes: Input name -> shape, for dynamic inputs of a file.
            compiler: What compiles it, ``relax`` or ``relay``.

        Raises:
            ConfigError: There is no such compiler.
            MissingDependencyError: The installed TVM does not have it.
            GraphError: A module has dimensions unknown until run time.
        """
        reader = known_compiler(compiler)
        reader.require()
        if not isinstance(model, str | os.PathLike):
            return cls(reader.module_graph(model), compiler=compiler)
        return cls(None, os.path.abspath(model), dict(shapes or {}), compiler)

    @property
    def graph_hash(self) -> str:
        """Content hash of its graph before any pass; empty for a file, which was not read yet."""
        return self.held[1].hash if self.held is not None else ""

    def module(self, graph_hash: str) -> IRModule:
        """The module, for a compilation in this program.

        Args:
            graph_hash: The graph that was tuned, whose operators the decisions name by their ids.

        Raises:
            ModelFileError: The file cannot be read, or holds another network than was tuned.
        """
        if self.held is not None:
            return self.held[0]
        module, graph = self._file().load()
        if graph.hash != graph_hash:
            raise ModelFileError(
                f"{self.path} holds graph {graph.hash} now, and {graph_hash} was tuned: the file "
                "changed meanwhile; tune it again"
            )
        return module

    def name(self, graph: OpGraph) -> str:
        """Its name in reports."""
        return Path(self.path).name if self.path else graph.name or graph.hash[:12]

    def source(self, folder: Path) -> FileSource:
        """The network for a worker; a module in memory is written below ``folder``.

        The file stays next to the store, so that its rows can be measured again.
        """
        if self.held is None:
            return self._file()
        import tvm

        file = folder / "networks" / f"{self.graph_hash}.json"
        write_atomically(file, tvm.ir.save_json(self.held[0]))
        return FileSource(str(file.resolve()), compiler=self.compiler)

    def graph_in(self, store: Store, device: str, pipeline_key: str) -> OpGraph | None:
        """Its graph as far as it is known without reading a file: from memory or from a store."""
        if self.held is not None:
            return self.held[1]
        graph_hash = store.graph_of_source(self._file().key)
        if not graph_hash:
            return None
        try:
            row = store.get(measurement_key(graph_hash, device, pipeline_key), kernels=False)
            return OpGraph.from_json(row.graph) if row is not None else None
        except (BadRowError, GraphError):  # the model's own file will tell
            return None

    def _file(self) -> FileSource:
        return FileSource(self.path, self.shapes, compiler=self.compiler)
