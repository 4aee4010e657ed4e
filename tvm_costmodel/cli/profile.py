"""``profile``: measures networks on a device into a store."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm_costmodel.cli.options import (
    add_device,
    add_model,
    parse_shapes,
    positive_float,
    positive_int,
)
from tvm_costmodel.cli.output import Output, milliseconds, table
from tvm_costmodel.errors import ConfigError

if TYPE_CHECKING:
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.profiling.profiler import Profiler, ProfileSummary
    from tvm_costmodel.profiling.sources import Source

HELP = "measure models or a suite of workloads; resumes where it stopped"
DEFAULT_COUNT = 100
SHOWN_RESULTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_model(parser, many=True)
    add_device(parser)
    parser.add_argument("--store", metavar="DB", required=True, help="store to measure into")
    parser.add_argument(
        "--suite", metavar="NAME", help="workloads to measure: default, quick, or a family"
    )
    parser.add_argument(
        "--count", type=positive_int, metavar="N", help=f"networks of the suite ({DEFAULT_COUNT})"
    )
    parser.add_argument("--seed", type=int, default=0, help="which networks the suite draws")
    parser.add_argument("--minutes", type=positive_float, metavar="M", help="stop after this time")
    parser.add_argument(
        "--remeasure-stale",
        action="store_true",
        help="measure again what an older pipeline, schedule rule or protocol measured",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try networks again that failed before"
    )
    parser.add_argument(
        "--cores", metavar="C,C,...", help="cores to measure on (default: the last ones)"
    )
    parser.add_argument("--tracker", metavar="HOST:PORT", help="TVM RPC tracker of the board")
    parser.add_argument("--key", metavar="KEY", help="the board's key at the tracker")


def run(args: argparse.Namespace) -> Output:
    """Measures; exit code 1 when nothing could be measured, 130 when interrupted."""
    from tvm_costmodel.profiling.profiler import Profiler

    sources = _sources(args)
    profiler = Profiler(
        _device(args),
        args.store,
        cores=_cores(args.cores),
        retry_failed=args.retry_failed,
        progress=not args.quiet,
    )
    summary = _run(profiler, args, sources)
    return _output(summary)


def _run(profiler: Profiler, args: argparse.Namespace, sources: Sequence[Source]) -> ProfileSummary:
    if args.remeasure_stale:
        return profiler.remeasure_stale(minutes=args.minutes)
    return profiler.run(sources, minutes=args.minutes)


def _device(args: argparse.Namespace) -> Device:
    from tvm_costmodel.profiling.devices import resolve_device

    device = resolve_device(args.device)
    if args.key and not args.tracker and device.runner == "local":
        raise ConfigError("--key names a board at a tracker: give --tracker HOST:PORT as well")
    return device.with_tracker(args.tracker, args.key) if args.tracker else device


def _sources(args: argparse.Namespace) -> list[Source]:
    from pathlib import Path

    from tvm_costmodel.errors import ModelFileError
    from tvm_costmodel.profiling.sources import FileSource
    from tvm_costmodel.profiling.workloads import suite

    for path in args.model:
        if not Path(path).is_file():
            raise ModelFileError(f"{path} does not exist; give an .onnx, .pt2 or Relax JSON file")
    shapes = parse_shapes(args.shape)
    sources: list[Source] = [FileSource(path, shapes) for path in args.model]
    if args.suite:
        sources += suite(args.suite, args.count or DEFAULT_COUNT, args.seed)
    if not sources and not args.remeasure_stale:
        raise ConfigError("nothing to measure: give MODEL files, --suite NAME or --remeasure-stale")
    return sources


def _cores(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--cores {text!r} is not a list of numbers such as 1 or 0,1") from None


def _output(summary: ProfileSummary) -> Output:
    fields = {
        "measured": summary.measured,
        "reused": summary.reused,
        "failed": summary.failed,
        "store": summary.store,
        "device": summary.device,
        "pipeline": summary.pipeline_key,
        "seconds": summary.seconds,
        "stopped": summary.stopped,
        "networks": [
            {
                "family": r.family,
                "graph_hash": r.graph_hash,
                "status": r.status,
                "latency_ms": None if r.latency_s is None else r.latency_s * 1e3,
                "reused": r.reused,
                "error": r.error,
            }
            for r in summary.results
        ],
    }
    rows = [
        (r.family, r.graph_hash[:12], r.status, milliseconds(r.latency_s), _remark(r))
        for r in summary.results[-SHOWN_RESULTS:]
    ]
    text = table(rows, ("family", "graph", "status", "ms", ""))
    text += (
        f"\n{summary.measured} measured, {summary.reused} reused, {summary.failed} failed in "
        f"{summary.seconds:.0f} s; {summary.store} holds them"
    )
    return Output(fields, text, _exit_code(summary))


def _remark(result: object) -> str:
    error = str(getattr(result, "error", ""))
    return "stored" if getattr(result, "reused", False) and not error else error[:80]


def _exit_code(summary: ProfileSummary) -> int:
    if summary.interrupted:
        return 130
    return 1 if summary.failed and not summary.measured + summary.reused else 0
