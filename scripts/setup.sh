#!/usr/bin/env bash
# Builds .venv from constraints.txt, then sees to off-screen rendering. `make` calls it; a second call ends at once.
#   scripts/setup.sh venv   the virtual environment
#   scripts/setup.sh gl     the GL libraries (needs the environment)
# PYTHON chooses the interpreter (3.11 or 3.12), PIP_ARGS is passed to every `pip install`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv KEY_FILE=.venv/.setup-key UNFINISHED=.venv/.setup-unfinished GL_WORKS=.venv/.gl-works
readonly GL_PACKAGES="libegl1 libgl1-mesa-dri"

fail() { echo "setup: $*" >&2; exit 2; }

# The content decides, not the time of a file: `git checkout` touches files without changing them.
key() { { cat pyproject.toml constraints.txt scripts/setup.sh; pwd; } | sha256sum | cut -d' ' -f1; }

apt_install() {
  command -v apt-get >/dev/null || return 1
  local as_root=()
  if [[ $(id -u) != 0 ]]; then
    sudo -n true 2>/dev/null || return 1
    as_root=(sudo -n)
  fi
  echo "setup: apt-get install -y $*"
  { "${as_root[@]}" apt-get update -qq || true; } && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

is_supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# The first supported interpreter, preferring one that can make virtual environments (Debian packs that apart).
choose_python() {
  local candidate supported=""
  for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
    is_supported "$candidate" || continue
    has_venv "$candidate" && { echo "$candidate"; return; }
    supported=${supported:-$candidate}
  done
  [[ -n $supported ]] || fail "Python 3.11 or 3.12 is needed, found neither${PYTHON:+ as PYTHON=$PYTHON}: install" \
    "one (apt-get install -y python3-venv) or name it, as in make setup PYTHON=/path/to/python3.11"
  local package
  package=$("$supported" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  apt_install "$package" >&2 && has_venv "$supported" && { echo "$supported"; return; }
  fail "$supported cannot make virtual environments: apt-get install -y $package, then start again"
}

# A set-up that was interrupted may leave a package without its record or without some of its files.
is_whole() {
  grep -qs "$PWD/$VENV" "$VENV/bin/pip" || return 1
  [[ -e $UNFINISHED ]] || return 0
  "$VENV/bin/python" -I - <<'PYTHON'
import sys
from importlib import metadata

for package in metadata.distributions():
    files = package.files
    if files is None or not all(file.suffix == ".pyc" or file.locate().exists() for file in files):
        sys.exit(f"setup: {package.name} was left unfinished")
PYTHON
}

install() { "$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt ${PIP_ARGS:-} "$@"; }

build_venv() {
  [[ $(cat $KEY_FILE 2>/dev/null) != "$(key)" ]] || return 0
  if ! is_whole; then
    local python
    python=$(choose_python)
    echo "setup: building $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
  fi
  touch "$UNFINISHED"
  rm -f "$KEY_FILE"
  # setuptools first and no build isolation: the one source package (antlr4, pure Python) and this project are built
  # with the pinned setuptools, not with whatever is newest that day.
  install setuptools
  install --no-build-isolation --use-pep517 -e '.[all,dev]'
  install --no-deps robosuite openpi-client
  key > "$KEY_FILE"
  rm -f "$UNFINISHED"
}

renders() { "$VENV/bin/python" -c 'from s2robot.gl import select_gl_backend; select_gl_backend()' 2>/dev/null; }

ensure_gl() {
  [[ -e $GL_WORKS ]] && return
  # shellcheck disable=SC2086
  renders || { apt_install $GL_PACKAGES && renders; } ||
    fail "rendering needs GL libraries: apt-get install -y $GL_PACKAGES, then start again (s2robot doctor says more)"
  touch "$GL_WORKS"
}

case ${1:-} in
  venv) build_venv ;;
  gl) ensure_gl ;;
  *) fail "say venv or gl, not '${1:-}'" ;;
esac
