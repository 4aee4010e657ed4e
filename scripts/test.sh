#!/usr/bin/env bash
# Sets up .venv and runs every check: ruff, mypy, pytest. Arguments go to pytest (`--slow` for all).
# `--fast` runs what builds and measures nothing: under three minutes, for between two edits.
# Two files of tests run at a time; TEST_WORKERS=N changes that.
# Where there is a Python 3.10, it also sets up .venv-relay, whose TVM has Relay, and runs
# tests/relay there, beside the others; elsewhere those tests skip by name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash scripts/environment.sh | tail -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if relay=$(bash scripts/relay_environment.sh | tail -n 1) && [ -n "$relay" ]; then
  RELAY_ENVIRONMENT_PYTHON=$(realpath -s "$relay")
  export RELAY_ENVIRONMENT_PYTHON
else
  relay=
  echo "the tests of Relay are skipped: no environment for it could be made (see above)" >&2
fi
"$python" -m ruff check .
"$python" -m ruff format --check .
# Arguments that choose tests choose them among those below.
if [ -n "$relay" ] && { [ $# = 0 ] || [ "$*" = --slow ]; }; then
  output=$(mktemp)
  "$relay" -m pytest tests/relay "$@" >"$output" 2>&1 &
  relay_tests=$!
  trap 'kill "$relay_tests" 2>/dev/null || true; rm -f "$output"' EXIT
fi
PYTHON=$("$python" -c "import sys; print(sys.executable)") bash scripts/typecheck.sh
"$python" -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@"
if [ -n "${relay_tests:-}" ]; then
  status=0
  wait "$relay_tests" || status=$?
  echo "the tests of Relay, in its own environment:" >&2
  cat "$output"
  exit "$status"
fi
