#!/usr/bin/env bash
# mypy over the package. Set PYTHON to the interpreter that has mypy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python}" -m mypy -p tvm_costmodel
