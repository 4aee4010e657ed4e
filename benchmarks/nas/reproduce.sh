#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

accuracy() {
  python benchmarks/nas/accuracy.py --data "$DATA" --device cuda --jobs 12 --steps 600
  python benchmarks/nas/accuracy.py --data "$DATA" --noise
}

nnlqp_cells() {
  python benchmarks/nas/nnlqp_cells.py --data "$DATA"
}

reproduce "$@"
