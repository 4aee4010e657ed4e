"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from tvm_costmodel.compilers.registry import COMPILERS, DEFAULT_COMPILER
from tvm_costmodel.errors import ConfigError


def add_model(parser: argparse.ArgumentParser, many: bool = False, compiled: bool = False) -> None:
    """Adds MODEL (or MODEL ..., to be compiled) and ``--shape``; an OpGraph cannot be compiled."""
    formats = ".onnx, .pt2 (torch.export.save), a Relax module's JSON"
    if many:
        parser.add_argument("model", metavar="MODEL", nargs="*", help=formats)
    else:
        formats += "" if compiled else ", or an OpGraph's JSON"
        parser.add_argument("model", metavar="MODEL", help=formats)
    parser.add_argument(
        "--shape",
        metavar="NAME=D,D,...",
        action="append",
        default=[],
        help="shape of a dynamic input, for instance input=1,3,224,224; may be repeated",
    )


def add_device(parser: argparse.ArgumentParser, default: str | None = "cpu") -> None:
    """Adds ``--device``."""
    parser.add_argument(
        "--device",
        default=default,
        help="a name from `tvm-costmodel devices`, or a .toml file; cpu is this machine (default)",
    )


def add_compiler(parser: argparse.ArgumentParser) -> None:
    """Adds ``--compiler``."""
    parser.add_argument(
        "--compiler",
        choices=tuple(COMPILERS),
        default=DEFAULT_COMPILER,
        help="relay: read and compile with Relay, in an environment whose TVM has it",
    )


def add_board(parser: argparse.ArgumentParser) -> None:
    """Adds the options of where to measure: cores and threads, or a board's tracker and key."""
    parser.add_argument(
        "--cores",
        type=core_list,
        metavar="C,C,...",
        help="cores to measure on (default: the last ones)",
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads of a network")
    parser.add_argument("--tracker", metavar="HOST:PORT", help="TVM RPC tracker of the board")
    parser.add_argument("--key", metavar="KEY", help="the board's key at the tracker")


class _RenamedOption(argparse.Action):
    """Stops with one line that names the option to use instead."""

    def __init__(self, option_strings: Sequence[str], dest: str, instead: str) -> None:
        super().__init__(option_strings, dest, nargs="?", default=dest, help=argparse.SUPPRESS)
        self._instead = instead

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string} is now {self._instead}")


def renamed_option(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Makes the option ``old`` exit with 2 and one line that names ``new``; ``--help`` hides it."""
    parser.add_argument(old, action=_RenamedOption, dest=argparse.SUPPRESS, instead=new)


def positive_int(text: str) -> int:
    """Reads a count of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def seed_number(text: str) -> int:
    """Reads a seed, 0 or more and below 2**32, for argparse."""
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to 2**32 - 1")
    return value


def positive_float(text: str) -> float:
    """Reads a number above 0, for argparse."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def core_list(text: str) -> tuple[int, ...]:
    """Reads numbers of cores such as ``0,1``, for argparse."""
    try:
        cores = tuple(int(part) for part in text.split(","))
    except ValueError:
        cores = ()
    if not cores or min(cores) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of cores such as 1 or 0,1")
    return cores


def parse_shapes(items: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Reads ``NAME=D,D,...`` items.

    Raises:
        ConfigError: An item is not of that form, or a dimension is not 1 or more.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for item in items:
        name, _, dimensions = item.rpartition("=")
        try:
            shape = tuple(int(part) for part in dimensions.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise ConfigError(
                f"--shape {item!r} is not NAME=D,D,... with dimensions of 1 or more; "
                "for instance --shape input=1,3,224,224"
            )
        shapes[name] = shape
    return shapes


def add_labels(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds ``--store`` and ``--device`` of a set of labels."""
    parser.add_argument(
        "--store",
        metavar="DB",
        required=required,
        help="measurement store (.db), or labels exported from one (.jsonl.xz)",
    )
    parser.add_argument("--device", help="which device's labels, when the store has several")
    add_keep_stale(parser)


def add_keep_stale(parser: argparse.ArgumentParser) -> None:
    """Adds ``--keep-stale``."""
    parser.add_argument(
        "--keep-stale",
        action="store_true",
        help="also take labels of code that has changed since, as of a device that is gone",
    )
