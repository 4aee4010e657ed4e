#!/usr/bin/env bash
# Sets up .venv and runs the main job on a real network: export its graph, predict its latency on
# this CPU, measure it, and compare the predictors with the measurement. Give an .onnx file (and the
# shape of dynamic inputs) to use your own: bash scripts/quickstart.sh model.onnx --shape x=1,3,224,224
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash scripts/environment.sh | tail -n 1)

shipped='import onnx, pathlib; print(pathlib.Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx")'
model=${1:-$("$python" -c "$shipped")}
shift || true
mkdir -p quickstart

echo "== the installation" >&2
"$python" -m tvm_costmodel doctor
echo "== the computation graph, exported by a TVM pass" >&2
"$python" -m tvm_costmodel export "$model" "$@" -o quickstart/graph.json
echo "== its latency: predicted, and measured on this CPU" >&2
"$python" -m tvm_costmodel predict "$model" "$@" --measure --store quickstart/measurements.db
