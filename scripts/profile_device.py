#!/usr/bin/env python
"""Measures the workloads that make labels, on this machine or on a board behind a TVM RPC tracker.

    python scripts/profile_device.py --store cpu.db --count 100
    python scripts/profile_device.py --tracker HOST:PORT --key rpi4 --store rpi4.db --count 100

The same as ``tvm-costmodel profile``, with its options; measures ``--suite default`` when nothing
else is named.
"""

import sys

from tvm_costmodel.cli import main

WORK = ("--suite", "--remeasure-stale", "--remeasure-noisy", "--import", "--export")


def arguments(argv: list[str]) -> list[str]:
    """The arguments of ``tvm-costmodel profile``: the default suite where nothing else is named."""
    if any(word.split("=")[0] in WORK for word in argv):
        return ["profile", *argv]
    return ["profile", "--suite", "default", *argv]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
