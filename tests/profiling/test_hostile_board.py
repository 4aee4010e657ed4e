"""A board that attacks the host through TVM's session: it reaches a process that may do nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm_costmodel.compilers.registry import compiler_named
from tvm_costmodel.confinement import confine
from tvm_costmodel.errors import MeasurementError
from tvm_costmodel.isolation import clean_environment, in_fork
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.devices.targets import make_target
from tvm_costmodel.profiling.runners.reference import build_reference
from tvm_costmodel.profiling.runners.rpc import RpcRunner

ROOT = Path(__file__).resolve().parents[2]
ATTACK = """
def attack(remote):
    report = {}
    def call(name, *arguments):
        try:
            report[name] = str(remote.get_function(name)(*arguments))
        except Exception as error:
            report[name] = "refused: " + str(error)
    call("target.llvm_get_system_triple")
    call("rpc.CreatePipeClient", "/usr/bin/touch", MARKER)
    call("ffi.ModuleLoadFromFile", LIBRARY)
    call("runtime.LoadParamsFromFile", SECRET)
    return report
"""
LIBRARY = """
#include <fcntl.h>
__attribute__((constructor)) static void run() { open(MARKER, O_CREAT | O_WRONLY, 0600); }
"""


def test_a_board_reaches_a_process_that_writes_reads_and_starts_nothing(
    tmp_path: Path,
) -> None:
    marker, secret = tmp_path / "marker", tmp_path / "secret"
    secret.write_text("key")
    source, library = tmp_path / "evil.c", tmp_path / "evil.so"
    source.write_text(LIBRARY.replace("MARKER", json.dumps(str(marker))))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    names = {"MARKER": marker, "LIBRARY": library, "SECRET": secret}
    head = "".join(f"{name} = {str(path)!r}\n" for name, path in names.items())
    (tmp_path / "attack.py").write_text(head + ATTACK)
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.hostile_board", report, tmp_path / "attack.py"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as board:
        try:
            assert board.stdout is not None
            tracker = board.stdout.readline().strip()
            device = resolve_device("cpu").with_tracker(tracker, "hostile")
            target = make_target(device, compiler_named("relax"))
            library = build_reference(target)
            build = SimpleNamespace(executable=SimpleNamespace(mod=library), kernel_library=library)
            with pytest.raises(MeasurementError, match="opening a session on 'hostile' failed"):
                RpcRunner(device, target).load(build, [])
        finally:
            board.kill()
    done = json.loads(report.read_text())
    assert "linux" in done.pop("target.llvm_get_system_triple"), "the attack did not arrive"
    assert not marker.exists()
    if in_fork(lambda: b"%d" % confine([], 9)) == b"0":
        pytest.skip("this kernel offers no Landlock")
    assert len(done) == 3 and all(text.startswith("refused") for text in done.values()), done


def test_a_confined_process_gives_up_all_but_one_port(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "library").write_text("x")
    (tmp_path / "secret").write_text("key")
    board, other = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    addresses = board.getsockname(), other.getsockname()
    attempts: dict[str, Callable[[], object]] = {
        "read a library": lambda: (tmp_path / "open" / "library").read_text(),
        "reach the board": lambda: socket.socket().connect(addresses[0]),
        "read a secret": lambda: (tmp_path / "secret").read_text(),
        "list a folder": lambda: os.listdir(tmp_path),
        "write": lambda: (tmp_path / "open" / "marker").write_text("x"),
        "remove": lambda: (tmp_path / "open" / "library").unlink(),
        "start a program": lambda: os.execv("/bin/true", ["true"]),
        "fork": lambda: os.fork() or os._exit(0),
        "signal": lambda: os.kill(os.getppid(), signal.SIGUSR1),
        "read its parent's variables": lambda: Path(f"/proc/{os.getppid()}/environ").read_text(),
        "reach others": lambda: socket.socket().connect(addresses[1]),
        "send datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "reach daemons": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    }

    def attack() -> bytes:
        done = [str(confine([str(tmp_path / "open")], addresses[0][1]))]
        for name, attempt in attempts.items():
            try:
                attempt()
                done.append(name)
            except OSError:
                pass
        return json.dumps(done).encode()

    restricted, *done = json.loads(_in_plain_fork(attack))
    board.close()
    other.close()
    if restricted == "False":
        pytest.skip("this kernel offers no Landlock")
    assert [name for name in done if name != "reach others"] == list(attempts)[:2]
    assert (tmp_path / "open" / "library").exists()


def _in_plain_fork(action: Callable[[], bytes]) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, action())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    return content


def test_programs_apart_know_no_variables_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "LDAP_PASSWORD", "SSH_AUTH_SOCK", "PYTHON_KEY"):
        monkeypatch.setenv(name, "secret")
    known = clean_environment("/somewhere")
    assert "secret" not in known.values()
    assert (known["HOME"], known["PATH"]) == ("/somewhere", os.environ["PATH"])
