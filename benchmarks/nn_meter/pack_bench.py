"""Packs nn-Meter's published bench into the archive that the benchmarks read.

python benchmarks/nn_meter/pack_bench.py dataset/*.jsonl --output nnmeter_bench.npz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tvm_costmodel.datasets.nn_meter import pack_nnmeter
from tvm_costmodel.errors import CostModelError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="+", type=Path, help="the published .jsonl files")
    parser.add_argument("--output", type=Path, default=Path("nnmeter_bench.npz"))
    options = parser.parse_args()
    try:
        count = pack_nnmeter(options.families, options.output)
    except CostModelError as error:
        print(f"pack_bench: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{count} networks of {len(options.families)} families in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
