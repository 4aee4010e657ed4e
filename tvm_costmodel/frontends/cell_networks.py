"""Whole networks of NAS cells: the skeletons in which the benchmarks repeat a cell.

Operators and attributes are those that an ONNX file of the network gives (NCHW, batch norms not
folded), so that predictors for networks read these graphs too.

* NAS-Bench-101 (Ying et al., ICML 2019): a 3x3 stem of 128 channels, 3 stacks of 3 cells; a
  2x2 max pool halves the resolution and the channels double before the second and third stack.
* NAS-Bench-201 (Dong and Yang, ICLR 2020): a 3x3 stem of 16 channels, 3 stages of 5 cells with a
  residual block of stride 2 between them.
* DARTS (Liu et al., ICLR 2019): a 3x3 stem of 3 x 36 channels, 20 cells, those at one and two
  thirds of the depth being reduction cells that double the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_costmodel.errors import GraphError
from tvm_costmodel.frontends.nasbench import live_nodes
from tvm_costmodel.frontends.network_tape import NetworkTape
from tvm_costmodel.graph import Edge, OpGraph


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
        channels: Of the first stage.
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
    tape = NetworkTape(batch, 3, resolution)
    x = tape.batch_norm(tape.conv(tape.image, channels, 3))
    for stage in range(3):
        width = channels << stage
        if stage:
            x = _residual_block(tape, x, width)
        for _ in range(repeats):
            x = _cell_201(tape, x, names, live, keep_dead)
    x = tape.relu(tape.batch_norm(x))
    return tape.finish(tape.classifier(x, classes))


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
            that it joins leaves a remainder, the first of them in the cell's order get one more.
        channels: Of the stem and the first stack.
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
    tape = NetworkTape(batch, 3, resolution)
    x = tape.conv_bn_relu(tape.image, channels, 3)
    for stack in range(stacks):
        if stack:
            x = tape.max_pool(x, 2, 2, padding=0)
        for _ in range(repeats):
            x = _cell_101(tape, x, names, reads, channels << stack)
    return tape.finish(tape.classifier(x, classes))


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
        reduction: Cell that halves it.
        channels: Of a node in the first cells.
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
    tape = NetworkTape(batch, 3, resolution)
    x = tape.batch_norm(tape.conv(tape.image, 3 * channels, 3))
    before, last, halved = x, x, False
    for layer in range(layers):
        halving = layer in (layers // 3, 2 * layers // 3)
        channels *= 2 if halving else 1
        old = (
            _factorized_reduce(tape, before, channels)
            if halved
            else _relu_conv_bn(tape, before, channels, 1)
        )
        new = _relu_conv_bn(tape, last, channels, 1)
        before, last = last, _cell_darts(tape, (old, new), cells[halving], channels, halving)
        halved = halving
    return tape.finish(tape.classifier(last, classes))


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
            "tvm_costmodel.frontends.nasbench"
        )
    return names


_ENDS_201 = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # states of each of the six edges


def _cell_201(
    tape: NetworkTape, x: Edge, names: Sequence[str], live: Sequence[bool], keep_dead: bool
) -> Edge:
    build: dict[str, Callable[[Edge], Edge]] = {
        "none": tape.zero,
        "skip_connect": lambda value: value,
        "nor_conv_1x1": lambda value: _relu_conv_bn(tape, value, tape.channels(value), 1),
        "nor_conv_3x3": lambda value: _relu_conv_bn(tape, value, tape.channels(value), 3),
        "avg_pool_3x3": lambda value: tape.avg_pool(value, 3, 1),
    }
    states: list[Edge | None] = [x, None, None, None]
    for (a, b), name, alive in zip(_ENDS_201, names[1:7], live, strict=True):
        source = states[a]
        if name not in build:
            raise GraphError(f"operation {name!r} is none of {', '.join(build)}")
        if source is None or not (alive or keep_dead):
            continue
        value, so_far = build[name](source), states[b]
        states[b] = value if so_far is None else tape.add(so_far, value)
    result = states[3]
    assert result is not None  # a live edge or a kept one leads here
    return result


def _cell_101(
    tape: NetworkTape,
    x: Edge,
    names: Sequence[str],
    reads: Sequence[Sequence[int]],
    channels: int,
) -> Edge:
    last = len(names) - 1
    joined = [source for source in reads[last] if source]
    if not joined:
        return tape.conv_bn_relu(x, channels, 1)
    widths = _widths_101(reads, channels)
    values: list[Edge] = [x]
    for node in range(1, last):
        width = widths[node]
        summands = [tape.first_channels(values[s], width) for s in sorted(reads[node]) if s]
        if 0 in reads[node]:
            summands.append(tape.conv_bn_relu(x, width, 1))
        total = summands[0]
        for summand in summands[1:]:
            total = tape.add(total, summand)
        if names[node] == "maxpool3x3":
            values.append(tape.max_pool(total, 3, 1))
        elif names[node] in ("conv1x1-bn-relu", "conv3x3-bn-relu"):
            values.append(tape.conv_bn_relu(total, width, int(names[node][4])))
        else:
            raise GraphError(f"operation {names[node]!r} is none of NAS-Bench-101's")
    result = tape.concat([values[source] for source in sorted(joined)])
    return tape.add(result, tape.conv_bn_relu(x, channels, 1)) if 0 in reads[last] else result


def _widths_101(reads: Sequence[Sequence[int]], channels: int) -> list[int]:
    """Channels of each node: the output's are divided, others get the most of their readers."""
    last = len(reads) - 1
    joined = sorted(source for source in reads[last] if source)
    share, rest = divmod(channels, len(joined))
    widths = [0] * (last + 1)
    for place, node in enumerate(joined):
        widths[node] = share + (place < rest)
    for node in range(last - 1, 0, -1):
        readers = [reader for reader in range(node + 1, last) if node in reads[reader]]
        if node not in joined:
            widths[node] = max(widths[reader] for reader in readers)
    return widths


