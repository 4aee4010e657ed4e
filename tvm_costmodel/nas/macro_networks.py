"""Whole networks of NAS cells: the skeletons in which the benchmarks repeat a cell.

Operators and attributes are those that an ONNX file of the network gives (NCHW, batch norms not
folded), so that predictors for networks read these graphs too.

* NAS-Bench-101 (Ying et al., ICML 2019): a 3x3 stem of 128 channels, 3 stacks of 3 cells; a
  2x2 max pool of stride 2 and twice the channels come before the second and third stack.
* NAS-Bench-201 (Dong and Yang, ICLR 2020): a 3x3 stem of 16 channels, 3 stages of 5 cells with a
  residual block of stride 2 between them.
* DARTS (Liu et al., ICLR 2019): a 3x3 stem of 3 x 36 channels, 20 cells, those at one and two
  thirds of the depth being reduction cells that double the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Edge
from tvm_costmodel.nas.cells import live_nodes
from tvm_costmodel.nas.op_graph_builder import OpGraphBuilder


def nasbench201_network(
    cell: OpGraph,
    channels: int = 16,
    repeats: int = 5,
    resolution: int = 32,
    classes: int = 10,
    batch: int = 1,
    keep_dead: bool = False,
) -> OpGraph:
    """The network that NAS-Bench-201 trains and times for a cell.

    Args:
        cell: From `nasbench201_cell`.
        channels: Channels of the first stage.
        repeats: Cells in each of the three stages.
        resolution: Height and width of the RGB input.
        classes: Outputs.
        batch: Images.
        keep_dead: Keep what leads nowhere and write ``none`` as the multiplication by zero that
            the published code runs; without it both are left out, as a compiler does.

    Raises:
        GraphError: The graph is no cell of the benchmark, or no path leads from its input to its
            output and ``keep_dead`` is off.
    """
    names = _names(cell, 8, "NAS-Bench-201")
    live = live_nodes(cell)[1:7]
    if not keep_dead and not any(live):
        raise GraphError(
            "no path leads from the cell's input to its output: the network is its constant "
            "bias; leave the cell out, or give keep_dead=True"
        )
    builder = OpGraphBuilder(batch, 3, resolution)
    x = builder.batch_norm(builder.conv(builder.image, channels, 3))
    for stage in range(3):
        width = channels << stage
        if stage:
            x = _residual_block(builder, x, width)
        for _ in range(repeats):
            x = _cell_201(builder, x, names, live, keep_dead)
    x = builder.relu(builder.batch_norm(x))
    return builder.finish(builder.classifier(x, classes))


def nasbench101_network(
    cell: OpGraph,
    channels: int = 128,
    stacks: int = 3,
    repeats: int = 3,
    resolution: int = 32,
    classes: int = 10,
    batch: int = 1,
) -> OpGraph:
    """The network that NAS-Bench-101 trains for a cell.

    Args:
        cell: From `nasbench101_cell`; where the division of the output's channels among the nodes
            that it concatenates leaves a remainder, the first of them in the cell's order get one
            more.
        channels: Channels of the stem and the first stack.
        stacks: Stacks of cells.
        repeats: Cells in a stack.
        resolution: Height and width of the RGB input.
        classes: Outputs.
        batch: Images.

    Raises:
        GraphError: The graph is no cell of the benchmark.
    """
    names = _names(cell, None, "NAS-Bench-101")
    reads = [tuple(source for source, _ in node.inputs) for node in cell.operators]
    builder = OpGraphBuilder(batch, 3, resolution)
    x = builder.conv_bn_relu(builder.image, channels, 3)
    for stack in range(stacks):
        if stack:
            x = builder.max_pool(x, 2, 2, padding=0)
        for _ in range(repeats):
            x = _cell_101(builder, x, names, reads, channels << stack)
    return builder.finish(builder.classifier(x, classes))


def darts_network(
    normal: OpGraph,
    reduction: OpGraph,
    channels: int = 36,
    layers: int = 20,
    resolution: int = 32,
    classes: int = 10,
    batch: int = 1,
) -> OpGraph:
    """The network that DARTS evaluates on CIFAR for a pair of cells, without auxiliary head.

    Args:
        normal: Cell that keeps the resolution, from `darts_cell`.
        reduction: Cell of half the resolution.
        channels: Channels of a node in the first cells.
        layers: Cells in all.
        resolution: Height and width of the RGB input.
        classes: Outputs.
        batch: Images.

    Raises:
        GraphError: A graph is no DARTS cell.
    """
    cells = {False: normal, True: reduction}
    for graph in cells.values():
        _names(graph, 15, "DARTS")
    builder = OpGraphBuilder(batch, 3, resolution)
    x = builder.batch_norm(builder.conv(builder.image, 3 * channels, 3))
    before, last, reduced = x, x, False
    for layer in range(layers):
        reduces = layer in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduces else 1
        old = (
            _factorized_reduce(builder, before, channels)
            if reduced
            else _relu_conv_bn(builder, before, channels, 1)
        )
        new = _relu_conv_bn(builder, last, channels, 1)
        before, last = last, _cell_darts(builder, (old, new), cells[reduces], channels, reduces)
        reduced = reduces
    return builder.finish(builder.classifier(last, classes))


def parameters(network: OpGraph) -> int:
    """Trainable parameters of a network of this file; a batch norm has two per channel."""
    total = 0
    for operator in network.operators:
        weights = operator.weights[:2] if operator.op == "batch_norm" else operator.weights
        total += sum(kind.elements for kind in weights if kind.shape)
    return total


def _names(cell: OpGraph, nodes: int | None, benchmark: str) -> list[str]:
    names = [node.op for node in cell.operators]
    wrong = nodes is not None and len(names) != nodes
    if wrong or len(names) < 2 or names[0] != "input" or names[-1] != "output":
        raise GraphError(
            f"a graph of {len(names)} operators from {names[0] if names else 'nothing'} to "
            f"{names[-1] if names else 'nothing'} is no {benchmark} cell; build it with "
            "tvm_costmodel.nas.cells"
        )
    return names


_ENDS_201 = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # states of each of the six edges


def _cell_201(
    builder: OpGraphBuilder, x: Edge, names: Sequence[str], live: Sequence[bool], keep_dead: bool
) -> Edge:
    build: dict[str, Callable[[Edge], Edge]] = {
        "none": builder.zero,
        "skip_connect": lambda value: value,
        "nor_conv_1x1": lambda value: _relu_conv_bn(builder, value, builder.channels(value), 1),
        "nor_conv_3x3": lambda value: _relu_conv_bn(builder, value, builder.channels(value), 3),
        "avg_pool_3x3": lambda value: builder.avg_pool(value, 3, 1),
    }
    states: list[Edge | None] = [x, None, None, None]
    for (a, b), name, alive in zip(_ENDS_201, names[1:7], live, strict=True):
        source = states[a]
        if name not in build:
            raise GraphError(f"operation {name!r} is none of {', '.join(build)}")
        if source is None or not (alive or keep_dead):
            continue
        value, so_far = build[name](source), states[b]
        states[b] = value if so_far is None else builder.add(so_far, value)
    result = states[3]
    assert result is not None  # a live edge, or one of keep_dead, leads here
    return result


def _cell_101(
    builder: OpGraphBuilder,
    x: Edge,
    names: Sequence[str],
    reads: Sequence[Sequence[int]],
    channels: int,
) -> Edge:
    last = len(names) - 1
    concatenated = [source for source in reads[last] if source]
    if not concatenated:
        return builder.conv_bn_relu(x, channels, 1)
    widths = _widths_101(reads, channels)
    values: list[Edge] = [x]
    for node in range(1, last):
        width = widths[node]
        summands = [builder.first_channels(values[s], width) for s in sorted(reads[node]) if s]
        if 0 in reads[node]:
            summands.append(builder.conv_bn_relu(x, width, 1))
        total = summands[0]
        for summand in summands[1:]:
            total = builder.add(total, summand)
        if names[node] == "maxpool3x3":
            values.append(builder.max_pool(total, 3, 1))
        elif names[node] in ("conv1x1-bn-relu", "conv3x3-bn-relu"):
            values.append(builder.conv_bn_relu(total, width, int(names[node][4])))
        else:
            raise GraphError(f"operation {names[node]!r} is none of NAS-Bench-101's")
    result = builder.concat([values[source] for source in sorted(concatenated)])
    return builder.add(result, builder.conv_bn_relu(x, channels, 1)) if 0 in reads[last] else result


def _widths_101(reads: Sequence[Sequence[int]], channels: int) -> list[int]:
    """Channels of each node: the output's are divided, others get those of their widest reader."""
    last = len(reads) - 1
    concatenated = sorted(source for source in reads[last] if source)
    share, rest = divmod(channels, len(concatenated))
    widths = [0] * (last + 1)
    for place, node in enumerate(concatenated):
        widths[node] = share + (place < rest)
    for node in range(last - 1, 0, -1):
        readers = [reader for reader in range(node + 1, last) if node in reads[reader]]
        if node not in concatenated:
            widths[node] = max(widths[reader] for reader in readers)
    return widths


