"""Times one network in several engines, interleaved: our builds, ONNX Runtime, torch, TVM.

    python benchmarks/graph_tuning/engines.py MODEL.onnx --threads 2 --out times.json ...

A program of its own, so that every network starts with fresh thread pools. A timed block of an
engine is an untimed run, which brings the network's weights back into the caches, and three timed
ones; the engines are interleaved, and the minimum counts. TVM's default code runs at the end and
less often, since one run takes seconds; it has no parallel loops, so that it is timed on one thread
alone.

``torch.compile`` gets the network as ``onnx2torch`` converts it (``pip install onnx2torch==1.5.15
--no-deps``), with Inductor's constant freezing on. Networks that were written in torch are taken
as written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.profiling.measuring.cpu_affinity import TimingLock, pin

DEFAULT, TUNED = "default", "tuned"
ONNX_RUNTIME, TORCH, TVM = "onnxruntime", "torch.compile", "tvm"
ENGINES = (DEFAULT, TUNED, ONNX_RUNTIME, TORCH, TVM)
RUNS = 3
_LONG_S = 4.0  # a first run of TVM's default code that takes longer is not repeated

Run = Callable[[], Any]


def session(model: onnx.ModelProto, threads: int = 1) -> Any:
    """An ONNX Runtime session for the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def random_inputs(mod: Any) -> list[np.ndarray]:
    """Standard normal values, or token ids, for the parameters of a Relax module's ``main``."""
    rng = np.random.default_rng(0)
    values = []
    for parameter in mod["main"].params:
        shape, dtype = [int(d) for d in parameter.ty.shape], str(parameter.ty.dtype)
        whole = dtype.startswith(("int", "uint"))
        values.append(
            (rng.integers(0, 1000, shape) if whole else rng.standard_normal(shape)).astype(dtype)
        )
    return values


def compiled_run(executable: Any, inputs: Sequence[np.ndarray]) -> Run:
    """A call of a compiled Relax network."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(executable, tvm.cpu())
    tensors = [tvm.runtime.tensor(value) for value in inputs]
    return lambda: machine["main"](*tensors)


def default_run(mod: Any, target: Any, inputs: Sequence[np.ndarray]) -> Run:
    """A call of the network under TVM's own default pipeline."""
    import tvm

    return compiled_run(tvm.compile(mod, target), inputs)


def kernel_times(
    built: Any, clock: Callable[[], float] = time.process_time
) -> tuple[tuple[str, str, int, float], ...]:
    """Name, template, calls and milliseconds per run of the network, the slowest first."""
    import tvm

    times = []
    for kernel in built.kernels:
        values = [np.random.default_rng(0).random(s) for s, _ in kernel.parameters]
        arguments = [
            tvm.runtime.tensor(np.asarray(value, dtype=dtype))
            for value, (_, dtype) in zip(values, kernel.parameters, strict=True)
        ]
        function = built.kernel_library[kernel.name]
        run = partial(function, *arguments)
        run()
        best = 1e3 * min(clocked(run, clock) for _ in range(5))
        times.append((kernel.name, kernel.template, kernel.calls, best * kernel.calls))
    return tuple(sorted(times, key=lambda row: -row[3]))


def clocked(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run."""
    start = clock()
    run()
    return clock() - start


def interleaved(
    runs: dict[str, Run], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Minimum seconds of each engine; every round has one timed block of each."""
    best = dict.fromkeys(runs, math.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(0.005)  # threads of the engine before stop spinning
            run()
            best[name] = min(best[name], *(clocked(run, clock) for _ in range(RUNS)))
    return best


def torch_run(path: Path, inputs: Sequence[np.ndarray], threads: int) -> Run:
    """A call of the network under ``torch.compile``, compiled already."""
    import torch
    from torch._inductor import config

    from benchmarks.graph_tuning.tuned_networks import torch_network
    from tvm_costmodel.frontends.onnx.reader import load_onnx

    torch.set_num_threads(threads)
    config.freezing = True
    tensors = [torch.from_numpy(value) for value in inputs]
    written = torch_network(path.stem)
    network = written[0] if written else converted(load_onnx(path), tensors)
    compiled = torch.compile(network)

    def run() -> Any:
        with torch.no_grad():
            return compiled(*tensors)

    run()
    return run


def converted(model: onnx.ModelProto, inputs: Sequence[Any]) -> Any:
    """An ONNX model as a torch module whose reshapes are constants, so that it compiles whole."""
    import torch

    # Wanted by operators of detection networks alone; its binary must match torch's to load.
    stand_in: Any = types.ModuleType("torchvision")
    stand_in.ops = types.ModuleType("torchvision.ops")
    stand_in.ops.roi_align = None
    sys.modules.setdefault("torchvision", stand_in)
    sys.modules.setdefault("torchvision.ops", stand_in.ops)
    from onnx2torch import convert

    class Reshape(torch.nn.Module):
        def __init__(self, shape: Sequence[int]) -> None:
            super().__init__()
            self.shape = tuple(shape)

        def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return x.reshape(self.shape)

    network = convert(with_even_pools(model)).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        if type(module).__name__ == "OnnxReshape":
            # update returns None: what a hook returns would stand in for the output
            module.register_forward_hook(
                lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape)})
            )
    with torch.no_grad():
        network(*inputs)
    for name, shape in shapes.items():
        setattr(network, name, Reshape(shape))
    return network


