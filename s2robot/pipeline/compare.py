"""`s2robot compare`: collect, encode, train, roll out and judge every arm of an experiment on the same states.

Every stage keeps what it finished, so a second start goes on where the first stopped. Runs lie in folders named after
what they were made from: when demonstrations change, the affected arms train and roll out anew beside the old runs.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache
from s2robot.encoders.interface import Encoder, weights_identity
from s2robot.encoders.load import load_encoder
from s2robot.encoders.match import matched
from s2robot.errors import S2RobotError
from s2robot.pipeline.agents import load_policy
from s2robot.pipeline.checkpoint import verify_checkpoint
from s2robot.pipeline.collect import collect
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.evaluate import CLIPS, ROWS, Evaluation, evaluate, load_clips, policy_sha256, read_conduct
from s2robot.pipeline.experiment import Arm, Experiment
from s2robot.pipeline.job import Job
from s2robot.pipeline.measure import InferenceCost, measure_inference
from s2robot.pipeline.report.join import join_reports, read_report, require_joinable
from s2robot.pipeline.report.outcomes import Outcome
from s2robot.pipeline.report.records import PRIMARY, ArmRecord, CurvePoint, RunRecord, build_report
from s2robot.pipeline.report.videos import side_by_side
from s2robot.pipeline.report.write import write_report
from s2robot.pipeline.rollout import RolloutPool
from s2robot.pipeline.seeds import parse_seeds
from s2robot.pipeline.train import TrainResult, train
from s2robot.progress import clock, say
from s2robot.storage import fingerprint, read_json, write_json

PACKAGES = ("torch", "mujoco", "robosuite", "transformers", "zarr", "numpy")


@dataclass
class Comparison:
    """One run of an experiment in a folder. Several may share one: demonstrations and features are then made once,
    and the report there is that of the last.

    `beside` are reports of the same experiment's other tasks or arms, run elsewhere: they join this one's.
    """

    experiment: Experiment
    out: Path
    workers: int
    device: str
    beside: tuple[Path, ...] = ()
    stages_s: dict[str, float] = field(default_factory=dict)  # of all runs in this folder
    passed: list[str] = field(default_factory=list)  # stages of this one

    def run(self, command: str) -> dict[str, Any]:
        """All stages; writes the report into `out` and returns it. Raises S2RobotError for a mismatch of compute, and
        MismatchError for a report that is not of another part of this experiment.
        """
        if self.workers < 1:
            raise S2RobotError(f"workers={self.workers}; rollouts need at least one worker process")
        others = [read_report(path) for path in self.beside]
        arms = self.experiment.each_arm()
        names = [arm.name for arm in arms]
        require_joinable(self.experiment.setup(), dict.fromkeys(self.experiment.tasks, names), others)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "stages.json"
        self.stages_s = read_json(path) if path.exists() else {}
        encoders = {arm.name: load_encoder(arm.encoder, device=self.device) for arm in arms}
        for a, b in PRIMARY:
            if {a, b} <= encoders.keys():
                matched(encoders[a], encoders[b])
        for arm in arms:  # what does not fit is said now, not after an hour
            arm.check(encoders[arm.name], self.experiment.cameras, self.experiment.frame_px)
        records, videos = {}, {}
        for task in self.experiment.tasks:
            records[task], videos[task] = self._task(task, encoders)
        versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        stages_s = {label: self.stages_s[label] for label in self.passed}
        report = build_report(records, stages_s, command, versions, self.experiment.setup())
        report = join_reports([*others, report])
        write_report(report, self.out, videos)
        return report

    def _task(self, name: str, encoders: Mapping[str, Encoder]) -> tuple[list[ArmRecord], dict[str, Path]]:
        experiment, folder = self.experiment, self.out / name
        task = experiment.task_config(name)
        with self._stage(f"{name}: collect"):
            for _ in collect(task, folder / "episodes", experiment.demonstrations, experiment.cameras, 0, self.workers):
                pass
        store = EpisodeStore(folder / "episodes")
        if len(store) > experiment.demonstrations:
            raise S2RobotError(
                f"{store.path} holds {len(store)} demonstrations, the experiment asks for {experiment.demonstrations}; "
                "give another out= folder or delete that store"
            )
        arms = {arm.name: arm for arm in experiment.each_arm()}
        jobs = {
            arm: [self._job(store, arms[arm], encoders[arm], seed) for seed in experiment.train_seeds] for arm in arms
        }
        speeds = {arm: self._encode(name, jobs[arm][0], folder / arm) for arm in arms}
        records, videos = [], {}
        with RolloutPool(task, self.workers) as pool:
            runs: dict[str, list[TrainResult]] = {}
            for arm in arms.values():
                with self._stage(f"{name}: train {arm.name}"):
                    runs[arm.name] = [self._train(job, folder / arm.name, pool) for job in jobs[arm.name]]
            for arm in arms.values():
                trained = dict(zip(experiment.train_seeds, runs[arm.name], strict=True))
                with self._stage(f"{name}: rollouts {arm.name}"):
                    outcomes = {s: self._evaluate(name, arm.name, task, pool, s, r) for s, r in trained.items()}
                with self._stage(f"{name}: measure {arm.name}"):
                    cost = self._measure(runs[arm.name][0])
                run_records = [_run_record(s, r, outcomes[s]) for s, r in trained.items()]
                records.append(_arm_record(arm, encoders[arm.name], cost, speeds[arm.name], run_records))
                clip = self._video(runs[arm.name][0], store.spec.action.rate_hz / arm.policy["execute"])
                if clip:
                    videos[arm.name] = clip
        return records, videos

    def _job(self, store: EpisodeStore, arm: Arm, encoder: Encoder, seed: int) -> Job:
        return Job(
            store=store,
            encoder=encoder,
            encoder_config=arm.encoder,
            cache=FeatureCache(self.out / "cache"),
            policy=arm.policy,
            cameras=self.experiment.cameras,
            recipe=arm.recipe_of(seed),
        )

    def _encode(self, task: str, job: Job, folder: Path) -> float | None:
        """Fill the cache; the speed is that of the last time anything was computed."""
        with self._stage(f"{task}: encode {folder.name}"):
            job.check()
            result = job.encode()
        path = folder / "encode.json"
        if result.frames_s is not None:
            write_json(path, asdict(result))
            say(f"{task}, {folder.name}: {result.frames} frames at {result.frames_s:.0f} frames/s")
            return result.frames_s
        if not path.exists():
            return None
        last = read_json(path)
        return last["frames"] / last["seconds"]

    def _train(self, job: Job, folder: Path, pool: RolloutPool) -> TrainResult:
        out = folder / f"seed{job.recipe.seed}-{fingerprint(job.identity())[:10]}"
        return train(job, out, Group(0, 1, self._torch_device()), pool)

    def _evaluate(
        self, task: str, arm: str, task_config: Mapping[str, Any], pool: RolloutPool, seed: int, result: TrainResult
    ) -> list[Outcome]:
        digest = policy_sha256(verify_checkpoint(result.checkpoint))
        what = Evaluation(task, arm, seed, digest, task_config)
        agent = load_policy(result.checkpoint, self.device, rows=ROWS)
        return evaluate(what, agent, pool, parse_seeds(self.experiment.seeds), _rollout_folder(result))

    def _measure(self, result: TrainResult) -> InferenceCost:
        path = _run_folder(result) / f"inference-{self._torch_device().type}.json"
        known = read_json(path) if path.exists() else {}
        if set(known) != {field.name for field in fields(InferenceCost)}:  # not yet, or by an earlier version
            write_json(path, asdict(measure_inference(result.checkpoint, self.device)))
        return InferenceCost(**read_json(path))

    def _video(self, result: TrainResult, fps: float) -> Path | None:
        """Successes beside failures in real time: clips hold one frame per decision."""
        successes, failures = load_clips(_rollout_folder(result))
        path = _rollout_folder(result) / "clips.mp4"
        newest = max((p.stat().st_mtime for p in (_rollout_folder(result) / CLIPS).glob("*.npy")), default=None)
        if newest is None:
            return None
        if not path.exists() or path.stat().st_mtime < newest:
            side_by_side(successes, failures, path, fps=fps)
        return path

    def _torch_device(self) -> Any:
        from s2robot.encoders.backbone import resolve_device

        return resolve_device(self.device)

    @contextmanager
    def _stage(self, label: str) -> Iterator[None]:
        """Add the seconds of a stage to `stages.json`, also when it is interrupted: totals span restarts."""
        say(f"{label} ...")
        self.passed.append(label)
        start_s = time.perf_counter()
        try:
            yield
        finally:
            spent_s = time.perf_counter() - start_s
            self.stages_s[label] = round(self.stages_s.get(label, 0.0) + spent_s, 2)
            write_json(self.out / "stages.json", self.stages_s)
            say(f"{label}: {clock(spent_s)}")


def _arm_record(
    arm: Arm, encoder: Encoder, cost: InferenceCost, frames_s: float | None, runs: list[RunRecord]
) -> ArmRecord:
    return ArmRecord(
        name=arm.name,
        encoder=encoder.name,
        sizes=encoder.sizes,
        weights_sha256=weights_identity(encoder) if encoder.sizes else None,
        dtype=encoder.spec().get("dtype") if encoder.sizes else None,
        gmac_image=cost.gmac_image,
        gmac_decision=cost.gmac_decision,
        params=cost.params,
        policy=arm.policy["name"],
        policy_params=cost.policy_params,
        policy_ms=cost.policy_ms,
        latency_p50_ms=cost.latency_p50_ms,
        latency_p95_ms=cost.latency_p95_ms,
        peak_mb=cost.peak_mb,
        machine=cost.machine,
        encode_frames_s=frames_s,
        runs=runs,
    )


def _run_record(seed: int, result: TrainResult, outcomes: list[Outcome]) -> RunRecord:
    conduct = read_conduct(_rollout_folder(result))
    return RunRecord(seed, result.train_s, outcomes, _curve(result), conduct.seam, conduct.failures)


def _curve(result: TrainResult) -> list[CurvePoint]:
    return [CurvePoint(int(p["step"]), p["train_loss"], p["val_loss"]) for p in result.curve if "val_loss" in p]


def _run_folder(result: TrainResult) -> Path:
    return result.checkpoint.parent.parent


def _rollout_folder(result: TrainResult) -> Path:
    return _run_folder(result) / "rollouts"
