"""The JSON of Relax modules, read as graphs in a child process and as modules once that went well.

TVM's reader and passes abort the process on many malformed modules. The graph is made in a fork,
and the module is read here only for those who compile it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tvm_costmodel.bounded_reading import parse_object
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.relax.json_check import check_relax_json
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.isolation import ChildFailure, Limits, in_fork

if TYPE_CHECKING:
    from tvm import IRModule

Shapes = Mapping[str, Sequence[int]]


def read_relax_json(
    text: str, label: str, shapes: Shapes | None
) -> tuple[OpGraph, Callable[[], IRModule]]:
    """The graph of a Relax module's JSON, and a function that reads the module itself.

    Args:
        text: The JSON, as ``tvm.ir.save_json`` wrote it.
        label: The file's name in messages.
        shapes: Input name -> shape, for inputs with dynamic dimensions.

    Raises:
        ModelFileError: The JSON is damaged, of another version of TVM, of no Relax module, calls
            functions that are not TVM's own, or makes TVM crash.
    """
    import tvm  # before the fork, which inherits it

    try:
        check_relax_json(parse_object(text, len(text)), label)
    except ValueError as error:
        raise ModelFileError(f"{label}: damaged JSON of a Relax module: {error}") from None

    def load() -> IRModule:
        return _module(text, label, shapes)

    def graph() -> bytes:
        from tvm_costmodel.frontends.relax.export import from_relax

        return from_relax(load()).to_json().encode()

    try:
        content = in_fork(graph, Limits.for_content(len(text)))
    except ChildFailure as error:
        raise ModelFileError(
            f"{label}: TVM {tvm.__version__} cannot read this module: {error}; save it again with "
            "tvm.ir.save_json of this version"
        ) from None
    return OpGraph.from_json(content.decode()), load


def _module(text: str, label: str, shapes: Shapes | None) -> IRModule:
    import tvm
    from tvm import relax

    from tvm_costmodel.frontends.onnx.rewrites import without_rewrites
    from tvm_costmodel.frontends.relax.bind_shapes import bind_shapes

    try:
        module = tvm.ir.load_json(text)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelFileError(
            f"{label}: TVM {tvm.__version__} cannot read this JSON ({first}); save it again with "
            "tvm.ir.save_json of this version"
        ) from error
    functions = dict(module.functions) if isinstance(module, tvm.IRModule) else {}
    names = {str(variable.name_hint): function for variable, function in functions.items()}
    if not isinstance(names.get("main"), relax.Function):
        raise ModelFileError(
            f"{label}: TVM's JSON, but no module with a Relax function main (it holds "
            f"{', '.join(names) or type(module).__name__}); save a Relax module"
        )
    return bind_shapes(without_rewrites(module), shapes, label)
