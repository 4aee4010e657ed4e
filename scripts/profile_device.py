#!/usr/bin/env python
"""Measures the workloads that make labels, on this machine or on a board behind a TVM RPC tracker.

    python scripts/profile_device.py --store cpu.db --count 100
    python scripts/profile_device.py --tracker HOST:PORT --key rpi4 --store rpi4.db --count 100

The same as ``tvm-costmodel profile`` with ``--suite default`` when nothing else is named; it takes
that command's options.
"""

import sys

from tvm_costmodel.cli import main

CHOICES = ("--suite", "--remeasure-stale", "--remeasure-noisy", "--import", "--export")


def arguments(given: list[str]) -> list[str]:
    """The command line of ``profile`` that these arguments stand for."""
    named = any(word.split("=")[0] in CHOICES for word in given)
    return ["profile", *given] if named else ["profile", "--suite", "default", *given]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
