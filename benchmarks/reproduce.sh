# Sourced by the reproduce.sh of each folder, which declares a function for each figure.
# DATA is the folder of published data sets (default: TVM_COSTMODEL_DATA, else ../shared/data).
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DATA=${TVM_COSTMODEL_DATA:-../shared/data}
LABELS=profiling/labels/cpu-amd-zen5

relay_python() { "$(bash scripts/relay_environment.sh | tail -n 1)" "$@"; }

# Makes the figures named, or all that the folder's reproduce.sh declares.
reproduce() {
  local known; known=$(sed -n "s/^\([a-z_]*\)() {$/\1/p" "$script" | grep -vx checkpoints)
  for figure in ${@:-$known}; do
    grep -qx "$figure" <<< "$known" || { echo "no figure $figure; there are:" $known >&2; exit 2; }
  done
  PATH=$(dirname "$(bash scripts/environment.sh | tail -n 1)"):$PATH
  for figure in ${@:-$known}; do "$figure"; done
}
