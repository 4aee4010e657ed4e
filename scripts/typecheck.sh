#!/usr/bin/env bash
# mypy over the package as it is installed: models/ and profiling/ in their places inside it.
# Set PYTHON to the interpreter that has mypy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tree=$PWD/build/typecheck
rm -rf "$tree" && mkdir -p "$tree"
cp -rs "$PWD/tvm_costmodel" "$tree/tvm_costmodel"
cp -rs "$PWD/models" "$tree/tvm_costmodel/models"
cp -rs "$PWD/profiling" "$tree/tvm_costmodel/profiling"
cd "$tree"
MYPYPATH=$tree exec "${PYTHON:-python}" -m mypy --config-file ../../pyproject.toml -p tvm_costmodel
