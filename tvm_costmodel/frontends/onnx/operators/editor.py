"""What a rewrite of an ONNX operator sees of its graph, and how it adds nodes to it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from tvm_costmodel.errors import UnsupportedOperatorError

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

STANDARD_DOMAINS = ("", "ai.onnx")


class GraphEditor:
    """The graph that rewrites change: types of its values, its constants, and fresh names.

    Args:
        graph: The graph, changed in place.
        types: Element type and shape of values; the shape is None where an extent is unknown.
        opset: Version of ONNX's operator set.
        label: The model's name in messages.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        types: dict[str, tuple[int, Shape | None]],
        opset: int,
        label: str,
    ) -> None:
        self.opset = opset
        self._graph, self._types, self._label = graph, types, label
        self._constants = _constants(graph)
        self._names = {*names_read(graph), *_names_made(graph), *self._constants, *types}
        self._read = set(names_read(graph))

    def within(
        self, branch: onnx.GraphProto, types: dict[str, tuple[int, Shape | None]]
    ) -> GraphEditor:
        """An editor of a node's branch, which sees the values around it.

        The constants that it adds go into the graph outside.
        """
        inner = copy.copy(self)
        inner._types = self._types | types
        inner._constants = self._constants | _constants(branch)
        inner._read = set(names_read(branch))
        return inner

    def shape(self, name: str) -> Shape | None:
        """Extents of a value, or None where one of them is unknown."""
        return self._types[name][1] if name in self._types else None

    def elem_type(self, name: str) -> int:
        """Element type of a value as ``onnx.TensorProto`` numbers them; 0 where unknown."""
        return self._types[name][0] if name in self._types else 0

    def constant(self, name: str) -> np.ndarray | None:
        """The values of an initialiser; None for anything else."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_read(self, name: str) -> bool:
        """Whether a node or the graph's outputs read a value."""
        return name in self._read

    def add_constant(self, values: np.ndarray, hint: str) -> str:
        """Adds an initialiser and returns its name."""
        name = self.fresh(hint)
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        self._graph.initializer.append(tensor)
        self._constants[name] = tensor
        self._types[name] = (tensor.data_type, tuple(tensor.dims))
        return name

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def refuse(self, node: onnx.NodeProto, why: str, remedy: str) -> NoReturn:
        """Raises UnsupportedOperatorError that names an operator and its node.

        Args:
            node: The node that is refused.
            why: What of it is not supported.
            remedy: What to do about it.
        """
        raise UnsupportedOperatorError(
            f"{self._label}: TVM's ONNX importer has no {node.op_type} as node "
            f'"{node_name(node)}" has it ({why}); {remedy}'
        )


class NodeWriter:
    """Collects the nodes that take a node's place.

    Args:
        graph: The graph.
        node: The node that is replaced.
    """

    def __init__(self, graph: GraphEditor, node: onnx.NodeProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph, self._node = graph, node

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node with one output and returns that output's name."""
        output = self._graph.fresh(f"{node_name(self._node)}/{op}")
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Adds an initialiser and returns its name."""
        array = np.asarray(values) if dtype is None else np.asarray(values, dtype)
        return self._graph.add_constant(array, f"{node_name(self._node)}/constant")

    def finish(self, *outputs: str) -> list[onnx.NodeProto]:
        """The nodes, with values by position under the names of the replaced node's outputs."""
        for name, value in zip(self._node.output, outputs, strict=False):
            if name:
                self.nodes.append(helper.make_node("Identity", [value], [name], f"{name}/is"))
        return self.nodes


def names_of(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and its branches read."""
    yield from node.input
    for branch in branches_of(node):
        yield from names_read(branch)


def names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that nodes, their branches and the graph's outputs read."""
    for node in graph.node:
        yield from names_of(node)
    for value in graph.output:
        yield value.name


def branches_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Graphs among a node's attributes."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _names_made(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.output
        for branch in branches_of(node):
            yield from _names_made(branch)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    made = {
        node.output[0]: attribute.t
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    return made | {tensor.name: tensor for tensor in graph.initializer}


def node_name(node: onnx.NodeProto) -> str:
    """A node's name, or that of its first output where it has none."""
    return node.name or next((name for name in node.output if name), node.op_type)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as plain values, text decoded."""
    values = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        values[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return values


def with_attributes(
    node: onnx.NodeProto, drop: Sequence[str] = (), **attributes: Any
) -> onnx.NodeProto:
    """A copy of a node without some attributes and with others."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    kept: list[AttributeProto] = [
        attribute
        for attribute in changed.attribute
        if attribute.name not in drop and attribute.name not in attributes
    ]
    kept += [helper.make_attribute(key, value) for key, value in attributes.items()]
    del changed.attribute[:]
    changed.attribute.extend(kept)
    return changed


def operand(node: onnx.NodeProto, index: int) -> str:
    """Name of a node's operand; empty where it is left out."""
    return node.input[index] if len(node.input) > index else ""
