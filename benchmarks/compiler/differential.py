"""Random operators of every schedule template against NumPy and torch.

    python benchmarks/compiler/differential.py --examples 2000
    python benchmarks/compiler/differential.py --examples 200 --mcpu znver5 tile shuffle

Prints a row for each template: how many examples were built and run, how many outputs were wrong,
how many operators were refused; wrong ones are printed in full. Many operators are built as one
module. With ``--mcpu`` the code is compiled for another processor and its optimised LLVM IR runs
here: what LLVM's passes make of our loops for AVX-512 is checked without such a processor. (float16
is left out, as LLVM cannot always bring its vectors from one processor to another.)
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tvm
from tabulate import tabulate
from tvm import relax

from benchmarks import results_file
from benchmarks.compiler.differential_cases import TEMPLATES
from benchmarks.compiler.differential_draws import Case, RandomSource
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import KernelDecision
from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target
from tvm_costmodel.compilers.relax.verification import run
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.tunable_ops import tunable_operators

ALGORITHMS = ("winograd2", "winograd4", "im2col")
BATCH = 24


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a batch is built: vectors, cores, layout, and the processor that code is made for."""

    vector_bits: int = 0
    cores: int = 1
    layout: str = "NHWC"
    mcpu: str | None = None


SETTINGS = (
    Settings(),
    Settings(vector_bits=128),
    Settings(vector_bits=512, layout="NCHW"),
    Settings(vector_bits=256, cores=2),
    Settings(cores=2, layout="NCHW"),
    Settings(vector_bits=512, cores=2),
)


@dataclasses.dataclass
class Tally:
    """What came of a template's examples."""

    examples: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    refused: list[str] = dataclasses.field(default_factory=list)


def module_of(cases: Sequence[Case]) -> tvm.IRModule:
    """One module that computes every case."""
    builder = relax.BlockBuilder()
    variables = [
        [
            relax.Var(f"x{n}_{i}", relax.TensorType(x.shape, str(x.dtype)))
            for i, x in enumerate(case.inputs)
        ]
        for n, case in enumerate(cases)
    ]
    with builder.function("main", [v for some in variables for v in some]):
        with builder.dataflow():
            outputs = [
                builder.emit(case.make(builder.emit, *some))
                for case, some in zip(cases, variables, strict=True)
            ]
            result = builder.emit_output(relax.Tuple(outputs))
        builder.emit_func_output(result)
    return builder.get()


def outputs_of(cases: Sequence[Case], settings: Settings, algorithm: str = "") -> list[np.ndarray]:
    """Builds some cases as one module and runs it."""
    mod = module_of(cases)
    kernels = ()
    if algorithm:
        ids = [i for some in tunable_operators(from_relax(mod)).values() for i in some]
        kernels = tuple((i, KernelDecision(algorithm=algorithm)) for i in ids)
    config = PipelineConfig(
        layout=settings.layout,
        rule=CpuRuleConfig(vector_bits=settings.vector_bits),
        kernels=kernels,
    )
    executable = build(mod, cpu_target(settings.cores, settings.mcpu), config).executable
    if settings.mcpu:
        run_here(executable.mod)
    return run(executable, [x for case in cases for x in case.inputs])


def run_here(module: tvm.runtime.Module) -> None:
    """Replaces kernels for another processor by their optimised LLVM IR compiled for this one."""
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    imports = list(module.imports)
    module.clear_imports()
    for part in imports:
        if part.kind == "llvm":
            text = part.inspect_source("ll")
            text = re.sub(r'"(target-cpu|tune-cpu)"="[^"]*"', rf'"\1"="{cpu}"', text)
            text = re.sub(r'"target-features"="[^"]*"', '"target-features"=""', text)
            text = re.sub(r"(mcpu\\22:\\22)[\w-]+", rf"\g<1>{cpu}", text)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "kernels.ll"
                path.write_text(text)
                part = tvm.runtime.load_module(str(path))
        module.import_module(part)


