"""`s2robot doctor`: what is installed, what renders, and for everything missing the one line that mends it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from s2robot import __version__
from s2robot.cli._extras import SIGN_OF_EXTRA, demands, installed_version, remedy
from s2robot.gl import BACKENDS, probe_gl
from s2robot.machine import processor

HELP = "checks this machine: versions, processor, memory, rendering, and how to mend what is missing"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int:
    """Print the findings. Returns 0 when everything that the installed extras need works, else 2."""
    print(f"s2robot {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for name, text in machine().items():
        print(f"  {name:<10}{text}")
    problems: list[str] = []
    print("packages")
    for extra in ("", *SIGN_OF_EXTRA):
        problems += _print_extra(extra)
    if installed_version("mujoco") is not None:
        print("rendering")
        problems += _print_rendering()
    for problem in problems:
        print(f"to mend: {problem}")
    print(f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "everything installed works")
    return 2 if problems else 0


def machine() -> dict[str, str]:
    """Processor, memory, disk and accelerator in words."""
    return {"processor": _processor(), "memory": _memory(), "disk": _disk(), "cuda": _cuda()}


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores for this process"


def _memory() -> str:
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    if "MemTotal" not in kib:
        return "unknown"
    return f"{kib.get('MemAvailable', 0) / 2**20:.1f} of {kib['MemTotal'] / 2**20:.1f} GiB free"


def _disk() -> str:
    return f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free in {Path.cwd()}"


def _cuda() -> str:
    if installed_version("torch") is None:
        return "not asked (no torch)"
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a CUDA library that does not load
        return f"torch does not import: {error}"
    if not torch.cuda.is_available():
        return "none"
    device = torch.cuda.get_device_properties(0)
    return f"{device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _print_extra(extra: str) -> list[str]:
    """One line per extra. Returns what must be mended; an extra that is not installed at all is not a problem."""
    wanted = demands()[extra]
    label = extra or "base"
    if extra and installed_version(SIGN_OF_EXTRA[extra]) is None:
        print(f"  {label:<10}not installed: pip install 's2robot[{extra}]'")
        return []
    print(f"  {label:<10}{', '.join(f'{d.name} {d.installed}' for d in wanted if d.installed)}")
    return [
        f"{d.name} {d.installed} is installed, allowed is {d.allowed}: {remedy(d.name)}"
        if d.installed
        else f"{d.name} is missing for [{label}]: {remedy(d.name)}"
        for d in wanted
        if not d.fits
    ]


def _print_rendering() -> list[str]:
    """One line per GL backend. One of them is enough."""
    probes = [probe_gl(backend) for backend in BACKENDS]
    for probe in probes:
        words = f"{probe.detail}, first frame after {probe.took_s:.1f} s" if probe.works else f"no: {probe.detail}"
        print(f"  {probe.backend:<10}{words}")
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked:
        print(f"  MUJOCO_GL={asked} is set and decides")
    usable = [p for p in probes if not asked or p.backend == asked]
    if any(p.works for p in usable):
        return []
    if usable:
        return [f"nothing renders here: {usable[0].remedy}"]
    return [f"MUJOCO_GL={asked} is not checked here: unset it, or set it to one of {', '.join(BACKENDS)}"]


def _read(path: str) -> str:
    """The text of a file of /proc; empty on systems without it."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
