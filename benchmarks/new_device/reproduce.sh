#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

calibration() {
  python benchmarks/new_device/calibration.py --data "$DATA" --seeds 3
}

new_device() {
  python benchmarks/new_device/new_device.py --data "$DATA" --seeds 3
}

other_processors() {
  python benchmarks/new_device/other_processors.py "$DATA"/cpu_labels/*.jsonl.xz
}

probe() {
  python benchmarks/new_device/probe.py "$DATA"/cpu_labels/*.jsonl.xz
}

slower_board() {
  python benchmarks/new_device/slower_board.py
}

reproduce "$@"