def difference(got: np.ndarray, case: Case) -> str:
    """What is wrong with an output, or nothing."""
    want = case.expected
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    if not want.size:
        return ""
    a, b = got.astype("float64"), want.astype("float64")
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return f"{int((np.isfinite(a) != np.isfinite(b)).sum())} values are not finite alike"
    finite = np.isfinite(b)
    same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    if not same or not finite.any():
        return "" if same else "other infinities"
    off = np.abs(a[finite] - b[finite])
    most = float(off.max()) / max(1.0, float(np.abs(b[finite]).max()))
    if most <= case.rtol:
        return ""
    return f"differs by {most:.1e}, {int((off > case.rtol).sum())} of {want.size} values"


def check(cases: Sequence[Case], settings: Settings, template: str, tally: Tally) -> None:
    """Builds and runs cases as one module; each by itself where that is refused."""
    algorithm = template if template in ALGORITHMS else ""
    try:
        outputs = outputs_of(cases, settings, algorithm)
    except Exception as error:  # whatever refuses one is counted, and shown
        if len(cases) > 1:
            half = len(cases) // 2
            check(cases[:half], settings, template, tally)
            check(cases[half:], settings, template, tally)
            return
        tally.examples += 1
        text = " ".join(str(error).split())[-160:]
        tally.refused.append(f"{template}: {cases[0].text}: {type(error).__name__}: {text}")
        return
    tally.examples += len(cases)
    for case, got in zip(cases, outputs, strict=True):
        problem = difference(got, case)
        if problem:
            tally.wrong.append(f"{template}: {case.text} with {settings}: {problem}")


def tally_of(template: str, examples: int, seed: int, mcpu: str | None = None) -> Tally:
    """Checks random examples of one template."""
    draw: Callable[[RandomSource], Case] = TEMPLATES[template]
    tally = Tally()
    batch = 0
    while tally.examples < examples:
        count = min(BATCH, examples - tally.examples)
        numbers = range(tally.examples, tally.examples + count)
        cases = [draw(RandomSource(seed * 1_000_003 + number)) for number in numbers]
        settings = dataclasses.replace(SETTINGS[batch % len(SETTINGS)], mcpu=mcpu)
        if mcpu:
            settings = dataclasses.replace(settings, cores=1)
            skipped = [case for case in cases if any(x.dtype == "float16" for x in case.inputs)]
            tally.examples += len(skipped)
            cases = [case for case in cases if not any(case is other for other in skipped)]
        check(cases, settings, template, tally)
        batch += 1
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 1 where an output was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("templates", nargs="*", help=f"of {', '.join(TEMPLATES)}; default all")
    parser.add_argument("--examples", type=int, default=200, help="examples of each template")
    parser.add_argument("--seed", type=int, default=0, help="seed of the examples")
    parser.add_argument("--mcpu", help="make code for this processor and run its LLVM IR here")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.templates if name not in TEMPLATES]
    if unknown:
        parser.error(f"no template {unknown[0]!r}; use some of {', '.join(TEMPLATES)}")
    rows, wrong = [], False
    for name in options.templates or TEMPLATES:
        start = time.time()
        tally = tally_of(name, options.examples, options.seed, options.mcpu)
        for text in (*tally.wrong, *tally.refused[:3]):
            print(text, file=sys.stderr, flush=True)
        wrong = wrong or bool(tally.wrong)
        counts = (tally.examples, len(tally.wrong), len(tally.refused))
        rows.append((name, *counts, time.time() - start))
        print(*rows[-1], flush=True)
    columns = ("template", "examples", "wrong", "refused", "s")
    table = tabulate(rows, columns, tablefmt="github", floatfmt=".0f")
    print(table)
    if not options.templates and options.examples >= 2000:
        protocol = "Random operators of each template against NumPy and torch (float64)."
        stem = "differential" + (f".for-{options.mcpu}" if options.mcpu else "")
        results_file.write("Random operators against references", protocol, table, stem=stem)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
