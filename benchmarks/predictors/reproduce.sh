#!/usr/bin/env bash
# Makes the figures of this folder again: all of them, or those named (see README.md).
source "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh"

padded_training() {
  python benchmarks/predictors/padded_training.py --labels "$LABELS.jsonl.xz"
}

predict_speed() {
  python benchmarks/predictors/predict_speed.py --checkpoint cpu-amd-zen5/roofline_former --threads 1
}

predictors() {
  local labels=(--labels "$LABELS.jsonl.xz" --first-seed 3 --seeds 3 --threads 1)
  python benchmarks/predictors/compare_predictors.py "${labels[@]}" --predictors nar_former_v2 --epochs 25
  python benchmarks/predictors/compare_predictors.py "${labels[@]}" \
    --predictors roofline_former,roofline_gp --also results/predictors.cpu-amd-zen5.json
}

predictors_unseen() {
  python benchmarks/predictors/compare_predictors.py --labels "$LABELS.jsonl.xz" --seeds 1 --threads 1 \
    --split leave-one-family-out --predictors roofline_gp
}

reproduce "$@"
