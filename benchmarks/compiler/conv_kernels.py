"""Kernels of the CPU schedule rule compared with ONNX Runtime's, one thread.

    python benchmarks/compiler/conv_kernels.py [--layout NHWC|NCHW] [--set NAME ...]

Prints, for each shape, the rule's time and GFLOP/s, ONNX Runtime's time for a one-node model of the
same operator, and their ratio (below 1: the rule is faster). A complete run with the
default settings writes the table with its environment to ``results/conv_kernels.<machine>.md``.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import tvm
import tvm.relax.backend.cpu_generic.pipeline
from tabulate import tabulate
from tvm import relax

from benchmarks import results_file
from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig, CpuScheduleRule, schedule_module
from tvm_costmodel.compilers.relax import RULE_VERSION, cpu_target

COLUMNS = "shape, ms, GFLOP/s, ONNX Runtime ms, ratio, build s, template".split(", ")
FORMATS = ("", ".4f", ".1f", ".4f", ".2f", ".2f", "")


@dataclass(frozen=True)
class Conv:
    """A convolution with bias and relu: pixels, channels in and out, kernel, stride, groups."""

    size: int
    data: int
    out: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def flops(self) -> int:
        """Floating-point operations of one run."""
        pixels = math.ceil(self.size / self.stride) ** 2
        return 2 * pixels * self.out * self.data // self.groups * self.kernel**2

    def __str__(self) -> str:
        group = f" g{self.groups}" if self.groups > 1 else ""
        return (
            f"conv {self.size}x{self.size} {self.data}->{self.out} "
            f"k{self.kernel} s{self.stride}{group}"
        )


@dataclass(frozen=True)
class MatMul:
    """A matrix product; ``weights`` says whether the right operand is a constant."""

    batch: int
    rows: int
    steps: int
    lanes: int
    weights: bool = True

    @property
    def flops(self) -> int:
        """Floating-point operations of one run."""
        return 2 * self.batch * self.rows * self.steps * self.lanes

    def __str__(self) -> str:
        kind = "dense" if self.weights else "matmul"
        return f"{kind} {self.batch}x{self.rows}x{self.steps}x{self.lanes}"


SETS: dict[str, list[Conv | MatMul]] = {
    "resnet50": [
        Conv(224, 3, 64, 7, 2),
        Conv(56, 64, 64, 3),
        Conv(56, 64, 256),
        Conv(56, 256, 64),
        Conv(28, 128, 128, 3),
        Conv(56, 128, 128, 3, 2),
        Conv(14, 256, 256, 3),
        Conv(14, 256, 1024),
        Conv(14, 1024, 256),
        Conv(7, 512, 512, 3),
        Conv(7, 512, 2048),
        Conv(7, 2048, 512),
    ],
    "squeezenet": [
        Conv(13, 512, 1000),
        Conv(55, 16, 64, 3),
        Conv(55, 128, 16),
        Conv(27, 32, 128, 3),
    ],
    "shufflenet": [
        Conv(28, 136, 136, groups=4),
        Conv(14, 272, 272, groups=4),
        Conv(7, 544, 544, groups=4),
        Conv(56, 24, 112, groups=4),
        Conv(28, 136, 136, 3, groups=136),
    ],
    "mobilenet": [
        Conv(112, 32, 32, 3, 1, 32),
        Conv(112, 96, 96, 3, 2, 96),
        Conv(56, 144, 144, 5, 2, 144),
        Conv(28, 192, 192, 3, 1, 192),
        Conv(14, 576, 576, 5, 1, 576),
        Conv(7, 960, 960, 3, 1, 960),
        Conv(112, 16, 96),
        Conv(14, 96, 576),
        Conv(7, 320, 1280),
    ],
    "vgg": [
        Conv(224, 3, 64, 3),
        Conv(224, 64, 64, 3),
        Conv(56, 256, 256, 3),
        Conv(14, 512, 512, 3),
    ],
    "resnext": [Conv(56, 128, 128, 3, groups=32), Conv(14, 512, 512, 3, groups=32)],
    "dense": [MatMul(1, 1, 9216, 4096), MatMul(1, 1, 4096, 1000), MatMul(1, 8, 512, 1000)],
    "vit": [
        MatMul(1, 197, 768, 2304),
        MatMul(1, 197, 3072, 768),
        MatMul(12, 197, 64, 197, False),
        MatMul(12, 197, 197, 64, False),
        MatMul(8, 128, 32, 128, False),
    ],
}


def random(*shape: int) -> np.ndarray:
    """Small random float32 values."""
    return (np.random.default_rng(0).random(shape, dtype="float32") - 0.5) * 0.1


def rule_module(case: Conv | MatMul, layout: str) -> tuple[tvm.IRModule, list[tuple[int, ...]]]:
    """Builds the operator as a Relax module; returns it with its input shapes."""
    op, nn = relax.op, relax.op.nn
    if isinstance(case, Conv):
        last = layout == "NHWC"
        k, per = case.kernel, case.data // case.groups
        weight = random(k, k, per, case.out) if last else random(case.out, per, k, k)
        bias = random(1, 1, 1, case.out) if last else random(1, case.out, 1, 1)
        plane = (case.size, case.size)
        shapes = [(1, *plane, case.data) if last else (1, case.data, *plane)]
    else:
        lead = (case.batch,) if case.batch > 1 else ()
        shapes = [(*lead, case.rows, case.steps)]
        if not case.weights:
            shapes.append((*lead, case.steps, case.lanes))
    builder = relax.BlockBuilder()
    inputs = [
        relax.Var(f"x{i}", relax.TensorType(list(s), "float32")) for i, s in enumerate(shapes)
    ]
    with builder.function("main", inputs):
        with builder.dataflow():
            if isinstance(case, Conv):
                y = nn.conv2d(
                    inputs[0],
                    relax.const(weight),
                    strides=case.stride,
                    padding=case.kernel // 2,
                    groups=case.groups,
                    data_layout=layout,
                    kernel_layout="HWIO" if last else "OIHW",
                )
                y = nn.relu(builder.emit(op.add(builder.emit(y), relax.const(bias))))
            elif case.weights:
                y = builder.emit(op.matmul(inputs[0], relax.const(random(case.steps, case.lanes))))
                y = op.add(y, relax.const(random(case.lanes)))
            else:
                y = op.matmul(*inputs)
            output = builder.emit_output(y)
        builder.emit_func_output(output)
    return builder.get(), shapes


def time_rule(case: Conv | MatMul, layout: str, config: CpuRuleConfig) -> tuple[float, float, str]:
    """Returns the kernel's seconds, the seconds to schedule and compile it, and the template."""
    target = cpu_target(threads=1)
    mod, shapes = rule_module(case, layout)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    with target:
        mod = tvm.transform.Sequential(passes)(mod)
    rule = CpuScheduleRule(config)
    began = time.perf_counter()
    executable = tvm.compile(schedule_module(mod, target, rule), target=target)
    build_s = time.perf_counter() - began
    machine = relax.VirtualMachine(executable, tvm.cpu())
    inputs = [tvm.runtime.tensor(random(*s)) for s in shapes]
    once = machine.time_evaluator("main", tvm.cpu(), number=1, repeat=3)(*inputs).min
    number = max(1, int(0.01 / once))
    timed = machine.time_evaluator("main", tvm.cpu(), number=number, repeat=7)(*inputs).min
    return timed, build_s, "+".join(rule.template_of.values()) or "unscheduled"


