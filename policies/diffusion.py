"""Diffusion over action chunks (Diffusion Policy, arXiv 2303.04137); schedules and samplers come from `diffusers`.

Dims: b batch, s context steps, e their width, k chunk, a action.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError, unknown_name
from s2robot.policies.heads import masked_mean
from s2robot.targets import instantiate

SAMPLERS = ("ddpm", "ddim", "dpm++")


class Diffusion(nn.Module):
    """A denoiser trained at random noise levels, sampled in a few steps.

    Args:
        context: shape of the context.
        action: shape of a chunk.
        net: configuration of the denoiser (`denoiser.Denoiser`).
        sampler: ddpm (arXiv 2006.11239), ddim with eta 0 (2010.02502) or dpm++ (second order, 2211.01095; its first
            order is ddim, and is what runs under that name).
        train_steps: noise levels, on the squared cosine schedule (2102.09672).
        steps: denoising steps at inference.
        prediction: what the net predicts, "epsilon" (the noise) or "sample" (the clean chunk).
        clip: bound of a clean chunk's normalised values while it is denoised; None, for predicted samples alone, for
            none.

    Raises S2RobotError for values that do not fit.
    """

    def __init__(
        self,
        context: tuple[int, int],
        action: tuple[int, int],
        *,
        net: Mapping[str, Any],
        sampler: str,
        train_steps: int,
        steps: int,
        prediction: str,
        clip: float | None,
    ) -> None:
        super().__init__()
        if prediction not in ("epsilon", "sample"):
            raise unknown_name("prediction", prediction, ("epsilon", "sample"))
        most = train_steps - (sampler == "dpm++")  # its solver divides by the gap between two levels
        if not 1 <= steps <= most:
            raise S2RobotError(f"steps={steps} of train_steps={train_steps} by {sampler}; give 1 to {most}")
        if clip is not None and clip <= 0:
            raise S2RobotError(f"clip={clip}; give a bound above 0, or null for none")
        if clip is None and prediction == "epsilon":
            raise S2RobotError(
                "clip=null with prediction=epsilon: at the highest level an error of the noise is magnified a "
                "thousandfold in the chunk; give a bound, 1 for min_max and 6 for z_score"
            )
        self.net = instantiate(net, context, action)
        self.train_steps, self.steps, self.prediction, self.clip = train_steps, steps, prediction, clip
        self.noiser, self.sampler = _scheduler("ddpm", train_steps), sampler
        self.scheduler = _scheduler(sampler, train_steps)
        if sampler == "dpm++":
            self.scheduler.set_timesteps(steps)
        else:  # as "trailing" spaces them, from the highest down: below it a little of the chunk is taken for known
            spaced = np.round(train_steps - np.arange(steps) * train_steps / steps).astype(int) - 1
            self.scheduler.set_timesteps(timesteps=spaced.tolist())
        self.levels: list[int] = self.scheduler.timesteps.tolist()
        self.signals: list[float] = self.noiser.alphas_cumprod.tolist()

    def loss(
        self, context: Float[Tensor, "b s e"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Squared error of the prediction at a random noise level per row."""
        level = torch.randint(self.train_steps, (len(action),), device=action.device)
        noise = torch.randn_like(action)
        noisy = self.noiser.add_noise(action, noise, level)
        target = noise if self.prediction == "epsilon" else action
        guess = self.net(noisy, self.net.time(level / self.train_steps), self.net.prepare(context))
        return masked_mean(F.mse_loss(guess, target, reduction="none"), mask)

    def sample(self, context: Float[Tensor, "b s e"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Chunks from the given noise. DDPM's further noise comes from a generator per row that this noise seeds."""
        scheduler = self._fresh_scheduler()
        more: dict[str, Any] = {"generator": _generators(noise)} if self.sampler == "ddpm" else {}
        chunk, prepared = noise, self.net.prepare(context)
        moments = self.net.time(noise.new_tensor(self.levels) / self.train_steps)
        for level, moment in zip(self.levels, moments, strict=True):
            guess = self.net(chunk, moment.expand(len(chunk), -1), prepared)
            chunk = scheduler.step(self._clean(guess, level, chunk), level, chunk, **more).prev_sample
        return chunk

    def _fresh_scheduler(self) -> Any:
        """One that has taken no step yet: solvers remember the step they are at and their last two guesses."""
        scheduler = copy.copy(self.scheduler)
        if self.sampler != "ddpm":
            scheduler.model_outputs = [None] * len(scheduler.model_outputs)
            scheduler.set_begin_index(0)
        return scheduler

    def _clean(
        self, guess: Float[Tensor, "b k a"], level: int, noisy: Float[Tensor, "b k a"]
    ) -> Float[Tensor, "b k a"]:
        """The bounded clean chunk that the net's prediction amounts to."""
        if self.prediction == "epsilon":
            signal = self.signals[level]
            guess = (noisy - (1 - signal) ** 0.5 * guess) / signal**0.5
        return guess if self.clip is None else guess.clamp(-self.clip, self.clip)


def _scheduler(name: str, train_steps: int) -> Any:
    """It steps by clean chunks, whatever the net predicts.

    ddim is the first order of dpm++'s solver: diffusers' DDIMScheduler ends a step beside where the next begins, unless
    the steps divide the levels.
    """
    import diffusers

    schedule = {"num_train_timesteps": train_steps, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}
    if name == "ddpm":
        return diffusers.DDPMScheduler(clip_sample=False, **schedule)
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return diffusers.DPMSolverMultistepScheduler(solver_order=1 if name == "ddim" else 2, **schedule)


def _generators(noise: Float[Tensor, "b k a"]) -> list[torch.Generator]:
    """One per row, seeded by its bits: what a row gets does not depend on its neighbours."""
    bits = noise.detach().float().cpu().view(torch.int32).flatten(1).long().sum(1)
    return [torch.Generator().manual_seed(int(seed) & 0x7FFF_FFFF) for seed in bits]
