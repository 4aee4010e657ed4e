#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

mutated_files() {
  python -m benchmarks.robustness.mutated_files --count 10000 --first 1000 --record build/mutations.jsonl
}

reproduce "$@"
