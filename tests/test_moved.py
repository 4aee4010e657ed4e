"""Modules under their names of version 0.1 are the present modules, with a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tvm_costmodel import _moved

PACKAGE = Path(_moved.__file__).parent


@pytest.mark.parametrize("old", _moved.MOVED)
def test_a_moved_module_exists_where_it_is_said_to_be(old: str) -> None:
    path = PACKAGE.joinpath(*_moved.MOVED[old].split("."))
    assert path.with_suffix(".py").is_file()
    assert not PACKAGE.joinpath(*old.split(".")).with_suffix(".py").exists()


def test_an_old_name_gives_the_module_itself_and_warns() -> None:
    sys.modules.pop("tvm_costmodel.tokenizer.cells", None)
    with pytest.warns(DeprecationWarning, match="tvm_costmodel.nas.cell_tokens now"):
        old = importlib.import_module("tvm_costmodel.tokenizer.cells")
    present = importlib.import_module("tvm_costmodel.nas.cell_tokens")
    assert old is present
    assert present.__spec__ is not None and present.__spec__.name == "tvm_costmodel.nas.cell_tokens"


def test_names_that_never_were_stay_missing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("tvm_costmodel.training.nothing")


def test_a_script_of_version_0_1_runs() -> None:
    script = (
        "from tvm_costmodel.predictor import load_predictor\n"
        "import tvm_costmodel.baselines.cell_features, tvm_costmodel.frontends.torch\n"
        "print(load_predictor.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "tvm_costmodel.predictors.loading"
