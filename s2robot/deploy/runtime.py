"""A bundle in action: onnxruntime and numpy, no torch.

Dims: h w frame (px), n tokens, c channels, k chunk, e executed actions, a action, b decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from s2robot.deploy.bundle import ENCODER, POLICY, verify_bundle, verify_encoder
from s2robot.deploy.check import CHECK, Check
from s2robot.errors import DamagedError, S2RobotError
from s2robot.policies.memory import EpisodeMemory, Seen
from s2robot.types import CameraSpec, Observation

WARM_UP = 5  # inferences
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class BundlePolicy:
    """What `Agent` is for a checkpoint: `infer(observation)` and `reset()`.

    Raises MismatchError where this computer computes other features than the checkpoint, unless `check` is off.

    Args:
        folder: the bundle.
        device: auto, cpu or cuda (with onnxruntime-gpu).
        threads: of one inference; 0 for as many as there are cores.
    """

    def __init__(self, folder: Path | str, device: str = "auto", threads: int = 0, check: bool = True) -> None:
        self.manifest = verify_bundle(folder)
        self.identity, self.decisions = self.manifest.identity, self.manifest.decisions
        self.cameras = tuple(self.manifest.encoders)
        self.representation: str = self.decisions.representation
        self._policy = open_session(Path(folder) / POLICY, device, threads)
        files = sorted(set(self.manifest.encoders.values()))
        sessions = {name: open_session(Path(folder) / name, device, threads) for name in files}
        self._encoders = {camera: sessions[name] for camera, name in self.manifest.encoders.items()}
        self._inputs = {node.name: node for node in self._policy.get_inputs()}
        if check:
            Check.read(Path(folder) / CHECK).require(
                lambda camera, frame: self.encode(camera, {camera: frame}), str(folder)
            )
        self.reset()

    def reset(self) -> None:
        """Forget the episode."""
        self._memory = self.new_memory()
        self._count = 0

    def new_memory(self) -> EpisodeMemory:
        """The empty memory of an episode that begins."""
        how = self.decisions
        return EpisodeMemory(how.observation_horizon, how.chunk, how.execute, how.ensemble)

    def infer(self, observation: Observation) -> Float32[np.ndarray, "e a"]:
        """The actions to execute from here, as many as belong to a decision, in the units of the manifest."""
        chunk = self.infer_batch([observation], [self._memory], [(0, self._count)])[0]
        self._count += 1
        return chunk

    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[EpisodeMemory], keys: Sequence[tuple[int, int]]
    ) -> Float32[np.ndarray, "b e a"]:
        """The next actions of several episodes, one after the other. `keys` (episode seed, decision) seed the noise."""
        rows = zip(observations, memories, keys, strict=True)
        return np.stack([memory.accept(self.chunk(seen, memory, key)) for seen, memory, key in rows])

    def chunk(
        self, observation: Observation, memory: EpisodeMemory, key: tuple[int, int]
    ) -> Float32[np.ndarray, "k a"]:
        """The whole chunk from an observation, which `memory` keeps. Raises S2RobotError where it does not fit."""
        self.see(observation, memory)
        return self.decide(memory.steps(), self.noise(*key))

    def see(self, observation: Observation, memory: EpisodeMemory) -> None:
        """Encode an observation into an episode's memory; a frame that a camera has not renewed since the last one is
        not encoded again. Raises S2RobotError where it does not fit.
        """
        last = memory.steps()[-1] if memory.steps() else None
        tokens, frames = {}, {}
        for camera in self.cameras:
            if last is not None and _same(last.frames.get(camera), observation.images.get(camera)):
                tokens[camera], frames[camera] = last.tokens[camera], last.frames[camera]
            else:
                tokens[camera] = self.encode(camera, observation.images)
                # A copy: a driver may write its next frame into the same array.
                frames[camera] = observation.images[camera].copy()
        proprio, goal = self._vector("proprio", observation), self._vector("goal", observation)
        memory.push(Seen(tokens, proprio, goal, frames))

    def warm_up(self) -> None:
        """The first inferences allocate and are several times slower: here nobody waits for them."""
        spec = self.identity.observation
        frames = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in spec.cameras}
        blank = Observation(frames, np.zeros(len(spec.proprio), np.float32), np.zeros(len(spec.goal), np.float32), 0.0)
        for _ in range(WARM_UP):
            self.chunk(blank, self.new_memory(), (0, 0))

    def encode(self, camera: str, images: Any) -> Float32[np.ndarray, "n c"]:
        """Tokens of one camera's frame."""
        return _tokens(self._encoders[camera], self.identity.observation.camera(camera), images.get(camera))

    def decide(self, steps: Sequence[Seen], noise: Float32[np.ndarray, "k a"]) -> Float32[np.ndarray, "k a"]:
        """The chunk of what was seen, oldest first, and noise; a pure function."""
        feed = {f"tokens/{camera}": np.stack([seen.tokens[camera] for seen in steps]) for camera in self.cameras}
        feed |= {"proprio": np.stack([seen.proprio for seen in steps]), "goal": steps[-1].goal, "noise": noise}
        return self._policy.run(["actions"], {name: feed[name][None] for name in self._inputs})[0][0]

    def noise(self, seed: int, decision: int) -> Float32[np.ndarray, "k a"]:
        """Standard normal, a function of (episode seed, decision)."""
        generator = np.random.Generator(np.random.PCG64([seed, decision]))
        return generator.standard_normal((self.decisions.chunk, len(self.identity.action.names)), np.float32)

    def _vector(self, name: str, observation: Observation) -> np.ndarray:
        spec, vector = getattr(self.identity.observation, name), getattr(observation, name)
        if not isinstance(vector, np.ndarray) or vector.shape != (len(spec),) or not np.isfinite(vector).all():
            raise S2RobotError(f"{name} is {vector!r}; needed are {len(spec)} finite numbers: {', '.join(spec)}")
        return vector.astype(np.float32)


