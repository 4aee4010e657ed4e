"""``profile``: measures networks on a device into a store."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.cli import kernel_table
from tvm_costmodel.cli.options import (
    add_board,
    add_compiler,
    add_device,
    add_model,
    parse_shapes,
    positive_float,
    positive_int,
    renamed_option,
    seed_number,
)
from tvm_costmodel.cli.output import Output, milliseconds, table
from tvm_costmodel.compilers.registry import known_compiler
from tvm_costmodel.errors import ConfigError, ModelFileError

if TYPE_CHECKING:
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.profiling.outcome import ProfileSummary, SourceResult
    from tvm_costmodel.profiling.sources import Source
    from tvm_costmodel.profiling.store.store import Store

logger = logging.getLogger(__name__)

HELP = "measure models or a suite of workloads; resumes where it stopped"
DEFAULT_COUNT = 100
SHOWN_RESULTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_model(parser, many=True)
    add_device(parser)
    add_compiler(parser)
    parser.add_argument(
        "--store", metavar="DB", help="store to measure into; needed unless --kernels is given"
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="time the kernels of one MODEL where they run, and say what limits each; stores "
        "nothing",
    )
    parser.add_argument(
        "--suite", metavar="NAME", help="workloads to measure: default, quick, or a family"
    )
    parser.add_argument(
        "--count", type=positive_int, metavar="N", help=f"networks of the suite ({DEFAULT_COUNT})"
    )
    parser.add_argument(
        "--families", default="", metavar="A,B", help="only these families of the suite"
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        help="seed of the suite's networks (0; 1 with --select, since the shipped predictors "
        "learned from those of 0)",
    )
    _add_selection(parser)
    parser.add_argument("--minutes", type=positive_float, metavar="M", help="stop after this time")
    parser.add_argument(
        "--variants",
        type=positive_int,
        metavar="N",
        help="also measure each network under N random graph-level decisions, for tuning",
    )
    remeasure = parser.add_mutually_exclusive_group()
    remeasure.add_argument(
        "--remeasure-stale",
        action="store_true",
        help="measure again the labels of an older pipeline, schedule rule or protocol",
    )
    remeasure.add_argument(
        "--remeasure-noisy", action="store_true", help="measure again the labels that stayed noisy"
    )
    parser.add_argument(
        "--models-in",
        action="append",
        default=[],
        metavar="DIR",
        help="measure again model files from this folder too; without it only those below the "
        "working directory and the store's folder networks/ are read",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try networks again that failed before"
    )
    add_board(parser)
    parser.add_argument(
        "--import", dest="labels", metavar="FILE", help="first add labels of a .jsonl.xz file"
    )
    parser.add_argument(
        "--export", metavar="FILE", help="at the end, write the store's labels as .jsonl.xz"
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a new device from few measurements")
    group.add_argument(
        "--select",
        type=positive_int,
        metavar="N",
        help="measure only N of the networks, those that `tvm-costmodel calibrate` learns most "
        "from (5 to 50); ones that the predictor was trained on are left out",
    )
    group.add_argument(
        "--calibrate-for",
        dest="checkpoint",
        metavar="CHECKPOINT",
        help="the predictor that will be calibrated: a name from `tvm-costmodel models`, or a "
        "directory that `train` wrote",
    )
    group.add_argument(
        "--strategy",
        choices=("informative", "spread", "random"),
        help="how to select: informative (default), the networks that reduce the uncertainty of "
        "all others most; spread, evenly over predicted latencies; random",
    )
    for old, new in (
        ("--choose", "--select"),
        ("--for", "--calibrate-for"),
        ("--rule", "--strategy"),
    ):
        renamed_option(parser, old, new)


def run(args: argparse.Namespace) -> Output:
    """Measures; exit code 1 when nothing could be measured, 130 when interrupted."""
    if args.kernels:
        return kernel_table.run(args)
    if not args.store:
        raise ConfigError("give the store to measure into as --store DB, or --kernels for none")
    from tvm_costmodel.profiling.devices import choose_device
    from tvm_costmodel.profiling.label_files.networks import export_dataset, import_dataset
    from tvm_costmodel.profiling.label_files.variants import export_variants
    from tvm_costmodel.profiling.store.store import Store

    if args.variants and (args.remeasure_stale or args.remeasure_noisy):
        raise ConfigError(
            "--variants cannot be combined with --remeasure-stale or --remeasure-noisy"
        )
    _check_selection(args)
    sources = _sources(args)
    measures = bool(sources or args.remeasure_stale or args.remeasure_noisy)
    if not (measures or args.labels or args.export):
        raise ConfigError(
            "nothing to do: give MODEL files, --suite NAME, --remeasure-stale, --remeasure-noisy, "
            "--import FILE or --export FILE"
        )
    if measures:
        known_compiler(args.compiler).require()
    device = choose_device(args.device, args.tracker, args.key, args.threads)
    device = device.with_compiler(args.compiler)
    if args.select:
        sources = _select(args, sources, device)
    with Store(args.store, write=measures or bool(args.labels)) as store:
        moved: dict[str, int] = {}
        if args.labels:
            moved["imported"] = import_dataset(store, args.labels)
        summary = _measure(args, store, device, sources) if measures else None
        if args.export and args.variants:
            moved["exported"] = export_variants([args.store], args.export)["networks"]
        elif args.export:
            key = summary.pipeline_key if summary else None
            moved["exported"] = export_dataset(store, args.export, device.name, key)["networks"]
    if summary is None:
        return _moved_output(args, device, moved)
    return _output(summary, moved)


def _measure(
    args: argparse.Namespace, store: Store, device: Device, sources: Sequence[Source]
) -> ProfileSummary:
    from tvm_costmodel.profiling.measuring.record import MeasurementConfig
    from tvm_costmodel.profiling.paired_profiler import PairedProfiler
    from tvm_costmodel.profiling.profiler import Profiler

    kind = PairedProfiler if args.variants else Profiler
    pipeline = known_compiler(args.compiler).label_pipeline
    profiler = kind(
        device,
        store,
        MeasurementConfig(kernels=not args.variants),
        pipeline,
        cores=args.cores,
        retry_failed=args.retry_failed,
        progress=not args.quiet,
        compiler=args.compiler,
        model_folders=args.models_in,
    )
    if isinstance(profiler, PairedProfiler):
        from tvm_costmodel.tuning.learning.collect_variants import measure_variants

        limits = (args.variants, args.minutes)
        compare = pipeline is None  # other pipelines build for timing only
        return measure_variants(profiler, sources, *limits, compiler=args.compiler, compare=compare)
    if args.remeasure_stale:
        return profiler.remeasure_stale(minutes=args.minutes)
    if args.remeasure_noisy:
        return profiler.remeasure_noisy(minutes=args.minutes)
    return profiler.run(sources, minutes=args.minutes)


def _select(args: argparse.Namespace, sources: Sequence[Source], device: Device) -> list[Source]:
    from tvm_costmodel.predictors.loading import load_predictor
    from tvm_costmodel.transfer.workflow import choose_sources

    return choose_sources(
        load_predictor(args.checkpoint).regressor,
        sources,
        args.select,
        device.name,
        strategy=args.strategy or "informative",
        seed=_seed(args),
        progress=not args.quiet,
    )


def _seed(args: argparse.Namespace) -> int:
    return int(bool(args.select)) if args.seed is None else args.seed


def _check_selection(args: argparse.Namespace) -> None:
    if args.select and not args.checkpoint:
        raise ConfigError(
            "--select needs the predictor that will be calibrated, for instance --calibrate-for "
            "cpu-amd-zen5/roofline_former (`tvm-costmodel models` lists the shipped ones)"
        )
    if args.select and not (args.model or args.suite):
        raise ConfigError("--select needs networks to select from: MODEL files or --suite default")
    if (args.checkpoint or args.strategy) and not args.select:
        raise ConfigError(
            "--calibrate-for and --strategy need --select N, for instance --select 10"
        )


def _sources(args: argparse.Namespace) -> list[Source]:
    from tvm_costmodel.profiling.sources import FileSource, suite

    for path in args.model:
        if not Path(path).is_file():
            raise ModelFileError(f"{path} does not exist; give an .onnx, .pt2 or Relax JSON file")
    shapes = parse_shapes(args.shape)
    sources: list[Source] = [
        FileSource(path, shapes, compiler=args.compiler) for path in args.model
    ]
    if args.suite:
        count = args.count or DEFAULT_COUNT
        families = args.families.split(",") if args.families else []
        sources += suite(args.suite, count, _seed(args), args.compiler, families)
    elif args.families:
        raise ConfigError("--families needs a suite; add --suite default")
    return sources


def _moved_output(args: argparse.Namespace, device: Device, moved: dict[str, int]) -> Output:
    """The output where labels were only imported or exported."""
    fields = {"measured": 0, "reused": 0, "failed": 0, "store": args.store, "device": device.name}
    return Output(fields | moved, _moved_text(moved))


def _moved_text(moved: dict[str, int]) -> str:
    return "\n".join(f"{count} labels {done}" for done, count in moved.items())


def _output(summary: ProfileSummary, moved: dict[str, int]) -> Output:
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
        f"{summary.seconds:.0f} s; stored in {summary.store}"
    )
    text = "\n".join(filter(None, (text, _moved_text(moved))))
    return Output(fields | moved, text, _exit_code(summary))


def _remark(result: SourceResult) -> str:
    return result.error[:80] or ("stored" if result.reused else "")


def _exit_code(summary: ProfileSummary) -> int:
    if summary.interrupted:
        return 130
    return 1 if summary.failed and not summary.measured + summary.reused else 0
