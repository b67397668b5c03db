"""`s2robot bench`: speed against what else one could use, in one run."""

from __future__ import annotations

from typing import Any

from s2robot.configs import listed

HELP = "times encoders and training against what users would pick instead"
VERBS = {
    "encoder": "frames per second, latency and memory beside the reference package and the bare backbone",
    "deploy": "a bundle's latency beside torch, in closed loop in real time, and under delay",
    "train": "training on cached features beside the frozen encoder inside every step",
}


def run(config: Any, verb: str) -> int | None:
    """Print the table and, if asked, write it as JSON."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config)
    {"deploy": _deploy, "encoder": _encoder, "train": _train}[verb](plain)
    return None


def _encoder(plain: dict[str, Any]) -> None:
    from dataclasses import asdict, fields
    from pathlib import Path

    from s2robot.pipeline.bench.encoder import BenchConfig, as_text, bench_encoder
    from s2robot.storage import write_json
    from s2robot.targets import call_checked

    settings = {field.name: plain[field.name] for field in fields(BenchConfig)}
    settings["modes"] = listed(plain["modes"])
    rows = bench_encoder(call_checked(BenchConfig, "bench encoder", **settings))
    print("\n".join(as_text(rows)))
    if plain["out"]:
        write_json(Path(plain["out"]), [asdict(row) for row in rows])
        print(f"written: {plain['out']}")


def _train(plain: dict[str, Any]) -> None:
    from dataclasses import asdict
    from pathlib import Path

    from s2robot.data.episodes import EpisodeStore
    from s2robot.data.features import FeatureCache
    from s2robot.encoders import load_encoder
    from s2robot.pipeline.bench.train import Timing, as_text, bench_train
    from s2robot.pipeline.job import Job
    from s2robot.pipeline.recipe import recipe_from
    from s2robot.storage import write_json

    policy, out = plain["policy"], Path(plain["out"])
    encoder = load_encoder(plain["encoder"], device=plain["device"])
    job = Job(
        EpisodeStore(plain["store"]), encoder, plain["encoder"], FeatureCache(plain["cache"]), policy,
        listed(plain["cameras"]), recipe_from(policy, plain["recipe"]),
    )  # fmt: skip
    timing = Timing(plain["cached_steps"], plain["uncached_steps"], plain["repeats"], plain["threads"])
    result = bench_train(job, out / "run", timing)
    print("\n".join(as_text(result)))
    write_json(out / "bench_train.json", asdict(result))
    print(f"written: {out / 'bench_train.json'}")


def _deploy(plain: dict[str, Any]) -> None:
    from pathlib import Path

    from s2robot.deploy.bench.closed_loop import Bench
    from s2robot.errors import S2RobotError, unknown_name
    from s2robot.pipeline.seeds import parse_seeds

    measures = {"latency": _latency, "closed_loop": _closed_loop, "delay": _delay, "chaos": _chaos}
    if plain["what"] not in measures:
        raise unknown_name("measure", str(plain["what"]), measures)
    bundles = [Path(bundle) for bundle in listed(plain["bundles"])]
    if not bundles:
        raise S2RobotError("bundles=[] is empty; export one with `s2robot export`")
    out = Path(plain["out"])
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(bundles[0], plain["robot"], parse_seeds(plain["seeds"]), out, int(plain["workers"]))
    measures[plain["what"]](plain, bench, bundles)
    print(f"written: {out / (plain['what'] + '.json')}")


def _latency(plain: dict[str, Any], bench: Any, bundles: list[Any]) -> None:
    from pathlib import Path

    from s2robot.deploy.bench.latency import as_text, bench_latency, to_json
    from s2robot.errors import S2RobotError
    from s2robot.storage import write_json

    if plain["checkpoint"] is None or plain["store"] is None:
        raise S2RobotError("what=latency needs checkpoint=, which the bundles were exported from, and store=")
    rows = bench_latency(Path(plain["checkpoint"]), bundles, Path(plain["store"]), plain["states"], plain["threads"])
    print("\n".join(as_text(rows)))
    write_json(bench.out / "latency.json", to_json(rows))


def _closed_loop(plain: dict[str, Any], bench: Any, bundles: list[Any]) -> None:
    from s2robot.deploy.bench.closed_loop import as_text, real_time, result, simulated
    from s2robot.deploy.bench.episodes import Setting
    from s2robot.deploy.bench.server_process import serving
    from s2robot.deploy.client import RemotePolicy
    from s2robot.deploy.deciders import LocalDecider, RemoteDecider
    from s2robot.deploy.runtime import BundlePolicy
    from s2robot.storage import write_json

    threads = int(plain["threads"])
    policy = BundlePolicy(bundles[0], threads=threads)
    lockstep = simulated(bench, policy)
    found: dict[str, Any] = {"bundle": policy.manifest.precision, "threads": threads}
    with serving(bundles[0], threads) as server:
        decider = RemoteDecider(RemotePolicy(server.url), policy.identity, timeout_s=1.0)
        found["server"] = result(lockstep, real_time(bench, policy, decider, Setting(), "server", log=True))
        decider.close()
    found["local"] = result(lockstep, real_time(bench, policy, LocalDecider(policy), Setting(), "local", log=True))
    for label in ("server", "local"):
        print("\n".join(as_text(label, found[label])))
    write_json(bench.out / "closed_loop.json", found)


def _delay(plain: dict[str, Any], bench: Any, bundles: list[Any]) -> None:
    from s2robot.deploy.bench.delay import as_text, bench_delay

    print("\n".join(as_text(bench_delay(bench, int(plain["threads"])))))


def _chaos(plain: dict[str, Any], bench: Any, bundles: list[Any]) -> None:
    from s2robot.deploy.bench.chaos import as_text, bench_chaos
    from s2robot.errors import S2RobotError

    result = bench_chaos(bench, int(plain["faults"]), int(plain["alone"]), int(plain["seed"]), int(plain["threads"]))
    print("\n".join(as_text(result)))
    if result["violations"]:
        raise S2RobotError(f"{result['violations']} violations; {bench.out / 'chaos.json'} lists them")
