#!/usr/bin/env bash
# Builds the wheel into dist/ and tries it where nothing else is: a bare environment with the base dependencies alone,
# an unrelated folder that holds packages named envs and policies, no source tree in sight.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rm -rf build dist
.venv/bin/python -m build --wheel --no-isolation --outdir dist . >/dev/null
wheel=$(realpath dist/*.whl)
constraints=$(realpath constraints.txt)

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
.venv/bin/python -m venv "$room/venv"
# shellcheck disable=SC2086
"$room/venv/bin/python" -m pip install -q --disable-pip-version-check --use-pep517 -c "$constraints" ${PIP_ARGS:-} "$wheel"

mkdir -p "$room/elsewhere"/{envs,policies,configs}
for name in envs policies configs; do
  echo "raise SystemExit('the wheel imported a folder of the user')" > "$room/elsewhere/$name/__init__.py"
done
cd "$room/elsewhere"
"$room/venv/bin/s2robot" doctor >/dev/null
"$room/venv/bin/python" - "$room/venv" <<'PYTHON'
import sys
from importlib.util import find_spec

for name in ("s2robot.envs", "s2robot.policies", "s2robot.configs"):
    spec = find_spec(name)
    assert spec and spec.origin and spec.origin.startswith(sys.argv[1]), f"{name} is not the wheel's: {spec}"
PYTHON
for command in $("$room/venv/bin/python" -c 'from s2robot.cli.main import command_names; print(*command_names())'); do
  "$room/venv/bin/s2robot" "$command" --help >/dev/null
done
echo "$wheel works in a bare environment"
