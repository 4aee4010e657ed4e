"""The command line: ``tvm-costmodel COMMAND``, one file per command.

A command module has ``HELP``, ``configure(parser)`` and ``run(args) -> Output``; it parses and
prints, and the package does the work. Standard output carries only the result (a table or one JSON
object), standard error everything else. Exit codes: 0 done, 1 failed, 2 wrong usage or bad
input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from tvm_costmodel.cli.output import Output, write_result
from tvm_costmodel.errors import CostModelError, MissingDependencyError
from tvm_costmodel.tvm_version import fault_of_tvm, installed, is_tested, version_remedy

COMMANDS = (
    "export",
    "predict",
    "profile",
    "train",
    "calibrate",
    "compare",
    "tune",
    "devices",
    "models",
    "doctor",
)
INTERRUPTED = 130
_LONGEST = 1200


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and point at ``--help``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _common_options() -> _Parser:
    common = _Parser(add_help=False)
    group = common.add_argument_group("output")
    group.add_argument("--format", choices=("table", "json"), default="table")
    group.add_argument("-v", "--verbose", action="count", default=0, help="more messages on stderr")
    group.add_argument("-q", "--quiet", action="store_true", help="only errors on stderr")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    return common


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; their modules import what they need when they run."""
    from tvm_costmodel import __version__

    parser = _Parser(prog="tvm-costmodel", description="Learned cost model for Apache TVM.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = _common_options()
    for name in COMMANDS:
        module = importlib.import_module(f"tvm_costmodel.cli.{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, parents=[common]
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def _set_logging(args: argparse.Namespace) -> None:
    level = logging.DEBUG if args.debug or args.verbose > 1 else logging.WARNING
    level = logging.INFO if args.verbose == 1 and not args.debug else level
    level = logging.ERROR if args.quiet else level
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s: %(message)s")
    logging.getLogger("tvm_costmodel").setLevel(level)


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        line += "; free space, or choose a path on another disk"
    if len(line) > _LONGEST:  # a name or value of a damaged file; the remedy stands at the end
        line = f"{line[: _LONGEST - 300]} ... {line[-280:]}"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; ``sys.argv`` when not given.

    Returns:
        The exit code: 0, 1, 2 or 130.
    """
    args = build_parser().parse_args(argv)
    _set_logging(args)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what other packages print is no result
            output: Output = args.run(args)
        write_result(output, args.format)
        return output.exit_code
    except CostModelError as error:
        return _report(error, args.debug, error.exit_code)
    except ModuleNotFoundError as error:
        if args.debug or (error.name or "").startswith("tvm_costmodel"):
            raise
        missing = fault_of_tvm(error) or MissingDependencyError.of_import(error)
        return _report(missing, args.debug, missing.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a read-only folder, a missing permission
        return _report(error, args.debug, 2)
    except (RecursionError, MemoryError) as error:
        return _report(CostModelError(_too_large(error)), args.debug, 2)
    except Exception as error:
        if args.debug:
            raise
        if fault := fault_of_tvm(error):
            return _report(fault, False, fault.exit_code)
        what = f"unexpected {type(error).__name__}: {error}; --debug shows where"
        if not is_tested():
            what += f"; this may be the fault of {installed()}: {version_remedy()}"
        return _report(CostModelError(what), False, 1)
    except KeyboardInterrupt:
        print("interrupted; finished work is kept", file=sys.stderr)
        return INTERRUPTED


def entry() -> int:
    """Runs the command of ``sys.argv``, as a program of its own."""
    from tvm_costmodel.tvm_version import import_tvm_without_torch

    import_tvm_without_torch()
    return main()


def _too_large(error: BaseException) -> str:
    what = "nested too deeply" if isinstance(error, RecursionError) else "too large for the memory"
    return f"an input is {what}; check that the files given are whole and the right ones"


def _report(error: Exception, debug: bool, code: int) -> int:
    if debug:
        raise error
    print(f"error: {_one_line(error)}", file=sys.stderr)
    return code
