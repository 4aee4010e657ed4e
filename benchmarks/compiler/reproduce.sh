#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

cpu_rule() {
  python benchmarks/compiler/cpu_rule.py
}

differential() {
  python benchmarks/compiler/differential.py --examples 2000
}

graph_walk() {
  python benchmarks/compiler/graph_walk.py
}

masked_attention() {
  python benchmarks/compiler/masked_attention.py
}

onnx_operators() {
  python benchmarks/compiler/onnx_operators.py --resume build/onnx_operators.jsonl
}

reproduce "$@"
