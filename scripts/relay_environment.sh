#!/usr/bin/env bash
# Makes the second virtual environment, whose TVM still has Relay, or brings it up to date.
#
#   RELAY_PYTHON  a Python 3.10 to use (default: python3.10, or the newest one under pyenv)
#   RELAY_VENV    where the environment goes (default: .venv-relay)
#
# Prints the environment's python on its last line of standard output; all else goes to stderr.
# Ends with status 3, and says why, where there is no Python 3.10 or no x86-64 Linux: the TVM that
# it installs has wheels for nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${RELAY_VENV:-.venv-relay}
requirements=scripts/relay-requirements.txt

usable() { "$1" -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info[:2] != (3, 10))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${RELAY_PYTHON:-python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python}; do
    if command -v "$candidate" >/dev/null && usable "$candidate"; then command -v "$candidate"; return; fi
  done
  echo "no Python 3.10 with venv was found, which Relay's TVM needs; install one (Debian:" \
       "apt-get install python3.10 python3.10-venv; or pyenv install 3.10), or set RELAY_PYTHON" >&2
  return 3
}

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "Relay's TVM has wheels for x86-64 Linux alone, and this is $(uname -sm)" >&2
  exit 3
fi
stamp=$venv/.installed
wanted=$(cat "$requirements" pyproject.toml setup.py | sha256sum | cut -d' ' -f1)
if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python)
  echo "creating $venv with $("$python" --version)" >&2
  "$python" -m venv "$venv"
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing packages into $venv (about 600 MB once)" >&2
  pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps)
  "${pip[@]}" -r "$requirements" >&2
  "${pip[@]}" --no-build-isolation -e . >&2
  printf '%s' "$wanted" > "$stamp"
fi
echo "$venv/bin/python"
