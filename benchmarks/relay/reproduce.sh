#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

checkpoints() {
  for predictor in flops_kernel relay_xgboost relay_kernel_former; do
    for seed in 0 1 2; do
      folder=build/relay_decisions/$predictor.$seed
      [ -d "$folder" ] || tvm-costmodel train --keep-stale --variants "$LABELS-relay-variants.jsonl.xz" \
        --predictor "$predictor" --seed "$seed" --output "$folder"
    done
  done
}

relay_export() {
  relay_python benchmarks/relay/relay_export.py
}

relay_transfer() {
  local relax=build/decisions/kernel_former.0
  [ -d "$relax" ] || tvm-costmodel train --keep-stale --variants "$LABELS-variants.jsonl.xz" --store "$LABELS.jsonl.xz" \
    --predictor kernel_former --output "$relax"
  python benchmarks/relay/relay_transfer.py --seeds 1 --relay "$LABELS-relay-variants.jsonl.xz" --relax "$relax"
}

relay_tuning() {
  checkpoints
  local strategies=(--labels "$LABELS-relay-variants.jsonl.xz")
  for predictor in flops_kernel relay_xgboost relay_kernel_former; do
    local folder=build/relay_decisions/$predictor
    strategies+=(--strategy "$predictor=$folder.0,$folder.1,$folder.2")
  done
  python benchmarks/relay/relay_tuning.py run "${strategies[@]}"
  python benchmarks/relay/relay_tuning.py table "${strategies[@]}"
}

reproduce "$@"
