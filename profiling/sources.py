"""Where networks to measure come from: a sampled workload or a model file.

A source is a few JSON values. It travels to the worker process, which alone builds the network
from it, so the calling process never imports TVM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tvm_costmodel.bounded_reading import require_types
from tvm_costmodel.compilers.registry import DEFAULT_COMPILER, known_compiler
from tvm_costmodel.errors import ConfigError, ModelFileError
from tvm_costmodel.profiling.measuring.record import content_key

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.graph.op_graph import OpGraph

logger = logging.getLogger(__name__)


class Source(Protocol):
    """One network to measure."""

    @property
    def family(self) -> str:
        """The group that the network belongs to, such as ``resnet`` or ``file``."""

    @property
    def key(self) -> str:
        """Content key of the source, to know it again without building it."""

    def load(self) -> tuple[tvm.ir.IRModule, OpGraph]:
        """Builds the module and its graph (imports TVM)."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which :func:`source_from_dict` makes an equal source."""


@dataclass(frozen=True)
class WorkloadSource:
    """A network of a parametrised family from :mod:`tvm_costmodel.profiling.workloads`."""

    family: str
    params: Mapping[str, Any] = field(default_factory=dict)
    compiler: str = DEFAULT_COMPILER

    @property
    def key(self) -> str:
        """Content key over family and parameters."""
        compiler = _compiler_fields(self.compiler).values()
        return content_key("workload", self.family, dict(self.params), *compiler)

    def load(self) -> tuple[tvm.ir.IRModule, OpGraph]:
        """Builds the network with constant weights and exports its graph."""
        from tvm_costmodel.profiling.workloads import FAMILIES

        compiler = known_compiler(self.compiler)
        if self.family not in FAMILIES:
            raise ConfigError(
                f"unknown workload family {self.family!r}; known: {', '.join(sorted(FAMILIES))}"
            )
        module = FAMILIES[self.family].build(dict(self.params), self.compiler)
        return compiler.module_graph(module)

    def to_dict(self) -> dict[str, Any]:
        """The source as JSON values."""
        record = {"kind": "workload", "family": self.family, "params": dict(self.params)}
        return record | _compiler_fields(self.compiler)


@dataclass(frozen=True)
class FileSource:
    """A model file that its compiler reads: ``.onnx``, ``.pt2`` (Relax) or a module's JSON."""

    path: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    family: str = "file"
    compiler: str = DEFAULT_COMPILER

    @property
    def key(self) -> str:
        """Content key over the file's name, size, modification time and the fixed shapes."""
        stat = Path(self.path).stat() if Path(self.path).exists() else None
        mark = (stat.st_size, stat.st_mtime_ns) if stat else None
        place = str(Path(self.path).resolve())
        compiler = _compiler_fields(self.compiler).values()
        return content_key("file", place, mark, dict(self.shapes), *compiler)

    def load(self) -> tuple[tvm.ir.IRModule, OpGraph]:
        """Imports the file and exports its graph.

        Raises:
            ModelFileError: The file holds a graph alone, which cannot be run.
        """
        compiler = known_compiler(self.compiler)
        model = compiler.load_model(self.path, dict(self.shapes) or None)
        if model.module is None:
            raise ModelFileError(
                f"{self.path} holds a graph without weights, which cannot be measured; "
                "give the .onnx file or the module that it was exported from"
            )
        return model.module, model.graph

    def to_dict(self) -> dict[str, Any]:
        """The source as JSON values."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        record = {"kind": "file", "path": str(self.path), "shapes": shapes, "family": self.family}
        return record | _compiler_fields(self.compiler)


def _compiler_fields(compiler: str) -> dict[str, str]:
    """What a source's JSON values and key hold of its compiler: nothing for the default one."""
    return {} if compiler == DEFAULT_COMPILER else {"compiler": compiler}


def _workload(record: Mapping[str, Any]) -> Source:
    compiler = record.get("compiler", DEFAULT_COMPILER)
    return WorkloadSource(record["family"], dict(record["params"]), compiler)


def _file(record: Mapping[str, Any]) -> Source:
    shapes = {name: tuple(shape) for name, shape in record.get("shapes", {}).items()}
    compiler = record.get("compiler", DEFAULT_COMPILER)
    return FileSource(record["path"], shapes, record.get("family", "file"), compiler)


KINDS: dict[str, Callable[[Mapping[str, Any]], Source]] = {"workload": _workload, "file": _file}
"""How each ``kind`` of source is made from its JSON values; a plug-in adds its own here."""


_TYPES: dict[str, type | tuple[type, ...]] = {
    "path": str,
    "family": str,
    "compiler": str,
    "params": Mapping,
    "shapes": Mapping,
}


def source_from_dict(record: Mapping[str, Any]) -> Source:
    """The source that ``record`` (from ``to_dict``) describes.

    Raises:
        ConfigError: The kind is not known.
    """
    kind = str(record.get("kind"))
    if kind not in KINDS:
        raise ConfigError(f"unknown source kind {kind[:60]!r}; known: {', '.join(sorted(KINDS))}")
    try:
        require_types(record, _TYPES)
        return KINDS[kind](record)
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"a {kind} source is damaged ({type(error).__name__}: {error}); measure it again from "
            "its model"
        ) from error


def stored_sources(
    records: Iterable[Mapping[str, Any]], store: Path, folders: Iterable[str | Path] = ()
) -> list[Source]:
    """The sources that a store names, without model files from places that nobody named.

    Whoever wrote the store chose the paths in it. A file is taken where it is below the working
    directory, the store's own folder ``networks``, or a folder that the caller names; each other
    one is left out with a warning.

    Args:
        records: Sources as the store holds them.
        store: The store's file.
        folders: Further folders whose model files may be read.
    """
    trusted = [
        place.resolve() for place in (Path.cwd(), store.parent / "networks", *map(Path, folders))
    ]
    sources = []
    for record in records:
        source = source_from_dict(record)
        if isinstance(source, FileSource):
            place = Path(source.path).resolve()
            if not any(place.is_relative_to(folder) for folder in trusted):
                logger.warning(
                    "%s, which the store %s names, is left out: it is in no folder that was named; "
                    "to read it give --models-in %s",
                    source.path,
                    store,
                    place.parent,
                )
                continue
        sources.append(source)
    return sources


def suite(
    name: str,
    count: int,
    seed: int = 0,
    compiler: str = "relax",
    families: Sequence[str] = (),
) -> Iterator[WorkloadSource]:
    """The networks that `tvm_costmodel.profiling.workloads.sample_suite` draws, as sources."""
    from tvm_costmodel.profiling.workloads import sample_suite

    for family, params in sample_suite(name, count, seed, families):
        yield WorkloadSource(family, params, compiler)
