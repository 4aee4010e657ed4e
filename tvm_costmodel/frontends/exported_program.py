"""What an exported PyTorch program says of its outputs and of the extents that it accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tvm_costmodel.errors import ModelFileError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def without_empty_outputs(program: ExportedProgram) -> ExportedProgram:
    """The program without the outputs that are None, which have no place in a compiled network.

    Args:
        program: Left unchanged.
    """
    import copy
    import dataclasses

    from torch.utils import _pytree as pytree

    specs = program.graph_signature.output_specs
    output = next(node for node in program.graph.nodes if node.op == "output")
    values = list(output.args[0])
    kept = [i for i, value in enumerate(values) if value is not None]
    if len(kept) in (0, len(values)) or len(specs) != len(values):
        return program
    changed = copy.copy(program)
    graph_module = copy.deepcopy(program.graph_module)
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    output.args = (tuple(output.args[0][i] for i in kept),)
    graph_module.recompile()
    changed._graph_module = graph_module
    changed._graph_signature = dataclasses.replace(
        program.graph_signature, output_specs=[specs[i] for i in kept]
    )
    spec = pytree.tree_structure(tuple(range(len(kept))))
    first, *rest = program.module_call_graph
    outputs = list(first.signature.outputs)
    if len(outputs) == len(values):
        outputs = [outputs[i] for i in kept]
    signature = dataclasses.replace(first.signature, out_spec=spec, outputs=outputs)
    changed._module_call_graph = [dataclasses.replace(first, signature=signature), *rest]
    return changed


def check_ranges(
    program: ExportedProgram, shapes: Mapping[str, Sequence[int]] | None, label: str
) -> None:
    """Refuses extents outside of the range that the program was exported for.

    Args:
        program: The program.
        shapes: Input name -> shape.
        label: Its name in messages.

    Raises:
        ModelFileError: Names the input, the extent and the range.
    """
    constraints = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
    inputs = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, shape in (shapes or {}).items():
        value = inputs[name].meta.get("val") if name in inputs else None
        declared = getattr(value, "shape", ())
        if len(declared) != len(shape):
            continue  # what binds shapes says so
        for axis, (extent, given) in enumerate(zip(declared, shape, strict=True)):
            bounds = constraints.get(str(extent))
            if bounds is not None and not bounds.lower <= given <= bounds.upper:
                upper = "" if str(bounds.upper) in ("int_oo", "oo") else f" to {bounds.upper}"
                raise ModelFileError(
                    f"{label}: --shape {name}={','.join(map(str, shape))} asks for {given} along "
                    f"axis {axis}, which was exported for {bounds.lower}{upper}; give an extent of "
                    "that range, or export the model again for more"
                )
