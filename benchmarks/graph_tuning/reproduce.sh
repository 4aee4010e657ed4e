#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

checkpoints() {
  local -A epochs=([nar_former_v2_kernel]="--set epochs=15")
  for predictor in flops_kernel xgboost_kernel nar_former_v2_kernel kernel_former; do
    for seed in 0 1 2; do
      folder=build/decisions/$predictor.$seed
      [ -d "$folder" ] || tvm-costmodel train --keep-stale --variants "$LABELS-variants.jsonl.xz" --store "$LABELS.jsonl.xz" \
        --predictor "$predictor" --seed "$seed" --output "$folder" ${epochs[$predictor]:-}
    done
  done
}

decision_errors() {
  checkpoints
  local predictors=()
  for predictor in flops_kernel xgboost_kernel nar_former_v2_kernel kernel_former; do
    predictors+=(--predictor "$predictor=build/decisions/$predictor.0,build/decisions/$predictor.1,build/decisions/$predictor.2")
  done
  python benchmarks/graph_tuning/decision_errors.py --variants "$LABELS-variants.jsonl.xz" \
    --labels "$LABELS.jsonl.xz" "${predictors[@]}"
}

graph_tuning() {
  checkpoints
  local strategies=(--strategy random)
  for predictor in flops_kernel xgboost_kernel nar_former_v2_kernel kernel_former; do
    strategies+=(--strategy "$predictor=build/decisions/$predictor.0,build/decisions/$predictor.1,build/decisions/$predictor.2")
  done
  python benchmarks/graph_tuning/graph_tuning.py prepare plan warm measure times tune speed table \
    --seeds 3 --bred 16 --candidates 80 "${strategies[@]}"
}

reproduce "$@"
