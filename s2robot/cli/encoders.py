"""`s2robot encoders`: the catalogue with compute, tokens and latency."""

from __future__ import annotations

from typing import Any

HELP = "lists the encoders with their compute, tokens and measured latency"
VERBS: dict[str, str] = {}

CALLS = 20


def run(config: Any, verb: str) -> int | None:
    """One line per encoder; one that needs a value (a path) says so instead."""
    from s2robot.encoders import load_encoder
    from s2robot.encoders.load import encoder_names
    from s2robot.errors import S2RobotError

    print(f"{'name':12} {'sizes':16} {'GMAC':>7} {'params':>8} {'tiles':>5} {'tokens':>6} {'ms (batch 1)':>12}")
    for name in config.names or encoder_names():
        try:
            encoder = load_encoder(name, device=config.device)
        except S2RobotError as error:
            print(f"{name:12} {error}")
            continue
        cost, sizes = encoder.cost(), ",".join(map(str, encoder.sizes)) or "-"
        print(
            f"{name:12} {sizes:16} {cost.gmac:7.2f} {cost.params / 1e6:7.1f}M {cost.tiles:5} {cost.tokens:6} "
            f"{_latency_ms(encoder):12.1f}"
        )
    return None


def _latency_ms(encoder: Any) -> float:
    """Median time of one frame at the largest size."""
    import statistics
    import time

    import torch

    if not encoder.sizes:
        return 0.0
    frame = torch.zeros(1, 3, encoder.sizes[-1], encoder.sizes[-1], dtype=torch.uint8)
    times_s = []
    for _ in range(CALLS):
        start_s = time.perf_counter()
        encoder(frame).tokens.cpu()
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * statistics.median(times_s[3:])
