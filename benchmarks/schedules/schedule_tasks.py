"""The tasks of `relay_tasks`: one operator each, for AutoTVM and for auto_scheduler.

Not a benchmark itself; `relay_tasks` uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import auto_scheduler, autotvm, relay, te, topi
from tvm.target import Target

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator of one shape.

    Attributes:
        kind: ``conv2d``, ``depthwise``, ``dense`` or ``batch_matmul``.
        sizes: ``conv2d``: channels in, pixels a side, channels out, kernel, stride;
            ``depthwise``: channels, pixels a side, kernel, stride; ``dense``: rows, depth, columns;
            ``batch_matmul``: batch, rows, depth, columns.
    """

    kind: str
    sizes: Sizes

    @property
    def name(self) -> str:
        """Name in files and tables, such as ``dense 128x768x768``."""
        return f"{self.kind} {'x'.join(map(str, self.sizes))}"


SEARCHED = (
    Operator("conv2d", (64, 56, 64, 3, 1)),
    Operator("conv2d", (64, 56, 128, 1, 1)),
    Operator("depthwise", (64, 56, 3, 1)),
    Operator("dense", (128, 768, 768)),
    Operator("batch_matmul", (12, 128, 64, 128)),
)
"""Operators on which the strategies are compared."""

EARLIER = (
    Operator("conv2d", (128, 28, 128, 3, 2)),
    Operator("conv2d", (32, 32, 48, 3, 1)),
    Operator("conv2d", (256, 14, 256, 1, 1)),
    Operator("depthwise", (144, 28, 3, 2)),
    Operator("dense", (64, 512, 1024)),
    Operator("batch_matmul", (8, 64, 32, 64)),
)
"""Operators of other shapes, from whose logs the transferring strategies learn."""


@auto_scheduler.register_workload
def searched_operator(kind: str, *sizes: int) -> list[te.Tensor]:
    """The operator as tensor expressions, with a ReLU behind convolutions."""
    inputs = [te.placeholder(shape, name=name) for name, shape in _shapes(kind, sizes).items()]
    data, weight = inputs
    if kind == "dense":
        return [*inputs, topi.nn.dense(data, weight)]
    if kind == "batch_matmul":
        return [*inputs, topi.nn.batch_matmul(data, weight)]
    kernel, stride = sizes[-2:]
    convolve = topi.nn.conv2d_nchw if kind == "conv2d" else topi.nn.depthwise_conv2d_nchw
    result = convolve(data, weight, (stride,) * 2, (kernel // 2,) * 2, (1, 1))
    return [*inputs, topi.nn.relu(result)]


def auto_scheduler_task(operator: Operator, target: Target) -> auto_scheduler.SearchTask:
    """The operator as a task of auto_scheduler."""
    return auto_scheduler.SearchTask(
        func=searched_operator,
        args=(operator.kind, *operator.sizes),
        target=target,
        layout_rewrite_option=auto_scheduler.LayoutRewriteOption.NO_REWRITE,
    )


def autotvm_task(operator: Operator, target: Target) -> autotvm.task.Task:
    """The operator as the task of AutoTVM that Relay would extract for it."""
    variables = [relay.var(n, shape=s) for n, s in _shapes(operator.kind, operator.sizes).items()]
    function = relay.Function(variables, _RELAY[operator.kind](operator.sizes, *variables))
    tasks = autotvm.task.extract_from_program(function, params={}, target=target)
    return max(tasks, key=lambda task: len(task.config_space))


def _shapes(kind: str, sizes: Sizes) -> dict[str, Sizes]:
    if kind == "conv2d":
        channels, pixels, filters, kernel, _ = sizes
        return {
            "data": (1, channels, pixels, pixels),
            "weight": (filters, channels, kernel, kernel),
        }
    if kind == "depthwise":
        channels, pixels, kernel, _ = sizes
        return {"data": (1, channels, pixels, pixels), "weight": (channels, 1, kernel, kernel)}
    if kind == "dense":
        rows, depth, columns = sizes
        return {"data": (rows, depth), "weight": (columns, depth)}
    batch, rows, depth, columns = sizes
    return {"data": (batch, rows, depth), "weight": (batch, columns, depth)}


def _convolution(
    data: relay.Expr,
    weight: relay.Expr,
    filters: int,
    kernel: int,
    stride: int,
    groups: int = 1,
) -> relay.Expr:
    return relay.nn.conv2d(
        data,
        weight,
        strides=(stride, stride),
        padding=(kernel // 2,) * 2,
        groups=groups,
        channels=filters,
        kernel_size=(kernel, kernel),
    )


_RELAY: dict[str, Callable[..., Any]] = {
    "conv2d": lambda sizes, data, weight: _convolution(data, weight, *sizes[2:]),
    "depthwise": lambda sizes, data, weight: _convolution(
        data, weight, sizes[0], *sizes[2:], groups=sizes[0]
    ),
    "dense": lambda _, data, weight: relay.nn.dense(data, weight),
    "batch_matmul": lambda _, data, weight: relay.nn.batch_matmul(data, weight),
}
