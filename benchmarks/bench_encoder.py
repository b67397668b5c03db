"""Our S2 encoder against the public reference package and against the bare backbone on as many tiles.

    python benchmarks/bench_encoder.py --reference CHECKOUT [--frames 8] [--threads 1] [--json FILE]

CHECKOUT is a clone of bfshi/scaling_on_scales (it needs einops). All run on the same random-weight ViT-Ti/16 in the
same process, from the same uint8 frames to features; the bare backbone starts from tiles that are cut and normalised
already. Repeats are interleaved, so that a busy machine slows all alike; ratios are medians of the ratios within a
repeat. Above 1 means that the second of a pair takes longer, i.e. the first is faster.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor

from s2robot.encoders import Backbone, MultiscaleEncoder
from s2robot.encoders.vision_model import VisionTokens

TILE, SIZES = 112, (112, 224)
PAIRS = [
    ("same dtype, float32: ours against the package", "package float32", "ours float32"),
    ("same dtype, bfloat16: ours against the package", "package bfloat16", "ours bfloat16"),
    ("over the bare backbone, float32", "bare float32", "ours float32"),
    ("over the bare backbone, bfloat16", "bare bfloat16", "ours bfloat16"),
    ("our fastest (bfloat16) against its default (float32)", "package float32", "ours bfloat16"),
]


def contestants(frames: Tensor, reference: Path) -> dict[str, Callable[[], Tensor]]:
    """Name -> one timed call from frames to features."""
    sys.path.insert(0, str(reference))
    from s2wrapper import forward

    config = transformers.ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=TILE, patch_size=16
    )
    torch.manual_seed(0)
    vit = VisionTokens(transformers.ViTModel(config, add_pooling_layer=False).eval())
    calls: dict[str, Callable[[], Tensor]] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = copy.deepcopy(vit).to(dtype)
        backbone = Backbone(copy.deepcopy(vit), "vit_tiny", patch=16, num_prefix_tokens=1, image_size=TILE)
        ours = MultiscaleEncoder(backbone, SIZES, dtype=name, device="cpu")
        tiles = torch.randn(5 * len(frames), 3, TILE, TILE).to(dtype)
        options = {"img_sizes": list(SIZES), "max_split_size": TILE, "num_prefix_token": 1}

        def package(model: VisionTokens = model, dtype: torch.dtype = dtype, options: dict = options) -> Tensor:
            return forward(model, ((frames.float() / 255 - 0.5) / 0.5).to(dtype), **options)

        calls[f"package {name}"] = package
        calls[f"ours {name}"] = lambda ours=ours: ours(frames).tokens
        calls[f"bare {name}"] = lambda model=model, tiles=tiles: model(tiles)
    return calls


def interleaved(calls: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds per call and repeat; every repeat starts with another contestant."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for repeat in range(repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print the table and, if asked, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8, help="frames per call, 224 px")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frames = torch.randint(0, 256, (args.frames, 3, SIZES[-1], SIZES[-1]), dtype=torch.uint8)
    with torch.no_grad():
        seconds = interleaved(contestants(frames, args.reference), args.repeats)
    report = {
        "frames": args.frames,
        "threads": args.threads,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "median_ms": {name: 1e3 * statistics.median(times) for name, times in seconds.items()},
        "ratio": {
            label: statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))
            for label, first, second in PAIRS
        },
    }
    for name, median in report["median_ms"].items():
        print(f"{name:20s} {median:8.1f} ms  {1e3 * args.frames / median:8.1f} frames/s")
    for label, ratio in report["ratio"].items():
        print(f"{ratio:6.2f} x  {label}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
