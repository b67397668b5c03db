"""Frames as they are: for policies that bring their own trainable vision, and so can share windows, cache and rollouts.

Every pixel of the resized square is a token of three channels in [-1, 1]. Nothing is frozen here that could be wrong.
"""

from __future__ import annotations

from torch import nn

from s2robot.encoders.backbone import Backbone
from s2robot.encoders.encoder import MultiscaleEncoder


def pixel_encoder(size: int, device: str = "auto", dtype: str = "auto") -> MultiscaleEncoder:
    """`size` x `size` tokens of a frame's centre square; `dtype` goes unused."""
    return MultiscaleEncoder(Backbone(nn.Identity(), "pixels", patch=1), sizes=(size,), dtype="float32", device=device)
