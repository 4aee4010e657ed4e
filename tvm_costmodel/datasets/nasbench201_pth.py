"""NAS-Bench-201 as its authors publish it: ``.pth`` files that torch saved.

Dong and Yang, ICLR 2020. Two forms: the whole benchmark (``NAS-Bench-201-v1_1-096897.pth``, a dict
of ``meta_archs``, ``arch2infos`` and ``evaluated_indexes``) and its archive with a file per
architecture (``000157-FULL.pth``, a dict of ``less`` and ``full``). Either holds, per length of
training, the trials by data set and seed. Files are read with ``torch.load(weights_only=True)``,
which builds plain containers and tensors only; whatever else a pickle may name is refused, not run.
NATS-Bench's ``.pickle.pbz2`` files are plain pickles: refused, with the command that converts them.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvm_costmodel.datasets.nasbench201 import Cell201
from tvm_costmodel.datasets.readers import located, positive
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cells import nasbench201_cell

TRAININGS = {"12": "less", "200": "full"}
"""Epochs of a training -> the name under which the files hold it."""

_VALIDATION = (
    ("cifar10", "cifar10-valid"),
    ("cifar100", "cifar100"),
    ("ImageNet16-120", "ImageNet16-120"),
)
_BZIP2_MAGIC = b"BZh"
_CONVERT = (
    "python -c \"import csv, sys; from nats_bench import create; a = create(sys.argv[1], 'tss', "
    "fast_mode=False, verbose=False); w = csv.writer(sys.stdout); w.writerow(['idx', 'arch_str', "
    "'val_acc_cifar10']); w.writerows([i, s, a.get_more_info(i, 'cifar10-valid', hp='200', "
    "is_random=False)['valid-accuracy']] for i, s in enumerate(a))\" FILE > cells.csv"
)


def read_nasbench201_pth(path: str | os.PathLike[str], epochs: int = 200) -> list[Cell201]:
    """Reads the benchmark's ``.pth`` file, or that of one architecture from its archive.

    Accuracies are the means over seeds of the final validation accuracies (CIFAR-10: of the
    trainings on its training part alone); latencies, where the trials have them, those that the
    benchmark measured on its own GPU, one setting per data set.

    Args:
        path: The file.
        epochs: Length of the trainings, 200 or 12.

    Raises:
        ModelFileError: The file cannot be read, is truncated, of another version or needs
            unpickling, or a label is missing, zero, negative or NaN.
    """
    if str(epochs) not in TRAININGS:
        raise ModelFileError(
            f"{path}: cells were trained for {' or '.join(TRAININGS)} epochs, not {epochs}"
        )
    content = _load(path)
    cells = []
    for index, result in _results(content, TRAININGS[str(epochs)], path):
        cells.append(_cell(index, result, f"{path}: cell {index}"))
    if not cells:
        raise ModelFileError(f"{path}: the file holds no cells; download it again")
    return cells


def _load(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    import torch

    try:
        with Path(path).open("rb") as stream:
            if stream.read(3) == _BZIP2_MAGIC:
                raise ModelFileError(
                    f"{path}: a bzipped pickle (NATS-Bench), which cannot be read without running "
                    "code from the file; convert it once where you trust it, and read the table "
                    f"with read_nasbench201: {_CONVERT}"
                )
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except ModelFileError:
        raise
    except Exception as error:  # whatever torch meets in bytes that it did not write
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"{path}: damaged or truncated, or saved by something else than torch ({first}); "
            "download it again"
        ) from None
    if not isinstance(content, dict):
        raise _other_version(path, f"a {type(content).__name__}")
    return content


def _refused(path: str | os.PathLike[str], message: str) -> ModelFileError:
    foreign = re.search(r"GLOBAL ([\w.]+)", message)
    if foreign is None:
        return ModelFileError(
            f"{path}: damaged or truncated, or no file that torch saved; download it again"
        )
    return ModelFileError(
        f"{path}: holds objects of {foreign.group(1)}, which cannot be read without running code "
        f"from the file; convert it once where you trust it, and read the table with "
        f"read_nasbench201: {_CONVERT}"
    )


def _results(
    content: Mapping[str, Any], training: str, path: str | os.PathLike[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, trials) of each architecture."""
    if {"meta_archs", "arch2infos"} <= set(content):
        by_index = content["arch2infos"]
        if not isinstance(by_index, dict):
            raise _other_version(path, f"arch2infos as a {type(by_index).__name__}")
    elif set(TRAININGS.values()) & set(content):
        by_index = {None: content}
    else:
        raise _other_version(path, f"a dict of {', '.join(map(str, list(content)[:5]))}")
    for index, trainings in by_index.items():
        result = trainings.get(training) if isinstance(trainings, dict) else None
        if not isinstance(result, dict) or not {"arch_str", "all_results"} <= set(result):
            raise _other_version(path, f"no {training!r} trials for architecture {index}")
        number = result.get("arch_index", -1) if index is None else index
        if not isinstance(number, int) or not isinstance(result["all_results"], dict):
            raise _other_version(path, f"architecture {number!r} without numbered trials")
        yield number, result


def _cell(index: int, result: Mapping[str, Any], place: str) -> Cell201:
    with located(place, str(result["arch_str"])):
        graph = nasbench201_cell(str(result["arch_str"]))
    accuracy, latency = {}, {}
    for name, trained_on in _VALIDATION:
        trials = [
            trial
            for (data_set, _), trial in sorted(result["all_results"].items())
            if data_set == trained_on
        ]
        if not trials:
            continue
        values = [_final_accuracy(trial, f"{place}, {name}") for trial in trials]
        accuracy[name] = sum(values) / len(values)
        timed = [seconds for trial in trials for seconds in trial.get("latency") or ()]
        for seconds in timed:
            positive(seconds, f"{place}, latency on {name}")
        if timed:
            latency[f"nasbench201_gpu_{name}"] = float(sum(timed) / len(timed))
    if not accuracy:
        raise ModelFileError(
            f"{place}: no validation accuracy on {', '.join(n for n, _ in _VALIDATION)}; leave the "
            "cell out, or download the file again"
        )
    return Cell201(index, graph, accuracy, latency)


def _final_accuracy(trial: Any, place: str) -> float:
    accuracies = trial.get("eval_acc1es") if isinstance(trial, dict) else None
    epochs = trial.get("epochs") if isinstance(trial, dict) else None
    if not isinstance(accuracies, dict) or not isinstance(epochs, int):
        raise _other_version(place, "a trial without epochs and eval_acc1es")
    return positive(accuracies.get(f"x-valid@{epochs - 1}"), f"{place}: final validation accuracy")


def _other_version(path: str | os.PathLike[str], what: str) -> ModelFileError:
    return ModelFileError(
        f"{path}: of another version, or not NAS-Bench-201: {what}; give "
        "NAS-Bench-201-v1_1-096897.pth, or a file of its archive"
    )
