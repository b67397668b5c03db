"""Writes golden/s2.npz: outputs of the public reference package on our own tiny models and images.

    python tests/encoders/golden_s2.py --reference CHECKOUT

CHECKOUT is bfshi/scaling_on_scales at the commit named below (it needs einops). Only arrays are stored.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

UPSTREAM_COMMIT = "9c008a37540e761f53574b488979db6e49a64312"
GOLDEN = Path(__file__).parent / "golden" / "s2.npz"
# model, side of the input, sizes, tile, index of the size whose grid the output has. The package's own default for the
# tile is the side of the input, ours the first size: every case here says it.
CASES = [
    ("vit0", 64, (32, 64), 32, 0),
    ("vit1", 64, (32, 64), 32, 0),
    ("vit1", 64, (32, 64, 96), 32, 0),
    ("vit1", 48, (32, 64), 64, 0),
    ("vit1", 64, (32, 48), 32, 0),
    ("vit5", 64, (32, 64), 32, 0),
    ("vit5", 40, (40, 80), 40, 0),
    ("convnext", 64, (32, 64), 32, 0),
    ("convnext", 56, (32, 64, 96), 32, 0),
    ("vit1", 64, (32, 64), 32, 1),
    ("convnext", 64, (32, 48, 96), 32, 1),
    ("vit5", 64, (32, 64, 96), 32, 2),
]


def case_name(model: str, side: int, sizes: tuple[int, ...], tile: int, index: int) -> str:
    """Key of a case in the file."""
    return f"{model}_in{side}_sizes{'-'.join(map(str, sizes))}_tile{tile}_grid{index}"


def main() -> None:
    """Run every case through the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    sys.path[:0] = [str(parser.parse_args().reference), str(Path(__file__).parent)]
    from encoder_models import float_images, tiny_model
    from s2wrapper import forward

    arrays = {}
    for name, side, sizes, tile, index in CASES:
        layout, prefix = ("bchw", 0) if name == "convnext" else ("bnc", int(name.removeprefix("vit")))
        model, images = tiny_model(name), float_images(2, side)
        options = {"max_split_size": tile, "num_prefix_token": prefix, "output_shape": layout}
        options["resize_output_to_idx"] = index
        with torch.no_grad():
            out = forward(model, images, img_sizes=list(sizes), **options)
        arrays[case_name(name, side, sizes, tile, index)] = out.numpy()
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