def time_onnxruntime(case: Conv | MatMul) -> float:
    """Returns ONNX Runtime's seconds for the same operator in its own layout."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    if isinstance(case, Conv):
        shapes = {"x": (1, case.data, case.size, case.size)}
        constants = {
            "w": random(case.out, case.data // case.groups, case.kernel, case.kernel),
            "b": random(case.out),
        }
        pad = case.kernel // 2
        nodes = [
            helper.make_node(
                "Conv",
                ["x", "w", "b"],
                ["c"],
                pads=[pad] * 4,
                strides=[case.stride] * 2,
                group=case.groups,
            ),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
    else:
        lead = (case.batch,) if case.batch > 1 else ()
        shapes = {"x": (*lead, case.rows, case.steps)}
        constants = {}
        if case.weights:
            constants = {"w": random(case.steps, case.lanes), "b": random(case.lanes)}
            nodes = [
                helper.make_node("MatMul", ["x", "w"], ["c"]),
                helper.make_node("Add", ["c", "b"], ["y"]),
            ]
        else:
            shapes["w"] = (*lead, case.steps, case.lanes)
            nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = {name: random(*shape) for name, shape in shapes.items()}
    best, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < 0.15:
        start = time.perf_counter()
        session.run(None, inputs)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=["NHWC", "NCHW"], default="NHWC")
    parser.add_argument("--set", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--no-onnxruntime", action="store_true")
    parser.add_argument("--accumulators", type=int, default=0)
    parser.add_argument("--vectors", type=int, default=0)
    parser.add_argument("--loop-order", default="auto")
    parser.add_argument("--no-packing", action="store_true")
    args = parser.parse_args()
    config = CpuRuleConfig(
        accumulators=args.accumulators,
        vectors_per_tile=args.vectors,
        loop_order=args.loop_order,
        pack_weights=not args.no_packing,
    )
    rows: list[list[object]] = []
    ratios = []
    for name in args.set:
        for case in SETS[name]:
            timed, build_s, template = time_rule(case, args.layout, config)
            other = math.nan if args.no_onnxruntime else time_onnxruntime(case)
            ratios.append(timed / other)
            rate = case.flops / timed / 1e9
            row = [str(case), timed * 1e3, rate, other * 1e3, ratios[-1], build_s, template]
            rows.append(row)
            print(tabulate([row], COLUMNS, tablefmt="plain", floatfmt=FORMATS), flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    verdict = f"geometric mean of rule / ONNX Runtime: {mean:.2f}"
    print(verdict)
    if args.set == list(SETS) and config == CpuRuleConfig() and not args.no_onnxruntime:
        results_file.write(
            "Kernels of the CPU schedule rule",
            f"Wall time on one thread, fastest of 7 repeats of 10 ms or more, {args.layout}.",
            tabulate(rows, COLUMNS, tablefmt="github", floatfmt=FORMATS) + f"\n\n{verdict}",
            also=f"onnxruntime {version('onnxruntime')}; rule version {RULE_VERSION}",
        )


if __name__ == "__main__":
    main()
