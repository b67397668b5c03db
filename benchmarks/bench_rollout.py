"""Rollouts per minute: our loop against plain robosuite with the same policy, camera, frame size and dtype, in one run.

    python benchmarks/bench_rollout.py [--encoder s2] [--episodes 16] [--horizon 60] [--workers 2]

Rivals: robosuite's defaults (a hard reset per episode, a frame per step), and the same with `hard_reset=False`. The
policy is untrained (its cost does not depend on its weights), so every episode runs to the horizon. The loops are
timed in turn, twice, and the better of two is kept for each: what is compared is code, not the machine's neighbours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from s2robot.configs import choice
from s2robot.data.transforms import Normalise
from s2robot.encoders import load_encoder
from s2robot.gl import select_gl_backend
from s2robot.pipeline.evaluate import ROWS
from s2robot.pipeline.rollout import RolloutPool, rollout
from s2robot.policies.agent import Agent
from s2robot.policies.batch import Shapes
from s2robot.policies.policy import build_policy
from s2robot.types import Observation

CAMERA, FRAME_PX = "agentview", 224


def untrained_agent(encoder_name: str, rows: int) -> Agent:
    """Encoder and policy at their real sizes."""
    encoder = load_encoder(encoder_name)
    shapes = Shapes((CAMERA,), encoder.grid, encoder.channels, proprio=11, goal=0, action=7)
    torch.manual_seed(0)
    policy = build_policy(choice("policy", "bc_mlp"), shapes).to(encoder.device)
    return Agent(
        encoder, policy, Normalise((0.0,) * 11, (1.0,) * 11), Normalise((0.0,) * 7, (1.0,) * 7), [CAMERA], rows
    )


def plain_robosuite(encoder_name: str, episodes: int, horizon: int, hard_reset: bool) -> float:
    """Seconds of the loop that robosuite's documentation shows, after one episode of warm-up."""
    import robosuite

    from s2robot.envs.world import world_options

    agent = untrained_agent(encoder_name, rows=1)
    options = world_options()
    env = robosuite.make(
        "Lift",
        robots=options["robots"],
        controller_configs=options["controller_configs"],
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=CAMERA,
        camera_heights=FRAME_PX,
        camera_widths=FRAME_PX,
        control_freq=20,
        horizon=10 * horizon,
        hard_reset=hard_reset,
    )

    def play(count: int) -> None:
        for _ in range(count):
            seen = env.reset()
            agent.reset()
            for step in range(horizon):
                if step % agent.policy.execute == 0:
                    frame = np.ascontiguousarray(seen[f"{CAMERA}_image"][::-1])
                    chunk = agent.infer(
                        Observation({CAMERA: frame}, np.zeros(11, np.float32), np.zeros(0, np.float32), 0.0)
                    )
                seen, *_ = env.step(chunk[step % agent.policy.execute])

    play(1)
    start_s = time.perf_counter()
    play(episodes)
    spent_s = time.perf_counter() - start_s
    env.close()
    return spent_s


def ours(encoder_name: str, episodes: int, horizon: int, workers: int) -> float:
    """Seconds of our loop, after one round of warm-up in every slot."""
    agent = untrained_agent(encoder_name, rows=ROWS)
    task = {**choice("task", "lift"), "horizon": horizon, "frame_px": FRAME_PX, "cameras": [CAMERA]}
    with RolloutPool(task, workers) as pool:
        list(rollout(pool, agent, range(20_000, 20_008)))
        start_s = time.perf_counter()
        list(rollout(pool, agent, range(20_000, 20_000 + episodes)))
        return time.perf_counter() - start_s


def main() -> None:
    """Time the three loops in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="s2")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--horizon", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    select_gl_backend()
    few = max(2, args.episodes // 4)
    loops: dict[str, tuple[int, Callable[[int], float]]] = {
        "ours": (args.episodes, lambda n: ours(args.encoder, n, args.horizon, args.workers)),
        "robosuite, hard_reset=False": (few, lambda n: plain_robosuite(args.encoder, n, args.horizon, False)),
        "robosuite, defaults": (few, lambda n: plain_robosuite(args.encoder, n, args.horizon, True)),
    }
    per_minute = {name: 0.0 for name in loops}
    for _ in range(2):
        for name, (count, loop) in loops.items():
            per_minute[name] = max(per_minute[name], 60.0 * count / loop(count))
    print(f"encoder {args.encoder}, {args.horizon} steps per episode, {args.workers} workers, {FRAME_PX} px, {CAMERA}")
    for name, rate in per_minute.items():
        print(f"{name:30} {rate:8.1f} rollouts/min   ours is {per_minute['ours'] / rate:.1f} times as fast")


if __name__ == "__main__":
    main()
