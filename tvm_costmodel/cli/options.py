"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tvm_costmodel.errors import ConfigError


def add_model(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """Adds MODEL (or MODEL ...) and ``--shape``."""
    formats = ".onnx, .pt2 (torch.export.save), a Relax module's JSON"
    if many:  # to be compiled, which an OpGraph cannot be
        parser.add_argument("model", metavar="MODEL", nargs="*", help=formats)
    else:
        parser.add_argument("model", metavar="MODEL", help=f"{formats}, or an OpGraph's JSON")
    parser.add_argument(
        "--shape",
        metavar="NAME=D,D,...",
        action="append",
        default=[],
        help="shape of a dynamic input, for instance input=1,3,224,224; may be repeated",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``."""
    parser.add_argument(
        "--device",
        default="cpu",
        help="a name from `tvm-costmodel devices`, or a .toml file; cpu is this machine (default)",
    )


def positive_int(text: str) -> int:
    """Reads a count of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
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


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Adds ``--store`` and ``--device`` of a set of labels."""
    parser.add_argument(
        "--store",
        metavar="DB",
        required=True,
        help="measurement store (.db), or labels exported from one (.jsonl.xz)",
    )
    parser.add_argument("--device", help="which device's labels, when the store has several")
