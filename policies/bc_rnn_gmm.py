"""Behaviour cloning by an LSTM over the observations and a mixture of Gaussians over the chunk (robomimic's BC-RNN-GMM,
arXiv 2108.03298, section 4).

Dims: b batch, s context steps, e their width, k chunk, a action, m modes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

LOW_NOISE_STD = 1e-4  # at evaluation, as in robomimic: a mode's mean, not a draw around it


class LstmMixture(nn.Module):
    """The LSTM reads the window from its oldest step anew at every decision, so a chunk depends on nothing else.

    A mode is a whole chunk: all its steps come from one component. `min_std` bounds the spread of normalised actions
    from below.
    """

    def __init__(
        self, context: tuple[int, int], action: tuple[int, int], *, hidden: int, layers: int, modes: int, min_std: float
    ) -> None:
        super().__init__()
        self.shape, self.min_std = (modes, *action), min_std
        self.lstm = nn.LSTM(context[1], hidden, layers, batch_first=True)
        self.weight = nn.Linear(hidden, modes)
        self.mean = nn.Linear(hidden, modes * action[0] * action[1])
        self.spread = nn.Linear(hidden, modes * action[0] * action[1])

    def loss(
        self, context: Float[Tensor, "b s e"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Negative log-likelihood (nats) per unmasked action element."""
        logits, mean, std = self._mixture(context)
        density = torch.distributions.Normal(mean, std).log_prob(action.unsqueeze(1))
        density = (density * mask[:, None, :, None]).sum((2, 3))  # (b, m)
        likelihood = torch.logsumexp(logits.log_softmax(1) + density, dim=1)
        return -likelihood.sum() / (mask.sum() * action.shape[-1]).clamp(min=1)

    def sample(self, context: Float[Tensor, "b s e"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """A mode drawn by its weight, with very little noise around its mean."""
        logits, mean, _ = self._mixture(context)
        uniform = torch.special.ndtr(noise[:, 0, 0])  # the noise's first number chooses the mode
        mode = (logits.softmax(1).cumsum(1) < uniform.unsqueeze(1)).sum(1).clamp(max=logits.shape[1] - 1)
        return mean[torch.arange(len(mean)), mode] + LOW_NOISE_STD * noise

    def _mixture(
        self, context: Float[Tensor, "b s e"]
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m k a"], Float[Tensor, "b m k a"]]:
        last = self.lstm(context)[0][:, -1]
        mean = self.mean(last).unflatten(1, self.shape)
        return self.weight(last), mean, F.softplus(self.spread(last)).unflatten(1, self.shape) + self.min_std
