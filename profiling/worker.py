"""The worker: a program of its own that builds networks and times them, one request at a time.

It imports TVM once and serves many networks. A crash, a hang or a memory leak in a compiler ends
this program alone; `worker_client.Worker` notices, writes the row and starts another.

Run as ``python -m tvm_costmodel.profiling.worker``; requests come on standard input, answers go to
what was standard output, and everything printed goes to standard error.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from tvm_costmodel.errors import ConfigError, CostModelError, MissingDependencyError
from tvm_costmodel.profiling.channel import Receiver, send
from tvm_costmodel.profiling.cores import pin, rise_above_others
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.measurement import MeasurementConfig
from tvm_costmodel.profiling.runners.runner import TensorSpec
from tvm_costmodel.profiling.sources import source_from_dict

_PR_SET_PDEATHSIG = 1

RELAY_COMPILER = "tvm_costmodel.compilers.relay"
"""The compiler whose networks run in graph executors instead of Relax's virtual machine."""


class Session:
    """What the worker holds between requests: a device, and the network that is being worked on."""

    def __init__(self) -> None:
        self._module: Any = None
        self._build: Any = None
        self._turns: Any = None

    def start(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Pins itself to its cores, loads TVM, connects to the device."""
        self._cores = tuple(request["cores"])
        pin(self._cores)
        rise_above_others()
        try:
            self._compiler = importlib.import_module(request["compiler"])
        except ImportError as error:
            raise MissingDependencyError(
                f"measuring needs Apache TVM, which does not import here: {error}; "
                "install it with `pip install tvm-costmodel`"
            ) from error
        from tvm_costmodel.profiling.environment import machine_facts
        from tvm_costmodel.profiling.timing import ReferenceHistory
        from tvm_costmodel.profiling.turns import Turns

        device = Device.from_dict(request["device"])
        self._config = MeasurementConfig.from_dict(request["measurement"])
        self._target = self._make_target(device)
        pipeline_type = self._compiler.PipelineConfig
        wanted = request["pipeline"]
        self._pipeline = pipeline_type() if wanted is None else pipeline_type.from_dict(wanted)
        self._runner = _make_runner(device, self._target, request["compiler"])
        self._history = ReferenceHistory()
        self._turns = Turns(self._runner, self._config, self._history)
        facts = machine_facts(tuple(request["cores"])) | _compiler_facts(self._target)
        return self._told(self._pipeline) | {"environment": facts | self._runner.facts()}

    def _told(self, pipeline: Any) -> dict[str, Any]:
        """A pipeline's key, and what a row keeps of it."""
        return {
            "pipeline_key": pipeline.key,
            "pipeline": {
                "config": pipeline.to_dict(),
                "pipeline_version": self._compiler.PIPELINE_VERSION,
                "rule_version": self._compiler.RULE_VERSION,
            },
        }

    def _make_target(self, device: Device) -> Any:
        if device.target.get("mcpu") == "host":
            return self._compiler.cpu_target(device.threads)
        import tvm

        return tvm.target.Target(dict(device.target) | {"num-cores": device.threads})

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the module of a source and exports its graph."""
        self.forget(request)
        self._module, graph = source_from_dict(request["source"]).load()
        return {"graph_hash": graph.hash, "graph": graph.to_json()}

    def build(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compiles the module that was described last."""
        self._build = self._compiler.build(self._module, self._target, self._pipeline)
        return {
            "kernels": [
                {
                    "name": k.name,
                    "hash": k.hash,
                    "calls": k.calls,
                    "parameters": [[list(shape), dtype] for shape, dtype in k.parameters],
                }
                for k in self._build.kernels
            ],
            "unscheduled": list(self._build.unscheduled),
            "stages": dict(self._build.seconds),
        }

    def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times the network that was built last, and those of its kernels that are asked for."""
        from dataclasses import asdict

        from tvm_costmodel.profiling.timing import combine, plan_repeats, visit

        pin(self._cores)  # again: whoever manages this machine may have moved the worker
        start = time.perf_counter()
        loaded = self._runner.load(self._build, self._specs())
        try:
            finite = loaded.outputs_are_finite()
            loading = time.perf_counter() - start
            plan = plan_repeats(loaded, self._config)
            how = (self._runner, loaded, plan, self._config, self._history)
            visits = [visit(*how)]
            kernels_start = time.perf_counter()
            kernels = self._time_kernels(loaded, set(request["kernels"]))
            kernels_s = time.perf_counter() - kernels_start
            visits += [visit(*how) for _ in range(self._config.visits - 1)]
        finally:
            loaded.close()
        network_s = time.perf_counter() - start - loading - kernels_s
        return {
            "timing": asdict(combine(visits, plan[0])),
            "finite": finite,
            "kernels": kernels,
            "seconds": {"load": loading, "network": network_s, "kernels": kernels_s},
        }

    def pipelines(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of pipelines, and what rows keep of them; nothing is built."""
        read = self._compiler.PipelineConfig.from_dict
        return {"pipelines": [self._told(read(fields)) for fields in request["fields"]]}

    def build_for_turns(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compiles the module that was described last and holds the build under a name."""
        pipeline = self._compiler.PipelineConfig.from_dict(request["pipeline"])
        build = self._compiler.build(self._module, self._target, pipeline)
        self._turns.hold(request["slot"], build)
        return {"unscheduled": list(build.unscheduled)}

    def take_turns(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times held builds in turns; drops those of ``drop`` afterwards."""
        pin(self._cores)
        how = (self._specs(), request["rounds"], request.get("compare", True))
        try:
            return {"slots": self._turns.time(request["slots"], *how)}
        finally:
            self._turns.drop(request["drop"])

    def _specs(self) -> list[TensorSpec]:
        """Shape and dtype of the network's inputs, as its compiler knows them."""
        known: Any = getattr(self._compiler, "input_specs", _input_specs)
        return list(known(self._module))

    def _time_kernels(self, loaded: Any, wanted: set[str]) -> dict[str, tuple[float, float]]:
        """(latency in seconds, noise) by hash of the kernels that are wanted."""
        from tvm_costmodel.profiling.timing import time_kernel

        times: dict[str, tuple[float, float]] = {}
        for kernel in self._build.kernels:
            if kernel.hash in wanted and kernel.hash not in times:
                parameters = tuple(kernel.parameters)
                times[kernel.hash] = time_kernel(loaded, kernel.name, parameters, self._config)
        return times

    def forget(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Frees the network before the next one."""
        self._module = self._build = None
        self._turns.clear()
        return {}


def _make_runner(device: Device, target: Any, compiler: str) -> Any:
    if compiler == RELAY_COMPILER:
        from tvm_costmodel.profiling.runners.graph_executor import make_graph_runner

        return make_graph_runner(device, target)
    if device.runner == "rpc":
        from tvm_costmodel.profiling.runners.rpc import RpcRunner

        return RpcRunner(device, target)
    from tvm_costmodel.profiling.runners.local import LocalRunner

    return LocalRunner(target)


def _compiler_facts(target: Any) -> dict[str, Any]:
    from tvm.target import codegen

    return {"llvm": str(codegen.llvm_version_major()), "target": str(target)}


def _input_specs(module: Any) -> list[TensorSpec]:
    """(shape, dtype) of each parameter of ``main``."""
    specs = []
    for parameter in module["main"].params:
        shape = parameter.ty.shape
        try:
            extents = tuple(int(extent) for extent in shape)
        except TypeError as error:
            raise ConfigError(
                f"input {parameter.name_hint!r} has the dynamic shape {shape}; fix it with "
                f"--shape {parameter.name_hint}=..."
            ) from error
        specs.append((extents, str(parameter.ty.dtype)))
    return specs


def _die_with_parent() -> None:
    """Asks Linux to end this program when the profiler is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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
    _die_with_parent()
    faulthandler.enable()
    answers = os.dup(1)
    os.dup2(2, 1)
    receiver, session = Receiver(0), Session()
    handlers = {
        "start": session.start,
        "describe": session.describe,
        "build": session.build,
        "measure": session.measure,
        "pipelines": session.pipelines,
        "build_for_turns": session.build_for_turns,
        "take_turns": session.take_turns,
        "forget": session.forget,
    }
    while True:
        try:
            request = receiver.receive()
        except EOFError:
            return
        assert request is not None
        send(answers, _answer(handlers[request["op"]], request))


if __name__ == "__main__":
    serve()