def _cell_darts(
    tape: NetworkTape, inputs: tuple[Edge, Edge], cell: OpGraph, channels: int, halving: bool
) -> Edge:
    values: list[Edge] = []
    for i, node in enumerate(cell.operators):
        sources = [source for source, _ in node.inputs]
        if node.op == "input":
            values.append(inputs[i])
        elif node.op == "add":
            values.append(tape.add(values[sources[0]], values[sources[1]]))
        elif node.op == "output":
            return tape.concat([values[source] for source in sources])
        else:
            stride = 2 if halving and sources[0] < 2 else 1
            values.append(_darts_operation(tape, values[sources[0]], node.op, channels, stride))
    raise GraphError("a DARTS cell ends in its output")


def _darts_operation(tape: NetworkTape, x: Edge, name: str, channels: int, stride: int) -> Edge:
    if name == "skip_connect":
        return x if stride == 1 else _factorized_reduce(tape, x, channels)
    if name == "max_pool_3x3":
        return tape.max_pool(x, 3, stride)
    if name == "avg_pool_3x3":
        return tape.avg_pool(x, 3, stride)
    kernels = {"sep_conv_3x3": 3, "sep_conv_5x5": 5, "dil_conv_3x3": 3, "dil_conv_5x5": 5}
    if name not in kernels:
        raise GraphError(f"operation {name!r} is none of DARTS'")
    separable, kernel = name.startswith("sep"), kernels[name]
    for step in range(2 if separable else 1):
        x = tape.conv(
            tape.relu(x),
            channels,
            kernel,
            stride if step == 0 else 1,
            groups=channels,
            dilation=1 if separable else 2,
        )
        x = tape.batch_norm(tape.conv(x, channels, 1))
    return x


def _relu_conv_bn(tape: NetworkTape, x: Edge, channels: int, kernel: int, stride: int = 1) -> Edge:
    return tape.batch_norm(tape.conv(tape.relu(x), channels, kernel, stride))


def _residual_block(tape: NetworkTape, x: Edge, channels: int) -> Edge:
    """NAS-Bench-201's block between stages, stride 2."""
    main = _relu_conv_bn(tape, x, channels, 3, 2)
    main = _relu_conv_bn(tape, main, channels, 3)
    side = tape.conv(tape.avg_pool(x, 2, 2, padding=0), channels, 1)
    return tape.add(side, main)


def _factorized_reduce(tape: NetworkTape, x: Edge, channels: int) -> Edge:
    """DARTS' halving of the resolution: two 1x1 convolutions of stride 2, one pixel apart."""
    x = tape.relu(x)
    even = tape.conv(x, channels // 2, 1, 2)
    odd = tape.conv(tape.without_first_pixels(x), channels // 2, 1, 2)
    return tape.batch_norm(tape.concat([even, odd]))
