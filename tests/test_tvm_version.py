"""An environment has a TVM with Relay or one without; asking for the other one says so."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import tvm_costmodel as tcm
from tvm_costmodel import tvm_version
from tvm_costmodel.cli import main
from tvm_costmodel.errors import MissingDependencyError
from tvm_costmodel.frontends.relay.export import ExportGraph
from tvm_costmodel.tvm_version import has_relax, has_relay

ENDS = {"export": ["-o", "graph.json"], "profile": ["--store", "store.db"]}


def test_this_environment_has_the_tvm_without_relay() -> None:
    assert has_relax() and not has_relay()
    assert tvm_version.installed().startswith("apache-tvm 0.")


@pytest.mark.parametrize("ask", [lambda: tcm.from_relay(None), lambda: ExportGraph(print)])
def test_relay_without_relay(ask) -> None:
    with pytest.raises(MissingDependencyError, match=r"Relay left TVM at 0.20.*relay_environment"):
        ask()


def test_the_compiler_of_relay_does_not_load() -> None:
    package = importlib.import_module("tvm_costmodel.compilers.relay")
    with pytest.raises(MissingDependencyError, match=r"Relay left TVM at 0.20"):
        _ = package.build


@pytest.mark.parametrize("command", ENDS)
def test_commands_say_so_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(b"\x08\x08")
    assert main([command, "model.onnx", "--compiler", "relay", *ENDS[command]]) == 2
    error = capsys.readouterr().err.strip()
    assert "apache-tvm" in error and "scripts/relay_environment.sh" in error
    assert "\n" not in error and not Path("store.db").exists()


def test_the_other_way_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("relay", "relax"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    monkeypatch.setattr(tvm_version, "_folder", lambda: tmp_path)
    assert has_relay() and not has_relax()
    with pytest.raises(MissingDependencyError, match="add --compiler relay"):
        tvm_version.require_relax()
    monkeypatch.setattr(tvm_version, "_folder", lambda: None)
    with pytest.raises(MissingDependencyError, match="needs TVM: pip install apache-tvm"):
        tvm_version.require_relax()
    with pytest.raises(MissingDependencyError, match="none is here"):
        tvm_version.require_relay()


@pytest.mark.parametrize(
    ("found", "error", "warning"),
    [
        ("apache-tvm 0.26.0", "0.26.0, and this package needs 0.27 .tested with 0.27.0 and", ""),
        ("TVM 0.25.dev7 in /src/tvm", "0.25.dev7 .* pip install apache-tvm==0.27", ""),
        ("apache-tvm 0.27.1", "", ""),
        (
            "apache-tvm 0.28.0",
            "",
            "0.28.0 is not known to work: tested with 0.27.0 and 0.27.0.post1",
        ),
        ("the TVM in /src/tvm", "", ""),
    ],
)
def test_versions_are_checked_when_tvm_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found, error, warning
) -> None:
    tvm_version._require_known_version.cache_clear()
    monkeypatch.setattr(tvm_version, "installed", lambda: found)
    if error:
        with pytest.raises(MissingDependencyError, match=error):
            tvm_version.require_relax()
    else:
        tvm_version.require_relax()
        tvm_version.require_relax()
    assert caplog.text.count("is not known to work") == bool(warning) and warning in caplog.text
    assert tvm_version.is_tested() is not bool(error or warning)
    tvm_version._require_known_version.cache_clear()


def test_a_version_built_from_source_is_read_from_its_files(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tvm_version, "_DISTRIBUTIONS", ())
    monkeypatch.setattr(tvm_version, "_folder", lambda: tmp_path)
    assert tvm_version.version() is None
    (tmp_path / "libinfo.py").write_text('x = 1\n__version__ = "0.28.dev0"\n')
    assert tvm_version.version() == (0, 28)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise OSError('libtvm.so: wrong ELF\\nclass')", "(OSError: libtvm.so: wrong ELF class)"),
        ("IRModule = runtime = 1", "(AttributeError: module 'tvm' has no attribute 'target')"),
        ("IRModule = runtime = target = 1", "No module named 'tvm.relax.frontend')"),
    ],
    ids=["another platform's", "half there", "lacks a module"],
)
def test_a_broken_installation_is_one_line(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tvm" / "relax").mkdir(parents=True)
    (tmp_path / "tvm" / "relax" / "__init__.py").touch()
    (tmp_path / "tvm" / "__init__.py").write_text(source)
    model = onnx.__path__[0] + "/backend/test/data/light/light_squeezenet.onnx"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tvm_costmodel",
            "export",
            model,
            "-o",
            str(tmp_path / "graph.json"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert "pip install --force-reinstall apache-tvm==" in done.stderr


LEAN = """
import json, sys
from tvm_costmodel import tvm_version
tvm_version.import_tvm_without_torch()
assert tvm_version.has_relax()  # looking for TVM does not use the hook up
import tvm
without = "torch" not in sys.modules
import torch
print(json.dumps([without, torch.zeros(2).tolist()]))
"""


def test_a_command_imports_tvm_without_torch_which_can_follow() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, [0.0, 0.0]]
