"""``predict``: a model's latency, measured where the store knows it, predicted otherwise."""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.cli.options import (
    add_compiler,
    add_device,
    add_model,
    parse_shapes,
)
from tvm_costmodel.cli.output import Output, milliseconds, named_rows, table
from tvm_costmodel.compilers.registry import known_compiler
from tvm_costmodel.errors import ConfigError, MeasurementError

if TYPE_CHECKING:
    from tvm_costmodel.frontends import LoadedModel
    from tvm_costmodel.graph.op_graph import OpGraph
    from tvm_costmodel.predictors.loading import Estimate
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.profiling.measuring.record import Measurement

logger = logging.getLogger(__name__)

HELP = "predict a model's latency"
_SHOWN = 5  # operators that -v adds to the table


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_model(parser)
    add_device(parser)
    add_compiler(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="predictor to use: a directory that `train` wrote, or a name from `tvm-costmodel "
        "models` (default: the shipped one of the device)",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "onnxruntime"),
        default="auto",
        help="what runs a network: ONNX Runtime where the checkpoint holds its network in ONNX, "
        "else torch (auto), or the one named",
    )
    parser.add_argument(
        "--store", metavar="DB", help="answer with a measured latency when this store has the graph"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also compile and measure the model, into --store when one is given, and compare "
        "every shipped predictor with the measurement",
    )
    parser.add_argument(
        "--per-op",
        action="store_true",
        help="say how the latency is shared by operators (also with -v)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a graph with unknown operators"
    )


def run(args: argparse.Namespace) -> Output:
    """Answers from the store, from a measurement, or from a predictor."""
    from tvm_costmodel.profiling.devices import resolve_device

    device = resolve_device(args.device).with_compiler(args.compiler)
    shapes = parse_shapes(args.shape)
    model = known_compiler(args.compiler).load_model(args.model, shapes)
    if args.measure:
        return _compared_with_measurement(
            args, device, model.graph, _measure(args, device, model, shapes)
        )
    stored = _stored(args.store, device, model.graph) if args.store else None
    if stored is not None:
        return _answer(_measured_fields(stored, model.graph), args.model)
    estimate = _estimate(args, device, model.graph)
    return _answer(_predicted_fields(estimate, args.per_op or args.verbose > 0), args.model)


def _stored(store: str, device: Device, graph: OpGraph) -> Measurement | None:
    from tvm_costmodel.profiling.store.store import Store

    with Store(store, write=False) as opened:
        return opened.find(graph.hash, device.name)


def _estimate(args: argparse.Namespace, device: Device, graph: OpGraph) -> Estimate:
    from tvm_costmodel.predictors.loading import load_predictor, zoo
    from tvm_costmodel.predictors.registry import DECISION_AWARE
    from tvm_costmodel.profiling.devices import without_compiler
    from tvm_costmodel.profiling.measuring.speed_test import speed_of

    name = device.name
    if not args.checkpoint and all(entry.device != name for entry in zoo()):
        name = without_compiler(name)  # the answer names the device that it is for
        if name != device.name:
            logger.warning(
                "no predictor ships for %s: this is Relax's latency on %s; train one on labels of "
                "`profile --compiler relay` and give it as --checkpoint",
                device.name,
                name,
            )
        speed_of(device)
    predictor = load_predictor(args.checkpoint or name, device=name, engine=args.engine)
    if predictor.name in DECISION_AWARE:
        raise ConfigError(
            f"{predictor.name} predicts the effect of decisions, for `tvm-costmodel tune`; "
            "predict with another predictor of `tvm-costmodel models`"
        )
    return predictor.predict(graph, strict=args.strict)


def _measure(
    args: argparse.Namespace,
    device: Device,
    model: LoadedModel,
    shapes: dict[str, tuple[int, ...]],
) -> Measurement:
    from tvm_costmodel.profiling.profiler import Profiler
    from tvm_costmodel.profiling.sources import FileSource
    from tvm_costmodel.profiling.store.store import Store

    with tempfile.TemporaryDirectory() as scratch:
        store = Store(args.store or Path(scratch) / "measurements.db")
        with store:
            profiler = Profiler(
                device,
                store,
                pipeline=known_compiler(args.compiler).label_pipeline,
                progress=False,
                compiler=args.compiler,
                check_outputs=True,
            )
            source = FileSource(args.model, shapes, compiler=args.compiler)
            summary = profiler.run([source])
            if summary.interrupted:
                raise KeyboardInterrupt
            row = store.find(model.graph.hash, device.name, summary.pipeline_key)
    if row is None:
        failure = summary.results[0]
        raise MeasurementError(f"{args.model} was not measured: {failure.status}: {failure.error}")
    return row


