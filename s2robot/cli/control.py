"""`s2robot control`: a policy on a robot, through the gate, at a fixed rate."""

from __future__ import annotations

from typing import Any

HELP = "runs a policy on a robot through the safety gate, at a fixed rate, and logs every tick"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Exit status 1 after a fault."""
    import numpy as np
    from omegaconf import OmegaConf

    from s2robot.deploy.session import control

    plain: Any = OmegaConf.to_container(config)
    summary = control(plain)
    late_ms = 1e3 * np.percentile(summary.timings.late, [50, 95, 99]) if summary.timings.late else np.zeros(3)
    print(
        f"{summary.ticks} ticks, {summary.sent} commands sent, {summary.held} held, {summary.missed} deadlines missed; "
        f"command after tick p50/p95/p99 {late_ms[0]:.1f}/{late_ms[1]:.1f}/{late_ms[2]:.1f} ms"
    )
    for reason, count in sorted(summary.counters.items(), key=lambda item: -item[1]):
        print(f"  {reason}: {count}")
    print(f"log: {plain['log']}; next: s2robot data report {plain['log']}")
    if summary.fault is not None:
        print(f"fault: {summary.fault}")
        return 1
    return None
