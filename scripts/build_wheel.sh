#!/usr/bin/env bash
# Builds the wheel into dist/ and tries it where nothing else is: a bare environment with the base dependencies alone,
# an unrelated folder that holds packages named envs and policies, no source tree in sight.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

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

# The robot's computer: the wheel with its extra and a bundle that was exported elsewhere; then the bundle's files alone.
cd "$root"
.venv/bin/python -c "
from pathlib import Path
import sys
sys.path.insert(0, '.')
from tests.deploy.tiny_bundle import write_bundle
write_bundle(Path('$room/bundle'))" 2>/dev/null
cd "$room/elsewhere"
# shellcheck disable=SC2086
"$room/venv/bin/python" -m pip install -q --disable-pip-version-check -c "$constraints" ${PIP_ARGS:-} "$wheel[robot]"
"$room/venv/bin/python" - "$room/bundle" <<'PYTHON'
import sys
from importlib.util import find_spec

import numpy as np
import onnxruntime

from s2robot.deploy.runtime import BundlePolicy
from s2robot.types import Observation

assert not find_spec("torch") and not find_spec("mujoco") and not find_spec("zarr")
folder = sys.argv[1]
image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
proprio, goal = np.array([0.1, 0.2, 0.3], np.float32), np.array([1.0, 0.0], np.float32)
policy = BundlePolicy(folder)
chunk = policy.chunk(Observation({"front": image}, proprio, goal, 0.0), policy.new_memory(), (0, 0))
encoder, head = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("encoder", "policy"))
tokens = encoder.run(["tokens"], {"image": image[None]})[0]
feed = {"tokens/front": tokens[None], "proprio": proprio[None, None], "goal": goal[None], "noise": policy.noise(0, 0)[None]}
plain = head.run(["actions"], {node.name: feed[node.name] for node in head.get_inputs()})[0][0]
assert np.isfinite(chunk).all() and np.abs(chunk - plain).max() < 1e-6, "the runtime and the bare graphs disagree"
PYTHON
echo "$wheel works in a bare environment, and runs a bundle without torch"