def _compared_with_measurement(
    args: argparse.Namespace, device: Device, graph: OpGraph, row: Measurement
) -> Output:
    """Compares the given predictor, or the device's shipped ones (all where it has none)."""
    from tvm_costmodel.predictors.loading import Predictor, load_predictor, zoo
    from tvm_costmodel.predictors.registry import DECISION_AWARE
    from tvm_costmodel.profiling.measuring.speed_test import speed_of

    of_networks = [entry for entry in zoo() if entry.predictor not in DECISION_AWARE]
    shipped = [entry for entry in of_networks if entry.device == device.name]
    if not shipped:
        speed_of(device)
        shipped = of_networks
    names = sorted((f"{e.device}/{e.predictor}" for e in shipped), key=_transformer_first)
    names = [args.checkpoint] if args.checkpoint else names
    own_device = device.name if args.checkpoint else None
    loaded = [load_predictor(name, device=own_device, engine=args.engine) for name in names]
    estimates = [
        Predictor(p.regressor, p.device, device.name).predict(graph, strict=args.strict)
        for p in loaded
    ]
    measured_s = row.latency_s or math.nan
    compared = [
        {
            "predictor": e.predictor,
            "predicted_ms": e.latency_s * 1e3,
            "measured_ms": measured_s * 1e3,
            "error_percent": (e.latency_s / measured_s - 1) * 100,
        }
        for e in estimates
    ]
    rows = [
        (
            e.predictor,
            milliseconds(e.latency_s),
            f"{milliseconds(e.low_s)} to {milliseconds(e.high_s)}",
            milliseconds(measured_s),
            f"{(e.latency_s / measured_s - 1) * 100:+.1f} %",
        )
        for e in estimates
    ]
    text = table(rows, ("predictor", "predicted ms", "interval ms", "measured ms", "error"))
    text += f"\n{Path(args.model).name} on {device.name}, graph {graph.hash}"
    others = sorted({e.device for e in estimates if e.device} - {device.name})
    if others:
        text += f"\nthe predictions are for {', '.join(others)}, not for {device.name}; "
        text += (
            "their intervals are widened for that, and `tvm-costmodel calibrate` corrects one for "
            "this processor in three minutes"
            if any(e.asked for e in estimates)
            else "`tvm-costmodel profile` and `train` make a predictor of this device"
        )
    if row.timing is not None and not row.timing.quiet:
        text += f"\nnoisy: {row.timing.why_noisy}"
    return Output(_measured_fields(row, graph) | {"compared": compared}, text)


def _transformer_first(name: str) -> tuple[int, str]:
    order = ("roofline_former", "nar_former_v2", "xgboost", "flops")
    predictor = name.rpartition("/")[2]
    return (order.index(predictor) if predictor in order else len(order), name)


def _measured_fields(row: Measurement, graph: OpGraph) -> dict[str, Any]:
    timing = row.timing
    assert timing is not None  # a row with status ok has one
    return {
        "latency_ms": timing.latency_s * 1e3,
        "low_ms": timing.latency_s * 1e3,
        "high_ms": timing.quantiles["p90"] * 1e3,
        "quiet": timing.quiet,
        "source": "measured",
        "predictor": None,
        "device": row.device,
        "graph_hash": graph.hash,
        "unknown_ops": list(graph.unknown_ops),
    }


def _predicted_fields(estimate: Estimate, per_op: bool = False) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "latency_ms": estimate.latency_s * 1e3,
        "low_ms": _number(estimate.low_s * 1e3),
        "high_ms": _number(estimate.high_s * 1e3),
        "source": "predicted",
        "predictor": estimate.predictor,
        "device": estimate.device,
        **({"asked_for": estimate.asked} if estimate.asked else {}),
        "graph_hash": estimate.graph_hash,
        "unknown_ops": list(estimate.unknown_ops),
    }
    if per_op and estimate.per_op is not None:
        fields["per_op"] = [
            {"operator": share.operator, "op": share.op, "latency_ms": share.latency_s * 1e3}
            for share in estimate.per_op
        ]
    return fields


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _answer(fields: dict[str, Any], model: str) -> Output:
    shown = {name: value for name, value in fields.items() if name != "per_op"}
    text = table(named_rows(shown), ("", Path(model).name))
    if "per_op" in fields:
        rows = [
            (
                str(share["operator"]),
                share["op"],
                f"{share['latency_ms']:.4g}",
                f"{share['latency_ms'] / fields['latency_ms'] * 100:.1f} %",
            )
            for share in fields["per_op"][:_SHOWN]
        ]
        text += "\n\n" + table(rows, ("operator", "op", "ms", "share"))
    return Output(fields, text)
