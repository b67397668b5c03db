"""From a checkpoint folder to something that acts."""

from __future__ import annotations

from pathlib import Path

from s2robot.data.transforms import Normalise, from_json
from s2robot.encoders.load import load_encoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.checkpoint import load_tensors, open_checkpoint
from s2robot.policies.agent import Agent
from s2robot.policies.batch import Shapes
from s2robot.policies.policy import build_policy


def load_policy(folder: Path | str, device: str = "auto", rows: int = 1) -> Agent:
    """The agent of a checkpoint: `load_policy(folder).infer(observation)`.

    `rows` is the constant group size of encoder and policy calls (1 for one robot). Raises DamagedError for a
    checkpoint that does not verify, MismatchError when the encoder built from its config is not the one it was trained
    on, S2RobotError when it is no policy checkpoint.
    """
    path, manifest = open_checkpoint(Path(folder))
    if manifest.get("kind") != "policy":
        raise S2RobotError(f"{path} is a checkpoint, but not of a policy; train one with `s2robot train`")
    spec = manifest["encoder"]["spec"]
    encoder = load_encoder(manifest["encoder"]["config"], device=device, dtype=spec.get("dtype", "auto"))
    if encoder.fingerprint != spec["fingerprint"]:
        raise MismatchError(
            f"{path} was trained on encoder {spec['name']} ({spec['fingerprint'][:12]}), here that config builds "
            f"{encoder.fingerprint[:12]}: weights or preprocessing differ; restore those weights or train again"
        )
    policy = build_policy(manifest["policy"], Shapes.from_json(manifest["shapes"]))
    try:
        policy.load_state_dict(load_tensors(path, "policy"))
    except RuntimeError as error:
        raise MismatchError(
            f"{path} does not fit the policy that its manifest describes: it was trained by another version of the "
            "code (see `versions` in its manifest); use that version or train again"
        ) from error
    normalise = {k: from_json(v) for k, v in manifest["normalise"].items()}
    proprio, action = normalise["proprio"], normalise["action"]
    assert isinstance(proprio, Normalise)
    assert isinstance(action, Normalise)
    cameras, representation = manifest["shapes"]["cameras"], manifest["policy"]["actions"]["representation"]
    return Agent(encoder, policy.to(encoder.device), proprio, action, cameras, rows, representation)
