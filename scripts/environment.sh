#!/usr/bin/env bash
# Makes the virtual environment that quickstart.sh and test.sh use, or brings it up to date.
#
#   PYTHON       interpreter to use, for instance PYTHON=python3.12
#                (default: the first of python3.11, 3.12, 3.13, 3.10, python3 that has venv)
#   VENV         where the environment goes (default: .venv)
#   TORCH_INDEX  a package index to take torch from (default: see below)
#
# torch's plain build for Linux on x86-64 brings CUDA libraries of several GB. A machine without an
# NVIDIA driver gets the CPU-only build instead, from pip's own indexes where they have one, else
# from PyTorch's; only where neither can be had does it get the plain one.
#
# Prints the environment's python on its last line of standard output; all else goes to stderr.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

usable() { "$1" -c 'import sys, venv, ensurepip; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3 python}; do
    if command -v "$candidate" >/dev/null && usable "$candidate"; then command -v "$candidate"; return; fi
  done
  echo "no Python 3.10 to 3.13 with venv was found (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3});" \
       "on Debian: apt-get install python3 python3-venv, or set PYTHON" >&2
  return 2
}

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }

# torch brings its own dependencies, whichever build the index offers.
install_torch() {
  local torch; torch=$(grep '^torch==' constraints.txt)
  if [ -n "${TORCH_INDEX:-}" ]; then
    pip_install -c constraints.txt --extra-index-url "$TORCH_INDEX" "$torch"
  elif has_nvidia_gpu; then
    pip_install -c constraints.txt "$torch"
  elif ! pip_install -c constraints.txt "$torch+cpu" 2>/dev/null &&
       ! pip_install -c constraints.txt --retries 1 --timeout 15 \
           --extra-index-url https://download.pytorch.org/whl/cpu "$torch+cpu" 2>/dev/null; then
    echo "no CPU-only build of $torch can be had here; taking the plain one (several GB on x86-64)" >&2
    pip_install -c constraints.txt "$torch"
  fi
}

install() {
  install_torch
  pip_install --no-deps -r constraints.txt  # all else as listed
  pip_install --no-deps --no-build-isolation -e .
}

stamp=$venv/.installed
wanted=$(cat constraints.txt pyproject.toml setup.py CMakeLists.txt csrc/* | sha256sum | cut -d' ' -f1)
if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python)
  echo "creating $venv with $("$python" --version)" >&2
  "$python" -m venv "$venv"
elif [ -n "${PYTHON:-}" ] && [ "$(version "$PYTHON")" != "$(version "$venv/bin/python")" ]; then
  echo "$venv has Python $(version "$venv/bin/python"), not that of PYTHON=$PYTHON;" \
       "remove $venv, or set VENV to another folder" >&2
  exit 2
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing packages into $venv (about 1 GB once; torch and TVM are most of it)" >&2
  install
  printf '%s' "$wanted" > "$stamp"
fi
echo "$venv/bin/python"
