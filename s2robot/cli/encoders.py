"""`s2robot encoders`: the catalogue with compute, tokens and latency, and sizes of equal compute."""

from __future__ import annotations

from typing import Any

HELP = "lists the encoders with their compute, tokens and measured latency; match=NAME gives sizes of equal compute"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """One line per encoder as soon as it is measured; one that needs a value (a path) says so instead."""
    from dataclasses import asdict
    from pathlib import Path

    from s2robot.configs import listed
    from s2robot.encoders.load import encoder_names
    from s2robot.errors import unknown_name
    from s2robot.pipeline.catalogue import Entry, matches, require_target, survey
    from s2robot.storage import write_json

    known = encoder_names()
    names = list(listed(config.names) or known)
    for name in [*names, *([config.match] if config.match else [])]:
        if name not in known:
            raise unknown_name("encoder", name, known)
    report: dict[str, Any] = {"encoders": []}
    if config.match:
        require_target(config.match)
    scales = f"{'GMAC 1':>8} {'(1, 2)':>8} {'(1, 2, 3)':>9}"
    print(f"{'name':18} {'sizes':9} {'params':>8} {scales} {'tokens':>6} {'ms, batch 1':>11}  {'dtype':9} licence")
    for entry in survey(names, config.device, config.latency):
        if not isinstance(entry, Entry):
            print(f"{entry[0]:18} {entry[1]}")
            continue
        report["encoders"].append(asdict(entry))
        gmac = "{:8.2f} {:8.2f} {:9.2f}".format(*entry.gmac_scales)
        latency = "-" if entry.latency_ms is None else f"{entry.latency_ms:.1f}"
        sizes = ",".join(map(str, entry.sizes)) or "-"
        print(
            f"{entry.name:18} {sizes:9} {entry.params / 1e6:7.1f}M {gmac} {entry.tokens:6} {latency:>11}  "
            f"{entry.dtype:9} {entry.licence}",
            flush=True,
        )
    if config.out:  # timing takes minutes: nothing below may lose it
        write_json(Path(config.out), report)
    if config.match:
        report["match"] = {"target": config.match, "sizes": []}
        print(f"\nS2 sizes of the compute of {config.match}, within {config.tolerance:.0%}:")
        for found in matches(config.match, [name for name in names if name != config.match], config.tolerance):
            if isinstance(found, tuple):
                print(f"{found[0]:18} {found[1]}", flush=True)
                continue
            report["match"]["sizes"].append(asdict(found))
            print(f"{found.name:18} {','.join(map(str, found.sizes)):18} {found.ratio:.3f} times its GMAC", flush=True)
    if config.out:
        write_json(Path(config.out), report)
        print(f"written: {config.out}")
    return None
