"""Trained networks through ONNX Runtime: an exported checkpoint predicts where torch is not.

The arithmetic around the networks is that of `roofline_answers` and `network`, in NumPy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tvm_costmodel.baselines.flops import log_power_law
from tvm_costmodel.errors import CheckpointError, ConfigError, MissingDependencyError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.tokenizer import Tokenizer, collate
from tvm_costmodel.tokenizer.joined import JoinedGraphs, Places
from tvm_costmodel.tokenizer.kernels import KernelTokenizer
from tvm_costmodel.tokenizer.physical import PhysicalTokenizer, PhysicalTokens
from tvm_costmodel.tokenizer.relay_kernels import RelayKernelTokenizer
from tvm_costmodel.training.checkpoint import Export, read_card, read_export
from tvm_costmodel.training.kernel_prices import Place
from tvm_costmodel.training.regressor import Regressor
from tvm_costmodel.training.roofline_answers import RooflineAnswers

if TYPE_CHECKING:
    from typing_extensions import Self

_ROWS = 3000  # operators per run of a padded network, padding included


def open_session(content: bytes, what: str) -> Any:
    """An ONNX Runtime session on the CPU.

    It keeps to the calling thread: on several threads ONNX Runtime's scatter loses sums of equal
    indices (https://github.com/microsoft/onnxruntime/issues/18048), and threads that wait for the
    next graph would disturb measurements on the same machine.

    Args:
        content: The serialised model.
        what: Its name in errors.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        CheckpointError: This ONNX Runtime does not take the model.
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
    """A network of a checkpoint in ONNX. It predicts and is saved again, but does not learn.

    Args:
        folder: The checkpoint, which must stay where it is for `save`.
        description: What its card says of the model.

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

    def _fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        held: Sequence[OpGraph],
        held_latency_s: np.ndarray,
    ) -> None:
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
    """The roofline former: its network answers with what each operator costs by each member."""

    name = "roofline_former"
    tokenizer_class: ClassVar[type[PhysicalTokenizer | KernelTokenizer]] = PhysicalTokenizer

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__(folder, description)
        self.tokenizer = self.tokenizer_class.from_description(description["tokenizer"])

    def _members(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        operators, graph = self._operators([self.tokenizer.encode(graph) for graph in graphs])
        whole = np.zeros((len(graphs), len(operators)), np.float32)
        np.add.at(whole, graph, operators.T)  # float32 and in order, as torch sums
        return whole.T.astype(np.float64)

    def _operators(self, tokens: Sequence[PhysicalTokens]) -> tuple[np.ndarray, np.ndarray]:
        """Latency in ms of every token by each member, float32 [members, R], and its graph, [R]."""
        joined = JoinedGraphs(tokens)
        places = joined.places(np.arange(len(tokens)))
        (operator_ms,) = self.session.run(["operator_ms"], self._inputs(joined, places))
        return operator_ms[..., 0], places.graph  # [members, R, devices]

    def _inputs(self, joined: JoinedGraphs, places: Places) -> dict[str, np.ndarray]:
        return {
            "slot": joined.slot,
            "numbers": joined.numbers,
            "work": joined.work,
            "source": places.source,
            "target": places.target,
        }

    def _parts(self, tokens: PhysicalTokens) -> np.ndarray:
        return self._operators([tokens])[0]


class ExportedKernelFormer(ExportedRooflineFormer):
    """The kernel former: its network prices rows, each one a kernel of a network as decided."""

    name = "kernel_former"
    tokenizer_class = KernelTokenizer

    @property
    def sees_decisions(self) -> bool:
        """Whether what is decided for a kernel changes what its neighbours cost."""
        return bool(self.description["network"]["context"] == "full")

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[PhysicalTokens]:
        """The tokens themselves: attention over a network is cheap beside its kernels' costs."""
        return list(tokens)

    def likeness(self, context: PhysicalTokens) -> None:
        """Attention's results never leave the network that answers."""

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        """See `KernelPricer.costs`."""
        joined = JoinedGraphs([tokens for tokens, _ in places])
        at = [first + at for first, (_, at) in zip(joined.first, places, strict=False)]
        asked = {"row": np.concatenate(at), "row_numbers": numbers, "row_work": work}
        inputs = self._context(joined, joined.places(np.arange(len(places)))) | asked
        (operator_ms,) = self.session.run(["operator_ms"], inputs)  # [members, R, devices]
        return np.asarray(operator_ms[..., 0].T, dtype=np.float64)

    def _inputs(self, joined: JoinedGraphs, places: Places) -> dict[str, np.ndarray]:
        every = {"row": places.rows, "row_numbers": joined.numbers, "row_work": joined.work}
        return self._context(joined, places) | every

    def _context(self, joined: JoinedGraphs, places: Places) -> dict[str, np.ndarray]:
        whole = super()._inputs(joined, places)
        return {name: array for name, array in whole.items() if name != "work"}


class ExportedRelayKernelFormer(ExportedKernelFormer):
    """The kernel former over networks that Relay compiles."""

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
        for part in _alike([len(graph) for graph in graphs]):
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
        return answers * np.exp(log_power_law(graphs, self.power_law))


class ExportedPublishedNarFormerV2(ExportedNarFormerV2):
    """NAR-Former V2 as published."""

    name = "nar_former_v2_published"


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of graphs within a factor of 2 in length, as many as fit into a run."""
    part: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if part and (length > 2 * lengths[part[0]] or (len(part) + 1) * length > _ROWS):
            yield part
            part = []
        part.append(place)
    yield part
