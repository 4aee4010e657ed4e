"""The worker: a program of its own that builds networks and times them, one request at a time.

It imports TVM once and serves many networks. A crash, a hang or a memory leak in a compiler ends
this program alone; `client.Worker` notices it, and the profiler writes the row and starts another.

Run as ``python -m tvm_costmodel.profiling.worker.server``; requests come on standard input, answers
go to what was standard output, and everything printed goes to standard error.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from tvm_costmodel.compilers.components import COMPONENTS, full_record, used_versions
from tvm_costmodel.compilers.registry import compiler_named
from tvm_costmodel.confinement import end_with_parent
from tvm_costmodel.errors import CostModelError, MissingDependencyError
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.devices.targets import make_target
from tvm_costmodel.profiling.measuring.cpu_affinity import pin, rise_above_others
from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.runners.arguments import random_array
from tvm_costmodel.profiling.runners.executors import make_runner
from tvm_costmodel.profiling.sources import source_from_dict
from tvm_costmodel.profiling.worker.pipe import Receiver, send
from tvm_costmodel.tvm_version import import_tvm_without_torch


class Session:
    """What the worker holds between requests: a device and the current network."""

    def __init__(self) -> None:
        self._module: Any = None
        self._build: Any = None
        self._build_variant: Any = None
        self._interleaved: Any = None

    def start(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Pins itself to its cores, loads TVM, connects to the device."""
        self._cores = tuple(request["cores"])
        pin(self._cores)
        rise_above_others()
        try:
            self._compiler = compiler_named(request["compiler"])
            self._compiler.require()
            importlib.import_module("tvm")
        except ImportError as error:
            raise MissingDependencyError(
                f"measuring needs Apache TVM, which does not import here: {error}; "
                "install it with `pip install tvm-costmodel`"
            ) from error
        from tvm_costmodel.profiling.measuring.environment import machine_facts
        from tvm_costmodel.profiling.measuring.timing import ReferenceHistory
        from tvm_costmodel.profiling.worker.interleaved import InterleavedTimer

        device = Device.from_dict(request["device"])
        self._config = MeasurementConfig.from_dict(request["measurement"])
        self._cross_compiler = device.cross_compiler
        self._target = make_target(device, self._compiler)
        self._pipeline = self._compiler.config(request["pipeline"])
        self._runner = make_runner(self._compiler.executor, device, self._target)
        self._history = ReferenceHistory()
        self._interleaved = InterleavedTimer(self._runner, self._config, self._history)
        facts = machine_facts(tuple(request["cores"])) | _compiler_facts(self._target)
        return {
            **self._compiler.describe(self._pipeline),
            "environment": facts | self._runner.facts(),
        }

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the module of a source and exports its graph."""
        self.forget(request)
        self._source = request["source"]
        self._module, self._graph = source_from_dict(self._source).load()
        self._build_variant = self._compiler.variant_builder()
        return {"graph_hash": self._graph.hash, "graph": self._graph.to_json()}

    def build(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compiles the module that was described last."""
        self._build = self._compiler.build(self._module, self._target, self._pipeline)
        return {
            "kernels": [self._kernel(kernel) for kernel in self._build.kernels],
            "stages": dict(self._build.seconds),
            **self._parts(self._build),
        }

    def _kernel(self, kernel: Any) -> dict[str, Any]:
        """What a row keeps of a kernel."""
        name = self._compiler.name
        used = kernel.components if name in COMPONENTS else ()
        return {
            "name": kernel.name,
            "hash": kernel.hash,
            "calls": kernel.calls,
            "parameters": [[list(shape), dtype] for shape, dtype in kernel.parameters],
            "template": getattr(kernel, "template", ""),
            "components": used_versions(name, used),
        }

    def _parts(self, build: Any) -> dict[str, Any]:
        """What a row keeps of a build; a compiler of one's own may list no components."""
        name = self._compiler.name
        record = full_record(name, build.components) if name in COMPONENTS else {}
        return {"unscheduled": list(build.unscheduled), "components": record}

    def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times the network that was built last, and the requested kernels."""
        from tvm_costmodel.profiling.measuring.timing import combine, plan_repeats, time_block
        from tvm_costmodel.profiling.store.serialization import timing_to_dict

        pin(self._cores)  # again, since something else on this machine may have moved the worker
        start = time.perf_counter()
        loaded = self._runner.load(self._build, self._compiler.input_specs(self._module))
        try:
            finite = loaded.outputs_are_finite()
            loading = time.perf_counter() - start
            plan = plan_repeats(loaded, self._config)
            arguments = (self._runner, loaded, plan, self._config, self._history)
            blocks = [time_block(*arguments)]
            kernels_start = time.perf_counter()
            kernels = self._time_kernels(loaded, set(request["kernels"]))
            kernels_s = time.perf_counter() - kernels_start
            blocks += [time_block(*arguments) for _ in range(self._config.blocks - 1)]
        finally:
            loaded.close()
        network_s = time.perf_counter() - start - loading - kernels_s
        return {
            "timing": timing_to_dict(combine(blocks, plan[0])),
            "finite": finite,
            "kernels": kernels,
            "seconds": {"load": loading, "network": network_s, "kernels": kernels_s},
        }

    def time_in_place(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times the network that was built last, its kernels in place, and ONNX Runtime."""
        from tvm_costmodel.profiling.measuring.in_place import (
            fastest_interleaved,
            network_run,
            time_calls,
        )
        from tvm_costmodel.profiling.measuring.peaks import PeakProbe
        from tvm_costmodel.profiling.worker.output_check import NoReference, onnxruntime_run

        pin(self._cores)
        specs = self._compiler.input_specs(self._module)
        arrays = [random_array(spec, seed) for seed, spec in enumerate(specs)]
        runs, reason = {"network": network_run(self._build.executable, arrays)}, ""
        try:
            threads = int(self._target.attrs["num-cores"])
            runs["onnxruntime"] = onnxruntime_run(self._source, arrays, threads)
        except NoReference as error:
            reason = str(error)
        probe = PeakProbe(self._target)
        probe.sample()
        calls = time_calls(self._build.executable, arrays)
        probe.sample()
        seconds = fastest_interleaved(runs)
        peaks = probe.sample()
        return {
            "calls": calls,
            "seconds": seconds,
            "no_onnxruntime": reason,
            "peaks": {"flops": peaks.flops, "bandwidths": peaks.bandwidths},
        }

    def pipelines(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of pipelines, and the settings that rows store of them; nothing is built."""
        configs = map(self._compiler.config, request["fields"])
        return {"pipelines": [self._compiler.describe(config) for config in configs]}

    def build_variant(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compiles the module that was described last and holds the build under a name.

        Kernels of earlier variants are not compiled again, except for one that is built ``anew``.
        """
        config = self._compiler.config(request["pipeline"])
        build = self._compiler.build if request["anew"] else self._build_variant
        build = build(self._module, self._target, config)
        self._interleaved.hold(request["slot"], build)
        return self._parts(build)

    def measure_interleaved(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times held builds interleaved."""
        pin(self._cores)
        specs = self._compiler.input_specs(self._module)
        settings = (specs, request["rounds"], request.get("compare", True))
        return {"slots": self._interleaved.time(request["slots"], *settings)}

    def drop(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Frees held builds."""
        self._interleaved.drop(request["slots"])
        return {}

    def export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a held build as a library, and gives the inputs that it takes."""
        build = self._interleaved.held(request["slot"])
        build.export(request["path"], self._cross_compiler)
        return {"inputs": self._compiler.input_specs(self._module)}

    def runtime_weights(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ids of operators whose weights are passed at run time."""
        if self._compiler.name != "relax":
            return {"operators": []}
        from tvm_costmodel.compilers.relax.runtime_weights import runtime_weights

        return {"operators": sorted(runtime_weights(self._module, self._graph))}

    def check_outputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compares the outputs of a build, held under ``slot`` or the last, with a reference."""
        from tvm_costmodel.profiling.worker.output_check import check_outputs

        build = self._interleaved.held(request["slot"]) if request["slot"] else self._build
        specs = self._compiler.input_specs(self._module)
        loaded = self._runner.load(build, specs)
        try:
            outputs = loaded.outputs()
        finally:
            loaded.close()
        module = self._module if self._compiler.name == "relax" else None
        return check_outputs(outputs, specs, self._source, module, request["flops"])

    def _time_kernels(self, loaded: Any, hashes: set[str]) -> dict[str, tuple[float, float]]:
        """(latency in seconds, noise) of the kernels of these hashes, by hash."""
        from tvm_costmodel.profiling.measuring.timing import time_kernel

        times: dict[str, tuple[float, float]] = {}
        for kernel in self._build.kernels:
            if kernel.hash in hashes and kernel.hash not in times:
                parameters = tuple(kernel.parameters)
                times[kernel.hash] = time_kernel(loaded, kernel.name, parameters, self._config)
        return times

    def forget(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Frees the network before the next one."""
        self._module = self._build = self._build_variant = None
        self._interleaved.clear()
        return {}


def _compiler_facts(target: Any) -> dict[str, Any]:
    from tvm.target import codegen

    return {"llvm": str(codegen.llvm_version_major()), "target": str(target)}


def _answer(handler: Callable[[Mapping[str, Any]], dict[str, Any]], request: Any) -> dict[str, Any]:
    try:
        return {"ok": handler(request)}
    except (KeyboardInterrupt, SystemExit):
        raise
    except CostModelError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except Exception as error:
        trace = traceback.format_exception_only(type(error), error)
        lines = "".join(trace).strip().splitlines()
        text = " | ".join([lines[0], *lines[-3:]] if len(lines) > 4 else lines)
        traceback.print_exc()
        return {"error": text[:2000], "kind": type(error).__name__}


def serve() -> None:
    """Answers requests until the profiler closes the pipe."""
    end_with_parent()
    import_tvm_without_torch()
    faulthandler.enable()
    answers = os.dup(1)
    os.dup2(2, 1)
    receiver, session = Receiver(0), Session()
    handlers = {
        "start": session.start,
        "describe": session.describe,
        "build": session.build,
        "measure": session.measure,
        "time_in_place": session.time_in_place,
        "pipelines": session.pipelines,
        "build_variant": session.build_variant,
        "measure_interleaved": session.measure_interleaved,
        "drop": session.drop,
        "export": session.export,
        "runtime_weights": session.runtime_weights,
        "check_outputs": session.check_outputs,
        "forget": session.forget,
    }
    for request in receiver.requests():
        send(answers, _answer(handlers[request["op"]], request))


if __name__ == "__main__":
    serve()
