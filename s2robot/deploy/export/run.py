"""`s2robot export`: a checkpoint becomes a bundle, or nothing, when the two do not agree."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2robot import __version__
from s2robot.data.episodes import EpisodeStore
from s2robot.data.transforms import Normalise, from_json
from s2robot.deploy.bundle import MANIFEST, POLICY, Decisions, Identity, Manifest, Precision, verify_bundle
from s2robot.deploy.check import CHECK
from s2robot.deploy.export.files import (
    Settings,
    appearing,
    licence_of,
    preprocessing_sha256,
    require_absent,
    write_encoder_as,
)
from s2robot.deploy.export.graph import PolicyGraph, write_policy
from s2robot.deploy.export.parity import (
    TOLERANCES,
    Parity,
    action_scale,
    check_of,
    measure,
    recorded_states,
    require_within,
    torch_tokens,
)
from s2robot.deploy.runtime import BundlePolicy
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.load import load_encoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.agents import load_policy
from s2robot.pipeline.checkpoint import open_checkpoint
from s2robot.pipeline.evaluate import policy_sha256
from s2robot.policies.agent import Agent
from s2robot.policies.batch import Shapes
from s2robot.progress import say
from s2robot.storage import sha256_file, write_json
from s2robot.types import CameraSpec, DatasetSpec

RELOADED = 20  # states that are compared once more after the bundle has its name


@dataclass(frozen=True)
class Export(Settings):
    """Which checkpoint, compared on the states of which store."""

    checkpoint: Path
    store: Path
    out: Path


def export(what: Export) -> Manifest:
    """Write the bundle `what.out`.

    Raises MismatchError where its features or actions stray from the checkpoint's and where the store is not one that
    the policy can act on, S2RobotError where `out` exists or a part has no static graph.
    """
    require_absent(what.out)
    path, checkpoint = open_checkpoint(what.checkpoint)
    trained = load_policy(path, "cpu")
    exact = _in_float32(trained, checkpoint)
    store = EpisodeStore(what.store)
    manifest = _manifest(checkpoint, what.precision)
    _require_seen_alike(manifest, store)
    fraction = float(checkpoint["recipe"]["validation_fraction"])
    states = recorded_states(store, what.states, fraction, held_out=True)
    with appearing(what.out) as partial:
        _write_graphs(partial, manifest, exact, checkpoint, what.calibration_states(store, fraction))
        encode = functools.partial(torch_tokens, exact.encoder)
        check_of(states, exact.cameras, encode, what.precision).write(partial / CHECK)
        manifest = replace(manifest, files={file.name: sha256_file(file) for file in sorted(partial.iterdir())})
        write_json(partial / MANIFEST, manifest.to_json())
        bundle, scale = BundlePolicy(partial, check=False), action_scale(exact.unnormalise.scale, manifest)
        say("against the checkpoint in float32 ...")
        parity = measure(exact, bundle, states, scale)
        require_within(parity, TOLERANCES[what.precision], f"{what.checkpoint} as {what.precision} bundle")
        say(f"against the checkpoint as it was trained ({checkpoint['encoder']['spec']['dtype']}) ...")
        as_trained = measure(trained, bundle, states, scale)
        manifest = replace(manifest, parity=_parity_record(parity, as_trained, what.precision))
        write_json(partial / MANIFEST, manifest.to_json())
    _require_equal_after_reload(what.out, bundle, states)
    return manifest


def _in_float32(agent: Agent, checkpoint: Mapping[str, Any]) -> Agent:
    """The same policy on an encoder that computes in float32: what graphs are compared with."""
    if not agent.cameras:
        return agent
    encoder = load_encoder(checkpoint["encoder"]["config"], device="cpu", dtype="float32")
    return Agent(
        encoder, agent.policy, agent.proprio, agent.unnormalise.inverse(), agent.cameras, 1, agent.representation
    )


def _manifest(checkpoint: Mapping[str, Any], precision: Precision) -> Manifest:
    spec = DatasetSpec.from_json(checkpoint["spec"])
    policy, encoder = checkpoint["policy"], checkpoint["encoder"]["spec"]
    seen = [spec.observation.camera(name) for name in checkpoint["shapes"]["cameras"]]
    return Manifest(
        kind="bundle",
        version=1,
        task=spec.task,
        task_config=dict(spec.task_config),
        policy=str(policy["name"]),
        precision=precision,
        identity=Identity(
            observation=replace(spec.observation, cameras=tuple(seen)),
            action=spec.action,
            preprocessing_sha256=preprocessing_sha256(encoder),
            checkpoint_sha256=policy_sha256(checkpoint),
        ),
        decisions=Decisions(
            observation_horizon=int(policy["observation_horizon"]),
            chunk=int(policy["chunk"]),
            execute=int(policy["execute"]),
            ensemble=policy["ensemble"],
            representation=policy["actions"]["representation"],
        ),
        encoders={camera.name: _encoder_file(camera, seen) for camera in seen},
        encoder=encoder,
        licence=licence_of(encoder),
        versions={"s2robot": __version__, "torch": str(torch.__version__), **checkpoint["versions"]},
        parity={},
        files={},
    )


def _encoder_file(camera: CameraSpec, cameras: list[CameraSpec]) -> str:
    """One file per size of frame; the first is `encoder.onnx`."""
    sizes = list(dict.fromkeys((c.height, c.width) for c in cameras))
    here = (camera.height, camera.width)
    return "encoder.onnx" if here == sizes[0] else f"encoder_{here[0]}x{here[1]}.onnx"


def _require_seen_alike(manifest: Manifest, store: EpisodeStore) -> None:
    """The store's cameras, proprioception and actions are those of the checkpoint."""
    theirs, ours = store.spec.observation, manifest.identity.observation
    remedy = "give the store that it was trained on, or one like it"
    known = {camera.name: camera for camera in theirs.cameras}
    same = all(known.get(camera.name) == camera for camera in ours.cameras)
    if not same or (theirs.proprio, theirs.goal, store.spec.action) != (
        ours.proprio,
        ours.goal,
        manifest.identity.action,
    ):
        raise MismatchError(
            f"{store.path} holds other cameras, proprioception, goals or actions than the policy; {remedy}"
        )


