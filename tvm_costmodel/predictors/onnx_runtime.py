"""Runs exported checkpoints through ONNX Runtime, where torch is not installed.

The arithmetic around the networks, that of `ensemble` and `token_networks`, is in NumPy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tvm_costmodel.errors import CheckpointError, ConfigError, MissingDependencyError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.checkpoint import Export, read_card, read_export
from tvm_costmodel.predictors.ensemble import RooflineAnswers
from tvm_costmodel.predictors.flops import log_power_law
from tvm_costmodel.predictors.kernel_costs import Place
from tvm_costmodel.tokenizer import Tokenizer, collate
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer, PhysicalTokens
from tvm_costmodel.tokenizer.ragged import BatchIndex, RaggedBatch
from tvm_costmodel.tokenizer.relay_kernel_features import RelayKernelTokenizer
from tvm_costmodel.training.dataset import LabelledGraphs

if TYPE_CHECKING:
    from typing_extensions import Self

_ROWS = 3000  # operators per run of a padded network, including padding


def open_session(content: bytes, what: str) -> Any:
    """An ONNX Runtime session on the CPU.

    It runs in the calling thread only: on several threads ONNX Runtime's scatter loses sums of
    equal indices (https://github.com/microsoft/onnxruntime/issues/18048), and threads that wait for
    the next graph would disturb measurements on the same machine.

    Args:
        content: The serialised model.
        what: Name of the model in errors.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        CheckpointError: This version of ONNX Runtime does not accept the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "the onnxruntime engine needs ONNX Runtime: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common root of their own
        raise CheckpointError(
            f"ONNX Runtime {onnxruntime.__version__} does not take {what} "
            f"({str(error).splitlines()[0]}): pip install -U onnxruntime"
        ) from error


class ExportedRegressor(Regressor):
    """Base class of checkpoints in ONNX, which predict and can be saved but not trained.

    Args:
        folder: The checkpoint, which must not be moved before `save`.
        description: The ``model`` entry of its card.

    Raises:
        CheckpointError: The checkpoint holds no export, or a damaged one.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder, self.description = folder, description
        self.session = open_session(read_export(folder).content, f"the network of {folder}")

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        return cls(folder, description)

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        raise ConfigError(
            f"an exported {self.name} does not learn: train with torch (pip install torch)"
        )

    def _is_fitted(self) -> bool:
        return True

    def _describe(self) -> Mapping[str, Any]:
        return self.description

    def _write(self, folder: Path) -> None:
        name = read_card(self.folder)["weights"]["file"]
        shutil.copyfile(self.folder / name, folder / name)

    def _export(self) -> Export:
        return read_export(self.folder)


class ExportedRooflineFormer(RooflineAnswers, ExportedRegressor):
    """`RooflineFormer`: its network computes the latency of each operator for each member."""

    name = "roofline_former"
    tokenizer_class: ClassVar[type[PhysicalTokenizer]] = PhysicalTokenizer

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__(folder, description)
        self.tokenizer = self.tokenizer_class.from_description(description["tokenizer"])

    def _members(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        operators, graph = self._operators([self.tokenizer.encode(graph) for graph in graphs])
        total = np.zeros((len(graphs), len(operators)), np.float32)
        np.add.at(total, graph, operators.T)  # float32 and in order, as torch sums
        return np.asarray(total.T, np.float64)

    def _operators(self, tokens: Sequence[PhysicalTokens]) -> tuple[np.ndarray, np.ndarray]:
        """Latency in ms of every token by each member, float32 [members, R], and its graph, [R]."""
        ragged = RaggedBatch(tokens)
        index = ragged.places(np.arange(len(tokens)))
        (operator_ms,) = self.session.run(["operator_ms"], self._inputs(ragged, index))
        return operator_ms[..., 0], index.graph  # [members, R, devices]

    def _inputs(self, ragged: RaggedBatch, index: BatchIndex) -> dict[str, np.ndarray]:
        return {
            "slot": ragged.slot,
            "numbers": ragged.numbers,
            "work": ragged.work,
            "source": index.source,
            "target": index.target,
        }

    def _parts(self, tokens: PhysicalTokens) -> np.ndarray:
        return self._operators([tokens])[0]


class ExportedKernelFormer(ExportedRooflineFormer):
    """`KernelFormer`: its network computes the latency of rows, each a kernel with decisions."""

    name = "kernel_former"
    tokenizer_class = KernelTokenizer

    @property
    def sees_decisions(self) -> bool:
        """Whether the decisions for a kernel change the cost of its neighbours."""
        return bool(self.description["network"]["context"] == "full")

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[PhysicalTokens]:
        """The tokens themselves: attention over a network is cheap compared with its kernels."""
        return list(tokens)

    def cache_key(self, context: PhysicalTokens) -> None:
        """None: the exported network does not return the results of its attention."""

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        """See `KernelCostModel.costs`."""
        ragged = RaggedBatch([tokens for tokens, _ in places])
        at = [first + at for first, (_, at) in zip(ragged.first, places, strict=False)]
        rows = {"row": np.concatenate(at), "row_numbers": numbers, "row_work": work}
        inputs = self._context(ragged, ragged.places(np.arange(len(places)))) | rows
        (operator_ms,) = self.session.run(["operator_ms"], inputs)  # [members, R, devices]
        return np.asarray(operator_ms[..., 0].T, dtype=np.float64)

    def _inputs(self, ragged: RaggedBatch, index: BatchIndex) -> dict[str, np.ndarray]:
        rows = {"row": index.rows, "row_numbers": ragged.numbers, "row_work": ragged.work}
        return self._context(ragged, index) | rows

    def _context(self, ragged: RaggedBatch, index: BatchIndex) -> dict[str, np.ndarray]:
        inputs = super()._inputs(ragged, index)
        return {name: array for name, array in inputs.items() if name != "work"}


class ExportedRelayKernelFormer(ExportedKernelFormer):
    """`KernelFormer` over networks that Relay compiles."""

    name = "relay_kernel_former"
    tokenizer_class = RelayKernelTokenizer


class ExportedNarFormerV2(ExportedRegressor):
    """NAR-Former V2 on padded batches of graphs of about equal length."""

    name = "nar_former_v2"

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__(folder, description)
        self.tokenizer = Tokenizer.from_description(description["tokenizer"])
        self.unit = str(description["output"]["unit"])
        self.power_law = np.array(description["output"]["power_law"], dtype=np.float64)

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        answers = np.zeros(len(graphs))
        for part in _similar_lengths([len(graph) for graph in graphs]):
            batch = collate([self.tokenizer.encode(graphs[i]) for i in part])
            inputs = {
                "tokens": batch.features,
                "adjacency": batch.adjacency,
                "mask": batch.mask,
                "static": batch.static,
            }
            answers[part] = self.session.run(["answer"], inputs)[0]
        if self.unit == "ms":
            return answers * 1e-3
        seconds: np.ndarray = answers * np.exp(log_power_law(graphs, self.power_law))
        return seconds


class ExportedPublishedNarFormerV2(ExportedNarFormerV2):
    """NAR-Former V2 as published."""

    name = "nar_former_v2_published"


def _similar_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of graphs within a factor of 2 in length, as many as fit into a run."""
    part: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if part and (length > 2 * lengths[part[0]] or (len(part) + 1) * length > _ROWS):
            yield part
            part = []
        part.append(index)
    yield part
