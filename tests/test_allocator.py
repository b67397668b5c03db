"""Memory that is freed and asked for again is not faulted in anew, and is given back at the end."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, resource, sys
from pathlib import Path
import torch
from s2robot.allocator import keep_freed_memory, large_blocks_kept

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

keep_freed_memory()
megabytes, before = int(sys.argv[1]), resident()
with large_blocks_kept() if sys.argv[2] == "kept" else contextlib.nullcontext():
    for _ in range(20):  # alignment takes a few blocks until one fits
        torch.zeros(megabytes * 2**18)
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(megabytes * 2**18)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
print((resident() - before) / 2**20)
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")


def faults_and_growth(megabytes: int, how: str) -> tuple[int, float]:
    """Page faults of twenty blocks, and MiB that the process is larger in the end."""
    command = [sys.executable, "-c", SCRIPT, str(megabytes), how]
    faults, growth = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(faults), float(growth)


def test_large_blocks_are_kept_meanwhile_and_then_given_back() -> None:
    faults, growth = faults_and_growth(100, "kept")
    assert faults < 100
    assert growth < 70
    faults, _ = faults_and_growth(100, "not kept")
    assert faults > 20 * 20  # of huge pages, where the kernel has them for such blocks; 512,000 of small ones


def test_smaller_blocks_are_kept_anyway() -> None:
    assert faults_and_growth(24, "not kept")[0] < 100
