"""Which policies of configs/policy a test goes over."""

from __future__ import annotations

from s2robot.configs import choice, names

FROM_PIXELS = ("PixelObservation", "LoraObservation")
PIXEL_POLICIES = [
    name for name in names("policy") if choice("policy", name)["observation"]["_target_"].endswith(FROM_PIXELS)
]
SMALL_POLICIES = [name for name in names("policy") if not name.endswith("_paper") and name not in PIXEL_POLICIES]