def with_even_pools(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites uneven average pools, which the converter lacks, as a pad, a pool and a scale.

    Zeros count in the new pool and did not in the old; the scale corrects that.
    """
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        pads = list(attrs.get("pads", []))
        half = len(pads) // 2
        if node.op_type != "AveragePool" or pads[:half] == pads[half:]:
            nodes.append(node)
            continue
        source, name = node.input[0], node.output[0]
        kernel, strides = attrs["kernel_shape"], attrs.get("strides", [1, 1])
        ones = np.pad(np.ones(shapes[source][2:]), list(zip(pads[:half], pads[half:], strict=True)))
        patches = np.lib.stride_tricks.sliding_window_view(ones, kernel)
        share = patches[:: strides[0], :: strides[1]].mean((2, 3))
        scale = onnx.numpy_helper.from_array((1 / share).astype(np.float32), f"{name}.scale")
        border = [0, 0, *pads[:half], 0, 0, *pads[half:]]
        amounts = onnx.numpy_helper.from_array(np.array(border, np.int64), f"{name}.pads")
        model.graph.initializer.extend([scale, amounts])
        make = onnx.helper.make_node
        pool = {"kernel_shape": kernel, "strides": strides}
        nodes.append(make("Pad", [source, f"{name}.pads"], [f"{name}.padded"], name=f"{name}.p"))
        nodes.append(
            make("AveragePool", [f"{name}.padded"], [f"{name}.mean"], name=f"{name}.m", **pool)
        )
        nodes.append(make("Mul", [f"{name}.mean", f"{name}.scale"], [name], name=f"{name}.s"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def measure(
    path: Path,
    threads: int,
    rounds: int,
    engines: Sequence[str],
    candidate: dict[str, Any] | None,
    lock: TimingLock | None = None,
) -> dict[str, Any]:
    """Builds the network for every engine, then times them interleaved.

    Args:
        path: The ONNX file.
        threads: Threads of every engine.
        rounds: Timed blocks of each engine.
        engines: Some of `ENGINES`.
        candidate: Decisions of the tuned build, as ``Candidate.to_dict`` gives them.
        lock: Shared with other programs that measure on this machine at the same time.

    Returns:
        ``ms``, the minimum of each engine; ``difference`` of its outputs from ONNX Runtime's;
        ``failed``, why an engine has no time; ``kernels`` of the tuned build, or the default one.
    """
    from tvm_costmodel.compilers.relax import build, cpu_target
    from tvm_costmodel.compilers.relax.verification import compare_outputs
    from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax
    from tvm_costmodel.tuning.space.candidate import Candidate
    from tvm_costmodel.tuning.space.decision_space import DecisionSpace

    model = load_onnx(path)
    mod, target = onnx_to_relax(model), cpu_target(threads)
    inputs = random_inputs(mod)
    space = DecisionSpace.for_graph(_graph(mod))
    candidates = {DEFAULT: Candidate(), TUNED: Candidate.from_dict(candidate or {})}
    reference = session(model, threads)
    feed = {value.name: array for value, array in zip(reference.get_inputs(), inputs, strict=True)}
    builds: dict[str, Any] = {}

    def ours(name: str) -> Run:
        builds[name] = build(mod, target, space.config(candidates[name]))
        return compiled_run(builds[name].executable, inputs)

    makers: dict[str, Callable[[], Run]] = {
        DEFAULT: lambda: ours(DEFAULT),
        TUNED: lambda: ours(TUNED),
        ONNX_RUNTIME: lambda: lambda: reference.run(None, feed),
        TORCH: lambda: torch_run(path, inputs, threads),
        TVM: lambda: default_run(mod, target, inputs),
    }
    wanted = [e for e in makers if e in engines and (e != TUNED or candidate is not None)]
    if threads > 1:
        wanted = [e for e in wanted if e != TVM]
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name in wanted:
        try:
            with lock.working() if lock else nullcontext():
                runs[name] = makers[name]()
        except Exception as error:  # an engine that cannot take a network is reported, not fatal
            failed[name] = f"{type(error).__name__}: {error}"[:300]
    expected = reference.run(None, feed)
    difference = {
        name: compare_outputs(_arrays(run()), expected).max_rel_err
        for name, run in runs.items()
        if name != TVM  # its kernels are the same operators, and a run takes seconds
    }
    with lock.timing() if lock else nullcontext():
        slow = runs.pop(TVM, None)
        seconds = interleaved(runs, rounds)
        if slow is not None:
            first = clocked(slow)
            seconds[TVM] = first if first > _LONG_S else min(first, clocked(slow), clocked(slow))
        ours_last = builds.get(TUNED, builds.get(DEFAULT))
        kernels = kernel_times(ours_last, time.perf_counter) if ours_last else ()
    return {
        "network": path.stem,
        "threads": threads,
        "candidate": candidate,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "difference": difference,
        "failed": failed,
        "kernels": kernels,
    }


def _graph(mod: Any) -> Any:
    from tvm_costmodel.frontends.relax.export import from_relax

    return from_relax(mod)


def _arrays(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, np.ndarray):
        return [outputs]
    if hasattr(outputs, "numpy"):
        return [outputs.numpy()]
    return [array for item in outputs for array in _arrays(item)]


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--candidate", type=json.loads, help="decisions of the tuned build, JSON")
    parser.add_argument("--cores", help="cores to run on, such as 1 or 0,1")
    parser.add_argument("--lock", help="file that programs share which time on this machine")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.cores:
        pin(tuple(map(int, args.cores.split(","))))
    lock = TimingLock(args.lock) if args.lock else None
    engines = args.engines.split(",")
    result = measure(args.model, args.threads, args.rounds, engines, args.candidate, lock)
    write_atomically(args.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["ms"]), result["failed"])


if __name__ == "__main__":
    main()
