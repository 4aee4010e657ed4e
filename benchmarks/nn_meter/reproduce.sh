#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

pack_bench() {
  local archive="$DATA/nnmeter_bench/nnmeter_bench.npz"
  [ -e "$archive" ] ||
    python benchmarks/nn_meter/pack_bench.py "$DATA"/nnmeter_bench/dataset/*.jsonl --output "$archive"
}

nnmeter() {
  local bench=(--data "$DATA/nnmeter_bench/nnmeter_bench.npz" --jobs 3)
  local recipe=(--set epochs=18 --set batch_size=64 --torch-device cuda)
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --stem nnmeter-former "${recipe[@]}" \
    --predictors roofline_former
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --stem nnmeter-networks "${recipe[@]}" \
    --predictors nnlp,nn_former,nar_former_v2 --splits random --set bfloat16=true
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --stem nnmeter-nar_former "${recipe[@]}" \
    --predictors nar_former --splits random --seeds 1 --set bfloat16=true
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --stem nnmeter-trees \
    --predictors xgboost --seeds 1
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --predictors roofline_gp,flops \
    --also results/nnmeter-*.json
  rm -f results/nnmeter-*
}

nnmeter_ablation() {
  python benchmarks/nn_meter/nnmeter_ablation.py --data "$DATA/nnmeter_bench/nnmeter_bench.npz" \
    --torch-device cuda
}

nnmeter_cut() {
  local bench=(--data "$DATA/nnmeter_bench/nnmeter_bench.npz" --splits leave-one-family-out --seeds 1)
  local recipe=(--every 25 --set epochs=4 --set batch_size=16)
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --stem nnmeter_cut-former "${recipe[@]}" \
    --predictors roofline_former
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --stem nnmeter_cut-networks "${recipe[@]}" \
    --predictors nnlp,nn_former,nar_former_v2,nar_former --set bfloat16=true
  python benchmarks/nn_meter/nnmeter.py "${bench[@]}" --every 25 --stem nnmeter_cut \
    --predictors roofline_gp,flops,xgboost --also results/nnmeter_cut-*.json
  rm -f results/nnmeter_cut-*
}

reproduce "$@"
