"""Exports a checkpoint's network to ONNX, so that it also predicts where torch is not installed.

Only the network is exported; tokens, sums over operators, the mean of members, intervals and
calibrations are computed in NumPy (`onnx_runtime`). An export is compared with the network on
random inputs of several sizes, and is not written when it differs.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tvm_costmodel.errors import CheckpointError, ConfigError, MissingDependencyError
from tvm_costmodel.models.roofline_former import GraphBatch, RooflineFormer
from tvm_costmodel.predictors.checkpoint import Export, read_card, write_checkpoint
from tvm_costmodel.predictors.onnx_runtime import open_session
from tvm_costmodel.predictors.registry import EXPORTED, NETWORKS, REGISTRY

OPSET = 18
"""Opset of exports: ScatterND can sum since 16, and ONNX Runtime reads 18 since 1.14."""

_IR_VERSION = 8  # that of opset 18; the exporter writes a newer one without using its features
TOLERANCE = 1e-5
"""Largest relative difference of an answer that is accepted."""

_TRACED = 24  # operators of the graph that the exporter traces
_COMPARED = (1, 2, 24, 300)  # operators of the graphs in the comparison

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ExportForm:
    """How a network is exported.

    Attributes:
        network: The network; it takes the inputs in the order of ``axes``.
        axes: Names of each input's dynamic axes, leading ones first.
        output: Name of the output.
        output_axes: Names of its axes; empty for an axis that no input has.
        draw: ``draw(rng, operators)`` gives random inputs of about so many operators.
    """

    network: nn.Module
    axes: Mapping[str, tuple[str, ...]]
    output: str
    output_axes: tuple[str, ...]
    draw: Callable[[np.random.Generator, int], Arrays]


@dataclass(frozen=True)
class WrittenExport:
    """Result of `export_checkpoint`.

    Attributes:
        path: The checkpoint directory.
        size: Bytes of the ONNX file.
        difference: Largest relative difference from the network in torch.
    """

    path: Path
    size: int
    difference: float


def export_checkpoint(source: str | Path, target: str | Path) -> WrittenExport:
    """Writes a checkpoint with its network in ONNX, whole or not at all.

    Args:
        source: A checkpoint; unchanged unless it is also the target.
        target: Directory of the copy with the export.

    Raises:
        CheckpointError: The checkpoint is damaged, the target holds something else, or the export
            does not compute what the network does.
        ConfigError: The checkpoint's predictor has no export.
        MissingDependencyError: The exporter or ONNX Runtime is not installed.
    """
    folder = Path(source)
    card = read_card(folder)
    name = str(card.get("predictor"))
    if name not in EXPORTED:
        reason = (
            "is not exported" if name in NETWORKS else "needs no export: it predicts without torch"
        )
        raise ConfigError(f"{name} {reason}; exported are: {', '.join(EXPORTED)}")
    form = _FORMS[name](REGISTRY[name].load(folder))
    content = to_onnx(form)
    difference = compare(form, content)
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"the export of {folder} differs from its network by {difference:.1e}, allowed is "
            f"{TOLERANCE:.0e}; nothing was written. Install the versions of constraints.txt: "
            "pip install -c constraints.txt torch onnx onnxscript onnxruntime"
        )
    weights = folder / card["weights"]["file"]
    origin = {"opset": OPSET, "largest_difference": difference, **_versions()}
    path = write_checkpoint(
        target,
        card,
        lambda temporary: _copy_into(weights, temporary),
        Export(content, origin),
    )
    return WrittenExport(path, len(content), difference)


def to_onnx(form: ExportForm) -> bytes:
    """The network as a serialised ONNX model of `OPSET`, checked by ONNX's own checker.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter is written in it
    except ImportError as error:
        raise MissingDependencyError(
            "writing ONNX needs onnx and onnxscript: pip install onnx onnxscript onnxruntime"
        ) from error
    sample = form.draw(np.random.default_rng(0), _TRACED)
    sizes = {name: torch.export.Dim(name) for names in form.axes.values() for name in names}
    shapes = tuple({i: sizes[name] for i, name in enumerate(a)} for a in form.axes.values())
    with _quietly():
        program = torch.onnx.export(
            form.network,
            tuple(torch.from_numpy(sample[name]) for name in form.axes),
            input_names=list(form.axes),
            output_names=[form.output],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None  # it returns None only for the older exporter
    model = program.model_proto
    _strip(model)
    for value in model.graph.input:
        _name_axes(value, form.axes[value.name])
    _name_axes(model.graph.output[0], form.output_axes)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def compare(form: ExportForm, content: bytes) -> float:
    """Largest relative difference between the export and the network, on random inputs."""
    session = open_session(content, "the export")
    largest = 0.0
    for seed, operators in enumerate(_COMPARED):
        inputs = form.draw(np.random.default_rng(seed), operators)
        with torch.inference_mode():
            expected = form.network(*(torch.from_numpy(inputs[name]) for name in form.axes)).numpy()
        (exported,) = session.run([form.output], inputs)
        if exported.shape != expected.shape:
            return float("inf")
        largest = max(largest, float(np.max(np.abs(exported / expected - 1.0))))
    return largest


class _Members(nn.Module):
    """Latency of every operator for every member and device, ms [members, R, P]."""

    def __init__(self, members: Sequence[RooflineFormer]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(
        self, slot: Tensor, numbers: Tensor, work: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """See `GraphBatch`; the graphs' boundaries do not matter for this."""
        batch = GraphBatch(slot, numbers, work, source, target, graph=slot, graphs=1)
        return torch.stack([member.operators(batch)[0] for member in self.members])  # type: ignore[operator]


class _Rows(_Members):
    """Latency of rows, each a kernel of the batch with decisions, ms [members, K, P]."""

    def forward(  # type: ignore[override]
        self,
        slot: Tensor,
        numbers: Tensor,
        source: Tensor,
        target: Tensor,
        row: Tensor,
        row_numbers: Tensor,
        row_work: Tensor,
    ) -> Tensor:
        """See `GraphBatch`; ``row`` is the index of each row's kernel."""
        batch = GraphBatch(slot, numbers, numbers, source, target, graph=slot, graphs=1)
        costs = []
        for member in self.members:
            context = member.context(batch)[row]  # type: ignore[operator]
            costs.append(member.cost(row_numbers, row_work, context)[0])  # type: ignore[operator]
        return torch.stack(costs)


def _draw_graph(
    members: Sequence[RooflineFormer], rng: np.random.Generator, operators: int
) -> Arrays:
    """A random graph as inputs of a `RooflineFormer`."""
    reads = np.sort(rng.integers(0, operators, (2 * operators, 2)), axis=1)
    reads = np.unique(reads[reads[:, 0] < reads[:, 1]], axis=0)
    own = np.arange(operators)
    return {
        "slot": rng.integers(0, members[0].config.slots, operators),
        **_draw_tokens(members, rng, operators),
        "source": np.concatenate([own, reads[:, 0]]),
        "target": np.concatenate([own, reads[:, 1]]),
    }


def _draw_tokens(
    members: Sequence[RooflineFormer], rng: np.random.Generator, operators: int
) -> Arrays:
    center, spread = members[0].center.numpy(), members[0].spread.numpy()
    numbers = center + 2.0 * spread * rng.standard_normal((operators, len(center)))
    work = rng.lognormal(-3.0, 2.0, (operators, 3))
    return {"numbers": numbers.astype(np.float32), "work": work.astype(np.float32)}


def _kernel_form(regressor: Any) -> ExportForm:
    members: list[RooflineFormer] = regressor.networks

    def draw(rng: np.random.Generator, operators: int) -> Arrays:
        graph = _draw_graph(members, rng, operators)
        rows = 1 + operators // 2  # another number than of kernels, so that mix-ups show
        row_tokens = _draw_tokens(members, rng, rows)
        del graph["work"]
        return {
            **graph,
            "row": rng.integers(0, operators, rows),
            "row_numbers": row_tokens["numbers"],
            "row_work": row_tokens["work"],
        }

    kernel, edge, row = ("kernels",), ("edges",), ("rows",)
    context = {"slot": kernel, "numbers": kernel, "source": edge, "target": edge}
    return ExportForm(
        network=_Rows(members).eval(),
        axes={**context, "row": row, "row_numbers": row, "row_work": row},
        output="operator_ms",
        output_axes=("", "rows", ""),
        draw=draw,
    )


def _roofline_form(regressor: Any) -> ExportForm:
    members: list[RooflineFormer] = regressor.networks

    def draw(rng: np.random.Generator, operators: int) -> Arrays:
        return _draw_graph(members, rng, operators)

    row, edge = ("operators",), ("edges",)
    return ExportForm(
        network=_Members(members).eval(),
        axes={"slot": row, "numbers": row, "work": row, "source": edge, "target": edge},
        output="operator_ms",
        output_axes=("", "operators", ""),
        draw=draw,
    )


def _nar_former_v2_form(regressor: Any) -> ExportForm:
    config = regressor.model

    def draw(rng: np.random.Generator, operators: int) -> Arrays:
        graphs = 3
        mask = np.arange(operators) < rng.integers(1, operators + 1, (graphs, 1))
        mask[0] = True
        reads = np.triu(rng.random((graphs, operators, operators)) < 2 / operators, 1)
        reads &= mask[:, :, None] & mask[:, None, :]
        tokens = rng.uniform(-1, 1, (graphs, operators, config.token_channels))
        return {
            "tokens": (tokens * mask[..., None]).astype(np.float32),
            "adjacency": (reads | reads.transpose(0, 2, 1)).astype(np.float32),
            "mask": mask,
            "static": rng.uniform(-1, 1, (graphs, config.static_channels)).astype(np.float32),
        }

    return ExportForm(
        network=regressor.network.eval(),
        axes={
            "tokens": ("graphs", "operators"),
            "adjacency": ("graphs", "operators", "operators"),
            "mask": ("graphs", "operators"),
            "static": ("graphs",),
        },
        output="answer",
        output_axes=("graphs",),
        draw=draw,
    )


_FORMS: Mapping[str, Callable[[Any], ExportForm]] = {
    "roofline_former": _roofline_form,
    "kernel_former": _kernel_form,
    "relay_kernel_former": _kernel_form,
    "nar_former_v2": _nar_former_v2_form,
    "nar_former_v2_published": _nar_former_v2_form,
}


def _strip(model: Any) -> None:
    """Removes traces of the exporting machine, such as paths of source files."""
    model.ir_version = _IR_VERSION
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def _name_axes(value: Any, names: Sequence[str]) -> None:
    for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        if name:
            axis.dim_param = name


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences the exporter's warnings."""
    level_before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level_before)


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _copy_into(path: Path, folder: Path) -> None:
    shutil.copyfile(path, folder / path.name)
