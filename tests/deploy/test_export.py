"""A bundle does what its checkpoint does, from the raw frame to the action, and is not written where it does not."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from s2robot.configs import choice
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.features import FeatureCache
from s2robot.data.transforms import Normalise
from s2robot.deploy.bundle import MANIFEST, POLICY, is_bundle, read_manifest, verify_bundle
from s2robot.deploy.check import CHECK
from s2robot.deploy.export import files, parity
from s2robot.deploy.export.graph import EncoderGraph, PolicyGraph, write_policy
from s2robot.deploy.export.parity import Tolerance
from s2robot.deploy.export.run import Export, export
from s2robot.deploy.runtime import BundlePolicy, open_session
from s2robot.encoders import load_encoder
from s2robot.encoders.backbone import Backbone
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.load import encoder_config
from s2robot.errors import DamagedError, MismatchError, S2RobotError
from s2robot.pipeline.agents import load_policy
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.job import Job
from s2robot.pipeline.recipe import recipe_from
from s2robot.pipeline.train import train
from s2robot.policies.batch import Inputs, Shapes
from s2robot.policies.policy import build_policy
from s2robot.storage import fingerprint
from s2robot.types import ActionSpec, CameraSpec, DatasetSpec, Episode, Observation, ObservationSpec
from tests.deploy.tiny_bundle import OBSERVATION, PX, tiny_encoder
from tests.policy_names import SMALL_POLICIES

FRAME_PX, STEPS, EPISODES = 112, 12, 6


@pytest.mark.parametrize(
    ("sizes", "tile", "grid", "square", "frame", "reference", "index"),
    [
        ((32,), None, None, "crop", (32, 32), False, 0),
        ((16, 32), None, None, "crop", (40, 48), False, 0),  # shrinks to both, antialiased
        ((16, 32), None, None, "crop", (40, 48), True, 0),  # as published, not antialiased
        ((16, 48), None, (1, 2), "crop", (48, 48), False, 0),  # nine tiles, pooled to an odd grid
        ((32, 64), 32, None, "pad", (50, 64), False, 0),
        ((24, 32), 16, None, "crop", (33, 35), False, 0),  # tiles smaller than the tile
        ((16, 48), None, None, "crop", (48, 48), False, 1),  # coarse cells repeated
        ((16, 48), None, (5, 5), "crop", (48, 48), False, 1),
    ],
)
def test_the_encoders_graph_gives_the_features_of_the_encoder(
    sizes: tuple[int, ...],
    tile: int | None,
    grid: tuple[int, int] | None,
    square: Any,
    frame: tuple[int, int],
    reference: bool,
    index: int,
) -> None:
    torch.manual_seed(0)
    backbone = Backbone(nn.Conv2d(3, 5, 4, 4), "tiny", patch=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    encoder = MultiscaleEncoder(backbone, sizes, tile, grid, square, "float32", "cpu", reference, index)
    images = torch.randint(0, 256, (3, *frame, 3), dtype=torch.uint8)
    graph = EncoderGraph(encoder, CameraSpec("front", *frame)).eval()
    want = encoder(images.permute(0, 3, 1, 2))
    got = torch.cat([graph(image[None])[0] for image in images])
    torch.testing.assert_close(got, want.tokens, rtol=1e-4, atol=2e-5)


def test_prefix_tokens_come_out_too() -> None:
    encoder = load_encoder("s2", dtype="float32", device="cpu")
    image = torch.randint(0, 256, (1, 240, 240, 3), dtype=torch.uint8)
    tokens, prefix = EncoderGraph(encoder, CameraSpec("front", 240, 240))(image)  # type: ignore[arg-type]
    want = encoder(image.permute(0, 3, 1, 2))
    torch.testing.assert_close(tokens, want.tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prefix, want.prefix, rtol=1e-4, atol=1e-4)


def graph_of(name: str, **changes: Any) -> tuple[PolicyGraph, Shapes]:
    shapes = Shapes(("front", "wrist"), (2, 2), 8, 3, 2, 3, 2)
    torch.manual_seed(0)
    policy = build_policy(choice("policy", name, changes), shapes)
    normalise = Normalise((0.1, -0.2, 0.3), (2.0, 0.5, 1.0)), Normalise((0.0, 0.5, 0.0), (1.0, 2.0, 0.3))
    return PolicyGraph(policy, *normalise, shapes.cameras), shapes


def check_policy(name: str, folder: Path) -> None:
    """The file against `ChunkPolicy.sample` with the normalisers around it."""
    graph, shapes = graph_of(name)
    write_policy(graph, shapes, folder / POLICY)
    session = open_session(folder / POLICY, "cpu", 1)
    policy, rng = graph.policy, np.random.default_rng(0)
    o = policy.observation_horizon
    feed = {f"tokens/{camera}": rng.normal(size=(1, o, 4, 8)).astype(np.float32) for camera in shapes.cameras}
    feed |= {"proprio": rng.normal(size=(1, o, 3)), "goal": rng.normal(size=(1, 2))}
    feed |= {"noise": rng.normal(size=(1, policy.chunk, 3))}
    feed = {key: value.astype(np.float32) for key, value in feed.items()}
    tensors = {key: torch.from_numpy(value) for key, value in feed.items()}
    proprio = (tensors["proprio"] - torch.tensor([0.1, -0.2, 0.3])) / torch.tensor([2.0, 0.5, 1.0])
    inputs = Inputs({camera: tensors[f"tokens/{camera}"] for camera in shapes.cameras}, proprio, tensors["goal"])
    want = policy.sample(inputs, tensors["noise"]) * torch.tensor([1.0, 2.0, 0.3]) + torch.tensor([0.0, 0.5, 0.0])
    got = session.run(["actions"], {node.name: feed[node.name] for node in session.get_inputs()})[0]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-3, atol=1e-4)


def test_a_policys_graph_gives_its_chunks(tmp_path: Path) -> None:
    check_policy("bc_transformer", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_POLICIES)
def test_every_policys_graph_gives_its_chunks(tmp_path: Path, name: str) -> None:
    check_policy(name, tmp_path)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
def test_a_sampler_without_a_static_graph_is_refused(tmp_path: Path, sampler: str) -> None:
    graph, shapes = graph_of("diffusion_unet", head={"sampler": sampler})
    with pytest.raises(S2RobotError, match="sampler=ddim"):
        write_policy(graph, shapes, tmp_path / POLICY)


# The whole line: a store, a trained checkpoint, a bundle.

ACTION = ActionSpec(
    names=("dx", "dy"), units=("0.05 m", "0.05 m"), low=(-1.0, -1.0), high=(1.0, 1.0), frame="base", mode="delta",
    rotation="none", gripper="none", rate_hz=20.0,
)  # fmt: skip
SPEC = DatasetSpec(
    "follow", ObservationSpec((CameraSpec("front", FRAME_PX, FRAME_PX),), ("x_m", "y_m")), ACTION, source="test"
)


def episode(seed: int) -> Episode:
    """A bright square that wanders; the action goes towards it."""
    rng = np.random.default_rng(seed)
    place = 0.5 + 0.3 * np.cumsum(rng.normal(0, 0.1, (STEPS, 2)), axis=0).clip(-1, 1)
    images = rng.integers(0, 60, (STEPS, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
    for step, (x, y) in enumerate((place * (FRAME_PX - 20)).astype(int)):
        images[step, y : y + 20, x : x + 20] = 250
    return Episode(
        images={"front": images}, proprio=rng.normal(0, 0.1, (STEPS, 2)).astype(np.float32),
        action=(2 * place - 1).astype(np.float32), time_s=np.arange(STEPS) / 20.0, goal=np.zeros(0, np.float32),
        success=True, seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run, store) of a policy on the embedded encoder."""
    folder = tmp_path_factory.mktemp("line")
    writer = EpisodeWriter(folder / "store", SPEC)
    for seed in range(EPISODES):
        writer.write(episode(seed))
    store, encoder = EpisodeStore(folder / "store"), load_encoder("base", device="cpu")
    cache = FeatureCache(folder / "cache")
    policy = choice("policy", "bc_mlp")
    recipe = recipe_from(policy, {"epochs": 3, "batch_size": 16, "views": 0, "validation_fraction": 0.3, "warmup": 1})
    job = Job(store, encoder, encoder_config("base"), cache, policy, ("front",), recipe)
    job.encode()
    train(job, folder / "run", Group(0, 1, torch.device("cpu")))
    return folder / "run", folder / "store"


