#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

kill_resume() {
  python benchmarks/labels/kill_resume.py --kills 10 --count 60
}

label_noise() {
  tvm-costmodel profile --suite default --count 200 --store build/label_noise.db
  python benchmarks/labels/label_noise.py --store build/label_noise.db --count 50
}

reproduce "$@"