def _cell_darts(
    builder: OpGraphBuilder, inputs: tuple[Edge, Edge], cell: OpGraph, channels: int, reduces: bool
) -> Edge:
    values: list[Edge] = []
    for i, node in enumerate(cell.operators):
        sources = [source for source, _ in node.inputs]
        if node.op == "input":
            values.append(inputs[i])
        elif node.op == "add":
            values.append(builder.add(values[sources[0]], values[sources[1]]))
        elif node.op == "output":
            return builder.concat([values[source] for source in sources])
        else:
            stride = 2 if reduces and sources[0] < 2 else 1
            values.append(_darts_operation(builder, values[sources[0]], node.op, channels, stride))
    raise GraphError("a DARTS cell ends in its output")


def _darts_operation(
    builder: OpGraphBuilder, x: Edge, name: str, channels: int, stride: int
) -> Edge:
    if name == "skip_connect":
        return x if stride == 1 else _factorized_reduce(builder, x, channels)
    if name == "max_pool_3x3":
        return builder.max_pool(x, 3, stride)
    if name == "avg_pool_3x3":
        return builder.avg_pool(x, 3, stride)
    kernels = {"sep_conv_3x3": 3, "sep_conv_5x5": 5, "dil_conv_3x3": 3, "dil_conv_5x5": 5}
    if name not in kernels:
        raise GraphError(f"operation {name!r} is none of DARTS'")
    separable, kernel = name.startswith("sep"), kernels[name]
    for step in range(2 if separable else 1):
        x = builder.conv(
            builder.relu(x),
            channels,
            kernel,
            stride if step == 0 else 1,
            groups=channels,
            dilation=1 if separable else 2,
        )
        x = builder.batch_norm(builder.conv(x, channels, 1))
    return x


def _relu_conv_bn(
    builder: OpGraphBuilder, x: Edge, channels: int, kernel: int, stride: int = 1
) -> Edge:
    return builder.batch_norm(builder.conv(builder.relu(x), channels, kernel, stride))


def _residual_block(builder: OpGraphBuilder, x: Edge, channels: int) -> Edge:
    """NAS-Bench-201's block between stages, stride 2."""
    main = _relu_conv_bn(builder, x, channels, 3, 2)
    main = _relu_conv_bn(builder, main, channels, 3)
    side = builder.conv(builder.avg_pool(x, 2, 2, padding=0), channels, 1)
    return builder.add(side, main)


def _factorized_reduce(builder: OpGraphBuilder, x: Edge, channels: int) -> Edge:
    """DARTS' halving of the resolution: two 1x1 convolutions of stride 2, shifted by one pixel."""
    x = builder.relu(x)
    even = builder.conv(x, channels // 2, 1, 2)
    odd = builder.conv(builder.without_first_pixels(x), channels // 2, 1, 2)
    return builder.batch_norm(builder.concat([even, odd]))
