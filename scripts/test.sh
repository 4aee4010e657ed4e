#!/usr/bin/env bash
# Sets up .venv and runs every check: ruff, mypy, pytest. Arguments go to pytest (`--slow` for all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(bash scripts/environment.sh | tail -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$python" -m ruff check .
"$python" -m ruff format --check .
PYTHON=$("$python" -c "import sys; print(sys.executable)") bash scripts/typecheck.sh
exec "$python" -m pytest "$@"
