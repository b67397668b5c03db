"""Heads: the observation vector to an action chunk. Each has `loss` and `sample` and nothing else.

Dims: b batch, k chunk, a action, d observation vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class RegressionHead(nn.Module):
    """An MLP trained with L1 on the chunk: behaviour cloning with action chunks (arXiv 2304.13705, without the VAE)."""

    def __init__(self, dim: int, chunk: int, action: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.shape = (chunk, action)
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, chunk * action),
        )  # fmt: skip

    def loss(
        self, vector: Float[Tensor, "b d"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Mean absolute error over the unmasked actions."""
        return masked_mean((self.net(vector).unflatten(1, self.shape) - action).abs(), mask)

    def sample(self, vector: Float[Tensor, "b d"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """The predicted chunk; deterministic, so the noise goes unused."""
        return self.net(vector).unflatten(1, self.shape)


class DiffusionHead(nn.Module):
    """An MLP denoiser that predicts the clean chunk (Diffusion Policy, arXiv 2303.04137), sampled with DDIM.

    Schedules and samplers come from `diffusers`. `steps` are DDIM's at inference, out of `train_steps`.
    """

    def __init__(self, dim: int, chunk: int, action: int, hidden: int, train_steps: int, steps: int) -> None:
        super().__init__()
        from diffusers import DDIMScheduler

        self.shape = (chunk, action)
        self.steps = steps
        self.scheduler = DDIMScheduler(
            num_train_timesteps=train_steps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=CLIP_RANGE,
        )
        self.condition = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.time = nn.Embedding(train_steps, hidden)
        self.into = nn.Linear(chunk * action, hidden)
        self.blocks = nn.ModuleList([ResidualBlock(hidden) for _ in range(3)])
        self.out = nn.Linear(hidden, chunk * action)

    def loss(
        self, vector: Float[Tensor, "b d"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Squared error of the predicted clean chunk at a random diffusion step."""
        step = torch.randint(len(self.time.weight), (len(action),), device=action.device)
        noisy = self.scheduler.add_noise(action, torch.randn_like(action), step)
        return masked_mean(F.mse_loss(self._denoise(noisy, step, vector), action, reduction="none"), mask)

    def sample(self, vector: Float[Tensor, "b d"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """DDIM (eta 0) from the given noise: the same noise gives the same chunk."""
        self.scheduler.set_timesteps(self.steps)
        chunk = noise
        for t in self.scheduler.timesteps:
            clean = self._denoise(chunk, t.expand(len(chunk)).to(chunk.device), vector)
            chunk = self.scheduler.step(clean, t, chunk).prev_sample
        return chunk

    def _denoise(self, noisy: Tensor, step: Tensor, vector: Tensor) -> Tensor:
        x = self.into(noisy.flatten(1))
        condition = self.condition(vector) + self.time(step)
        for block in self.blocks:
            x = block(x, condition)
        return self.out(x).unflatten(1, self.shape)


CLIP_RANGE = 3.0  # normalised actions stay within three deviations


class ResidualBlock(nn.Module):
    """LayerNorm, FiLM by the condition, MLP, residual."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.film = nn.Linear(hidden, 2 * hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, x: Float[Tensor, "b h"], condition: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
        """One residual step."""
        scale, shift = self.film(F.gelu(condition)).chunk(2, dim=-1)
        return x + self.mlp(self.norm(x) * (1 + scale) + shift)


def masked_mean(error: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean over unmasked steps and all action elements."""
    weight = mask.unsqueeze(-1).to(error.dtype)
    return (error * weight).sum() / (weight.sum() * error.shape[-1]).clamp(min=1.0)