class BundleEncoder:
    """An encoder without a policy, as `s2robot export encoder=NAME` writes it; arguments as for `BundlePolicy`.

    Raises MismatchError where this computer computes other features than torch did, unless `check` is off.
    """

    def __init__(self, folder: Path | str, device: str = "auto", threads: int = 0, check: bool = True) -> None:
        self.manifest = verify_encoder(folder)
        self._session = open_session(Path(folder) / ENCODER, device, threads)
        if check:
            Check.read(Path(folder) / CHECK).require(lambda _, frame: self(frame), str(folder))

    def __call__(self, frame: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Tokens of a frame, row by row of the manifest's grid. Raises S2RobotError where the frame does not fit."""
        return _tokens(self._session, self.manifest.camera, frame)


def _same(before: UInt8[np.ndarray, "h w 3"] | None, frame: Any) -> bool:
    if before is None or not isinstance(frame, np.ndarray):
        return False
    return frame.dtype == before.dtype and np.array_equal(before, frame)


def _tokens(session: Any, camera: CameraSpec, frame: Any) -> Float32[np.ndarray, "n c"]:
    wanted = (camera.height, camera.width, 3)
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != wanted:
        came = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else "nothing"
        raise S2RobotError(f"camera {camera.name!r} gave {came}; needed is uint8 {wanted} RGB")
    tokens: Float32[np.ndarray, "n c"] = session.run(["tokens"], {"image": frame[None]})[0][0]
    return tokens


def open_session(path: Path, device: str, threads: int) -> Any:
    """An inference session. Raises DamagedError where the file is none that this onnxruntime runs."""
    import onnxruntime

    if device != "auto" and device not in PROVIDERS:
        raise S2RobotError(f"device={device!r}; allowed: auto, {', '.join(PROVIDERS)}")
    here = onnxruntime.get_available_providers()
    wanted = [PROVIDERS[device]] if device != "auto" else [p for p in reversed(PROVIDERS.values()) if p in here]
    if wanted[0] not in here:
        raise S2RobotError(f"device={device!r}, but this onnxruntime has only {', '.join(here)}; use device=cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Threads that spin between two runs take the processor from the loop that has to meet its deadlines.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime's own exceptions share no base class but this
        raise DamagedError(f"{path} does not load ({str(error).splitlines()[0]}); export it again") from error