@pytest.fixture(scope="module")
def exported(line: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "bundle"
    export(Export(line[0], line[1], out, states=30))
    return out


def seen(store: Path, number: int) -> Observation:
    found = EpisodeStore(store)
    read = found.read(found.episodes[number])
    return Observation({"front": read.images["front"][3]}, read.proprio[3], read.goal, 0.0)


def test_a_bundle_acts_as_its_checkpoint(exported: Path, line: tuple[Path, Path]) -> None:
    agent, policy = load_policy(line[0], "cpu"), BundlePolicy(exported)
    for number in range(EPISODES):
        want, got = agent.infer(seen(line[1], number)), policy.infer(seen(line[1], number))
        assert got.shape == want.shape == (4, 2)
        np.testing.assert_allclose(got, want, atol=0.02)  # the checkpoint computes in bfloat16 where it can
    manifest = read_manifest(exported)
    assert manifest.parity["float32"]["states"] == 30
    assert manifest.parity["float32"]["action_mean"] < 1e-5
    assert manifest.identity.action == ACTION
    assert manifest.files.keys() == {"check.npz", "encoder.onnx", "policy.onnx"}


def test_int8_is_calibrated_smaller_and_within_its_tolerance(
    line: tuple[Path, Path], exported: Path, tmp_path: Path
) -> None:
    manifest = export(Export(line[0], line[1], tmp_path / "int8", precision="int8", states=20, calibration=8))
    assert 1e-3 < manifest.parity["float32"]["features"] < 0.15  # really quantised
    sizes = [(folder / "encoder.onnx").stat().st_size for folder in (tmp_path / "int8", exported)]
    assert sizes[0] < 0.35 * sizes[1]
    graph = onnx.load(tmp_path / "int8" / "encoder.onnx").graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    largest = [np.abs(weight.astype(int)).max() for weight in weights if weight.ndim > 1]
    assert max(largest) == 64  # 255 * 64 * 2 fits into 16 bits, where some processors sum two products


def test_a_bundle_that_strays_is_not_written(
    line: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong mean in the graph, as a mutant."""
    plain = files.write_encoder

    def wrong(encoder: MultiscaleEncoder, camera: CameraSpec, path: Path) -> None:
        encoder._shift += 0.05
        try:
            plain(encoder, camera, path)
        finally:
            encoder._shift -= 0.05

    monkeypatch.setattr(files, "write_encoder", wrong)
    with pytest.raises(MismatchError, match=r"differs from its checkpoint: features .*nothing was written"):
        export(Export(line[0], line[1], tmp_path / "bundle", states=5))
    assert list(tmp_path.iterdir()) == []


def test_actions_that_stray_are_found_where_features_do_not(
    line: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = Tolerance(features=1.0, action_mean=1e-12, action_worst=1.0)
    monkeypatch.setitem(parity.TOLERANCES, "float32", tight)
    with pytest.raises(MismatchError, match="action_mean"):
        export(Export(line[0], line[1], tmp_path / "bundle", states=5))


def test_what_does_not_fit_is_refused_before_anything_is_written(line: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(S2RobotError, match="exists already"):
        export(Export(line[0], line[1], tmp_path / "there"))
    with pytest.raises(S2RobotError, match="states=99999"):
        export(Export(line[0], line[1], tmp_path / "bundle", states=99999))
    with pytest.raises(S2RobotError, match="unknown precision 'int4'"):
        Export(line[0], line[1], tmp_path / "bundle", precision="int4")  # type: ignore[arg-type]
    other = replace(SPEC, observation=replace(SPEC.observation, proprio=("a", "b")))
    EpisodeWriter(tmp_path / "other", other).write(episode(0))
    with pytest.raises(MismatchError, match="other cameras, proprioception"):
        export(Export(line[0], tmp_path / "other", tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


# Damage.


@pytest.mark.parametrize("name", [MANIFEST, POLICY, CHECK, "encoder.onnx"])
def test_damage_anywhere_in_a_bundle_is_noticed(bundle: Path, tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    for place in rng.integers(0, (bundle / name).stat().st_size, 12):
        folder = tmp_path / str(place)
        shutil.copytree(bundle, folder)
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(data)
        with pytest.raises(DamagedError, match=name):
            verify_bundle(folder)
    shutil.copytree(bundle, tmp_path / "torn")
    (tmp_path / "torn" / name).unlink()
    with pytest.raises(DamagedError, match=name):
        verify_bundle(tmp_path / "torn")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_a_fuzzed_manifest_gives_documented_errors_alone(bundle: Path, tmp_path: Path, data: Any) -> None:
    """Any field replaced by anything, the checksum made right again: an attacker's manifest, not a flipped bit."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    place: Any = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = data.draw(JSON)
        break
    folder = tmp_path / "fuzzed"
    folder.mkdir(exist_ok=True)
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        body["sha256"] = fingerprint(body)
    except ValueError:  # NaN: nobody's checksum
        body["sha256"] = ""
    (folder / MANIFEST).write_text(json.dumps(body))
    with contextlib.suppress(DamagedError):
        verify_bundle(folder)
    assert is_bundle(folder) in (True, False)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"kind": "bundle"}', b"1" * (1 << 21)]
)
def test_manifests_that_are_none_give_one_clear_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(DamagedError, match="export it again"):
        read_manifest(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["encoders"] = {"front": "../../etc/passwd"}
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(body | {"sha256": fingerprint(body)}))
    with pytest.raises(DamagedError, match="not among the bundle's files"):
        verify_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "camera 'front' gave nothing"),
        ({"images": {"front": np.zeros((PX, PX, 3), np.float32)}}, "float32"),
        ({"images": {"front": np.zeros((PX, PX + 1, 3), np.uint8)}}, r"\(32, 33, 3\)"),
        ({"proprio": np.array([0.0, np.nan, 0.0], np.float32)}, "3 finite numbers: x_m, y_m, grip_m"),
        ({"goal": np.zeros(3, np.float32)}, "2 finite numbers: left, right"),
    ],
)
def test_observations_that_do_not_fit_are_named(bundle: Path, change: dict[str, Any], message: str) -> None:
    good = Observation(
        {"front": np.zeros((PX, PX, 3), np.uint8)}, np.zeros(3, np.float32), np.zeros(2, np.float32), 0.0
    )
    policy = BundlePolicy(bundle)
    policy.infer(good)
    with pytest.raises(S2RobotError, match=message):
        policy.infer(replace(good, **change))


def test_noise_depends_on_episode_and_decision_alone(bundle: Path) -> None:
    policy = BundlePolicy(bundle)
    np.testing.assert_array_equal(policy.noise(3, 4), BundlePolicy(bundle).noise(3, 4))
    assert not np.array_equal(policy.noise(3, 4), policy.noise(4, 3))
    assert tiny_encoder().channels == 8
    assert OBSERVATION.camera("front").height == PX
