#!/usr/bin/env bash
# Makes the virtual environment that quickstart.sh and test.sh use, or brings it up to date.
#
#   PYTHON       interpreter to use (default: the newest python3.10 .. python3.13 on PATH that has venv)
#   VENV         where the environment goes (default: .venv)
#   TORCH_INDEX  an extra package index to take torch from, for instance one with CPU-only builds
#
# Prints the environment's python on its last line of standard output; all else goes to stderr.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}

usable() { "$1" -c 'import sys, venv, ensurepip; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3 python}; do
    if command -v "$candidate" >/dev/null && usable "$candidate"; then command -v "$candidate"; return; fi
  done
  echo "no Python 3.10 to 3.13 with venv was found (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3});" \
       "on Debian: apt-get install python3 python3-venv, or set PYTHON" >&2
  return 2
}

install() {
  local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  # torch brings its own dependencies, whichever build the index offers; all else is installed as listed.
  "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt "$(grep '^torch==' constraints.txt)" >&2
  "${pip[@]}" --no-deps -r constraints.txt >&2
  "${pip[@]}" --no-deps --no-build-isolation -e . >&2
}

stamp=$venv/.installed
wanted=$(cat constraints.txt pyproject.toml setup.py CMakeLists.txt csrc/* | sha256sum | cut -d' ' -f1)
if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python)
  echo "creating $venv with $("$python" --version)" >&2
  "$python" -m venv "$venv"
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing packages into $venv (about 1 GB once; torch and TVM are most of it)" >&2
  install
  printf '%s' "$wanted" > "$stamp"
fi
echo "$venv/bin/python"
