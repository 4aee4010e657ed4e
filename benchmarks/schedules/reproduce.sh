#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

relay_tasks() {
  relay_python benchmarks/schedules/relay_tasks.py
}

reproduce "$@"
