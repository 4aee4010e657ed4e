"""What Linux lets a process give up for good: files, programs, sockets, other processes.

Landlock (Linux 5.13) takes away files, from 6.7 on TCP ports, from 6.12 on signals to others; a
seccomp filter takes away system calls; a namespace takes away the network. Each function says
whether the system offers it, and changes nothing where it does not.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
import sys
from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_FILTER = 1, 38, 22, 2
_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
# Execute, write, remove, make and truncate, by the version of Landlock's interface; not reading.
_WRITES = {1: 0x1FF3, 2: 0x3FF3, 3: 0x7FF3}
_READS = 0xC
_TCP, _CONNECT_TCP = 0x3, 0x2
_ABSTRACT_SOCKETS_AND_SIGNALS = 0x3
_RULE_PATH, _RULE_PORT = 1, 2

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
# fmt: off
_REFUSED = {
    # clone, fork, vfork, execve, execveat, clone3; kill, tkill, tgkill, pidfd_send_signal; ptrace,
    # process_vm_readv and _writev, pidfd_getfd; socketpair, io_uring_setup; unshare, mount, bpf,
    # perf_event_open, add_key, request_key, keyctl
    "x86_64": (
        56, 57, 58, 59, 322, 435, 62, 200, 234, 424, 101, 310, 311, 438, 53, 425,
        272, 165, 321, 298, 248, 249, 250,
    ),
    "aarch64": (
        220, 221, 281, 435, 129, 130, 131, 424, 117, 270, 271, 438, 199, 425,
        97, 40, 280, 241, 217, 218, 219,
    ),
}
# fmt: on
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _PERMISSION_DENIED = 0x7FFF0000, 0x00050001
_X32 = 0x40000000


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def end_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_network() -> bool:
    """Moves this process into a network without interfaces."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) == 0)
    except (OSError, AttributeError):
        return False


def forbid_writing() -> bool:
    """Lets this thread write no file, start no program and open no TCP connection (Landlock)."""
    return _restrict(None, 0)


def confine(readable: Iterable[str], port: int) -> bool:
    """Leaves this process what a TCP client needs.

    It may then read below some folders, write and start nothing, connect to one port, and signal
    or trace no process.

    Args:
        readable: Folders, with links resolved.
        port: TCP port that it may connect to.

    Returns:
        Whether its files are restricted (Landlock).
    """
    restricted = _restrict(readable, port)
    _refuse_system_calls()
    return restricted


def _restrict(readable: Iterable[str] | None, port: int) -> bool:
    """Restricts files, and TCP but for one port; without a list of folders all may be read."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    files = _WRITES[min(version, 3)] | (0 if readable is None else _READS)
    rules = (ctypes.c_uint64 * 3)(files, _TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    ruleset = libc.syscall(_CREATE, rules, size, ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    for path in readable or ():
        if os.path.isdir(path):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = _PathRule(_READS, folder)
            libc.syscall(_ADD_RULE, ruleset, _RULE_PATH, ctypes.byref(rule), ctypes.c_uint32(0))
            os.close(folder)
    if port and version >= 4:
        place = (ctypes.c_uint64 * 2)(_CONNECT_TCP, port)
        libc.syscall(_ADD_RULE, ruleset, _RULE_PORT, place, ctypes.c_uint32(0))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done = libc.syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
    return bool(done == 0)


def _refuse_system_calls() -> None:
    """Refuses starting, signalling and tracing processes, and sockets other than TCP (seccomp)."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        return
    refused = _REFUSED[machine]
    count = len(refused)
    # (operation, to skip where it is so, to skip where not, operand); the last two are the verdicts
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 0, count + 9, _ARCHITECTURES[machine]),
        (_LOAD, 0, 0, 0),  # the system call
        (_AT_LEAST, count + 7, 0, _X32),
        *((_EQUAL, count + 6 - i, 0, number) for i, number in enumerate(refused)),
        (_EQUAL, 0, 7, _SOCKET[machine]),
        (_LOAD, 0, 0, 16),  # its family
        (_EQUAL, 1, 0, socket.AF_INET),
        (_EQUAL, 0, 3, socket.AF_INET6),
        (_LOAD, 0, 0, 24),  # its type
        (_AND, 0, 0, 0xF),
        (_EQUAL, 1, 0, socket.SOCK_STREAM),
        (_RETURN, 0, 0, _PERMISSION_DENIED),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(_Filter(len(program), code)))
