"""Every quoted figure has a command that can still be given; nothing is run."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from tvm_costmodel.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(ROOT.glob("benchmarks/*/reproduce.sh"))
FIGURES = (ROOT / "docs" / "figures.md").read_text()
RECORDED = (
    """() { printf '%s\\037' "${FUNCNAME[0]}" "$@" >> "$RECORD"; printf '\\n' >> "$RECORD"; }"""
)
STUBS = {
    "BASH_FUNC_python%%": RECORDED,
    "BASH_FUNC_tvm-costmodel%%": RECORDED,
    "BASH_FUNC_relay-stub%%": RECORDED,
    "BASH_FUNC_bash%%": "() { [[ $1 == *relay* ]] && echo relay-stub || echo /none/python; }",
    "BASH_FUNC_rm%%": "() { :; }",
    "BASH_FUNC_mkdir%%": "() { :; }",
}


def figures(script: Path) -> list[str]:
    return re.findall(r"^(\w+)\(\) \{", script.read_text(), re.MULTILINE)


def commands(script: Path, record: Path) -> list[list[str]]:
    """What a script of figures would run, word by word."""
    environment = {**os.environ, **STUBS, "RECORD": str(record)}
    environment["TVM_COSTMODEL_DATA"] = str(record.parent)
    subprocess.run(["bash", str(script)], env=environment, check=True, cwd=ROOT)
    return [line.split("\037")[:-1] for line in record.read_text().splitlines()]


class Parsed(Exception):
    """The command line was accepted."""


def check_benchmark(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a benchmark parse its command line, and nothing more."""
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name)
    arguments = words[2:] if words[0] == "-m" else words[1:]
    original = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *_: object) -> None:
        original(parser, arguments)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(Parsed):
            module.main()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_every_command_accepts_its_options(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = commands(script, tmp_path / "record")
    assert len(ran) >= len([name for name in figures(script) if name != "checkpoints"])
    for program, *words in ran:
        if program == "tvm-costmodel":
            build_parser().parse_args(words)
        elif words[0].startswith("benchmarks/schedules"):  # which import a TVM that has Relay
            options = [word for word in words if word.startswith("--")]
            assert all(f'"{option}"' in (ROOT / words[0]).read_text() for option in options)
        else:
            check_benchmark(words, monkeypatch)


def test_every_figure_has_a_command_and_every_command_a_figure() -> None:
    assert {script.parent.name for script in SCRIPTS} == {
        folder.parent.name for folder in ROOT.glob("benchmarks/*/__init__.py")
    }
    quoted = set(re.findall(r"`bash benchmarks/(\w+)/reproduce\.sh (\w+)`", FIGURES))
    declared = {(s.parent.name, name) for s in SCRIPTS for name in figures(s)}
    assert quoted <= declared
    assert {name for _, name in declared - quoted} == {"checkpoints", "pack_bench"}
    for script in SCRIPTS:
        readme = script.with_name("README.md").read_text()
        assert all(f"`{name}`" in readme for name in figures(script))


def test_every_results_file_is_named_by_a_row() -> None:
    patterns = set(re.findall(r"`([\w.*-]+\.(?:md|json|json\.xz))`", FIGURES))
    files = [path.name for path in (ROOT / "results").iterdir()]
    unnamed = [f for f in files if not any(Path(f).match(pattern) for pattern in patterns)]
    assert not unnamed
    assert not [p for p in patterns if not any(Path(f).match(p) for f in files)]
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"`([\w.*-]+\.\*\.md)`", readme)) <= patterns


def test_an_unknown_figure_is_one_line_with_those_there_are() -> None:
    script = ROOT / "benchmarks" / "nas" / "reproduce.sh"
    done = subprocess.run(["bash", script, "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "no figure nothing; there are: accuracy nnlqp_cells\n"
