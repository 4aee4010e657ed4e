"""The network that is tuned: its module, its graph, and how it travels to the measuring worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.compilers.registry import DEFAULT_COMPILER, known_compiler
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.sources import FileSource

if TYPE_CHECKING:
    from tvm import IRModule


_ALL = 1 << 30
"""As a number of inputs: every parameter of a function is one."""


@dataclass(frozen=True)
class TuneTask:
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
    compiler: str = DEFAULT_COMPILER

    @classmethod
    def of(
        cls,
        model: IRModule | str | os.PathLike[str],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        compiler: str = DEFAULT_COMPILER,
    ) -> TuneTask:
        """Reads a model.

        Args:
            model: A module of the compiler with its weights as constants, or a file that
                the compiler's ``load_model`` reads.
            shapes: Input name -> shape, for dynamic inputs of a file.
            compiler: What compiles it, ``relax`` or ``relay``.

        Raises:
            ConfigError: There is no such compiler.
            MissingDependencyError: The installed TVM does not have it.
            ModelFileError: The file cannot be read or holds no program.
            UnsupportedOperatorError: The importer does not know an operator.
            GraphError: The network has dimensions unknown until run time.
        """
        reader = known_compiler(compiler)
        reader.require()
        if not isinstance(model, str | os.PathLike):
            module, graph = reader.module_graph(model)
            return cls(module, graph, compiler=compiler)
        loaded = reader.load_model(model, shapes)
        if loaded.module is None:
            raise ModelFileError(
                f"{os.fspath(model)} holds a graph without weights, which cannot be compiled; "
                "give the .onnx, .pt2 or module that it was exported from"
            )
        path, fixed = os.fspath(model), dict(shapes or {})
        return cls(loaded.module, loaded.graph, path, fixed, compiler)

    @property
    def name(self) -> str:
        """Its name in reports."""
        return Path(self.path).name if self.path else self.graph.name or self.graph.hash[:12]

    def runtime_weights(self) -> frozenset[int]:
        """Ids of convolutions and matrix products whose weights are parameters of the module.

        Such weights are passed at run time, so that no build can transform them.
        """
        if self.compiler != DEFAULT_COMPILER:
            return frozenset()
        from tvm_costmodel.frontends.relax.export import from_relax
        from tvm_costmodel.graph_passes.tunable_ops import tunable_operators

        every_input = from_relax(self.module, num_inputs=_ALL)
        passed: set[int] = set()
        unfolded = tunable_operators(every_input)
        for name, ids in tunable_operators(self.graph).items():
            others = unfolded.get(name, [])
            if len(others) != len(ids):  # what depends on parameters alone is an operator now
                passed.update(ids)
                continue
            weights = [every_input.operators[other].weights for other in others]
            passed.update(i for i, held in zip(ids, weights, strict=True) if not held)
        return frozenset(i for i in passed if self.graph.operators[i].weights)

    def source(self, folder: Path) -> FileSource:
        """The network for a worker; a module in memory is written below ``folder``.

        The file stays next to the store, so that its rows can be measured again.
        """
        if self.path is not None:
            path = os.path.abspath(self.path)
            return FileSource(path, dict(self.shapes), compiler=self.compiler)
        import tvm

        file = folder / "networks" / f"{self.graph.hash}.json"
        write_atomically(file, tvm.ir.save_json(self.module))
        return FileSource(str(file.resolve()), compiler=self.compiler)
