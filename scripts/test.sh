#!/usr/bin/env bash
# Sets up .venv and runs every check: ruff, mypy, pytest. Arguments go to pytest (`--slow` for all).
# Two files of tests run at a time; TEST_WORKERS=N changes that.
# Where there is a Python 3.10, it also sets up .venv-relay, whose TVM has Relay, and runs
# tests/relay there; elsewhere those tests skip by name.
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
PYTHON=$("$python" -c "import sys; print(sys.executable)") bash scripts/typecheck.sh
"$python" -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@"
# Arguments that choose tests chose them above.
if [ -n "$relay" ] && { [ $# = 0 ] || [ "$*" = --slow ]; }; then
  echo "the tests of Relay, in its own environment:" >&2
  exec "$relay" -m pytest tests/relay "$@"
fi
