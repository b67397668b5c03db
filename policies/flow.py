"""Flow matching over action chunks: the same nets as diffusion, trained to point from noise to data.

Dims: b batch, s context steps, e their width, k chunk, a action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError
from s2robot.policies.heads import masked_mean
from s2robot.targets import instantiate


class FlowMatching(nn.Module):
    """Straight paths from noise at time 0 to the chunk at time 1 (arXiv 2210.02747, section 4; 2209.03003); the net
    predicts their velocity, Euler's method follows it in `steps` steps.
    """

    def __init__(
        self, context: tuple[int, int], action: tuple[int, int], *, net: Mapping[str, Any], steps: int
    ) -> None:
        super().__init__()
        if steps < 1:
            raise S2RobotError(f"steps={steps}; give at least 1")
        self.net = instantiate(net, context, action)
        self.steps = steps

    def loss(
        self, context: Float[Tensor, "b s e"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Squared error of the velocity at a random time per row."""
        noise = torch.randn_like(action)
        time = torch.rand(len(action), device=action.device)
        place = noise.lerp(action, time[:, None, None])
        guess = self.net(place, self.net.time(time), self.net.prepare(context))
        return masked_mean(F.mse_loss(guess, action - noise, reduction="none"), mask)

    def sample(self, context: Float[Tensor, "b s e"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Chunks from the given noise."""
        chunk, prepared = noise, self.net.prepare(context)
        for moment in self.net.time(torch.arange(self.steps, device=noise.device) / self.steps):
            chunk = chunk + self.net(chunk, moment.expand(len(chunk), -1), prepared) / self.steps
        return chunk