def _write_graphs(
    folder: Path, manifest: Manifest, agent: Agent, checkpoint: Mapping[str, Any], calibration: list[Any]
) -> None:
    for camera in manifest.identity.observation.cameras:
        path = folder / manifest.encoders[camera.name]
        if path.exists():
            continue
        if not isinstance(agent.encoder, MultiscaleEncoder):
            raise S2RobotError(f"encoder {agent.encoder.name!r} has no graph; export a policy on a MultiscaleEncoder")
        frames = [state.images[camera.name] for state in calibration]
        write_encoder_as(manifest.precision, agent.encoder, camera, path, frames)
    say(f"writing {POLICY} ({manifest.policy}) ...")
    proprio, action = (from_json(checkpoint["normalise"][name]) for name in ("proprio", "action"))
    assert isinstance(proprio, Normalise)
    assert isinstance(action, Normalise)
    graph = PolicyGraph(agent.policy, proprio, action, agent.cameras)
    write_policy(graph, Shapes.from_json(checkpoint["shapes"]), folder / POLICY)


def _parity_record(parity: Parity, as_trained: Parity, precision: Precision) -> dict[str, Any]:
    allowed = TOLERANCES[precision]
    return {"float32": parity.to_json(), "as_trained": as_trained.to_json(), "allowed": vars(allowed)}


def _require_equal_after_reload(out: Path, before: BundlePolicy, states: list[Any]) -> None:
    verify_bundle(out)
    after = BundlePolicy(out)
    for index, state in enumerate(states[:RELOADED]):
        ours, theirs = (policy.chunk(state, policy.new_memory(), (index, 0)) for policy in (before, after))
        if not np.array_equal(ours, theirs):
            shutil.rmtree(out)
            raise MismatchError(f"{out} gives other actions once it is loaded again; nothing was kept")
