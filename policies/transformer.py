"""Transformers over the action chunk: a decoder that attends to the context, and the denoiser built on it.

Dims: b batch, s context steps, e their width, m steps that are attended to, k chunk, a action, w width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.policies.attention import ContextAttention
from s2robot.policies.denoiser import TimeEmbedding


class ContextDecoder(nn.Module):
    """Pre-norm decoder layers: the chunk's steps begin with the last of the context and attend to themselves and to it.

    `causal` lets an action see those before it alone, as Diffusion Policy's transformer does (arXiv 2303.04137,
    section III-A).
    """

    def __init__(
        self,
        context: tuple[int, int],
        chunk: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(chunk, width) * 0.02)
        self.project = nn.Linear(context[1], width)
        self.start = nn.Linear(width, width)
        self.context_place = nn.Parameter(torch.randn(context[0], width) * 0.02)
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        layer.multihead_attn = ContextAttention(width, heads, dropout, batch_first=True)
        self.layers = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        hidden = torch.full((chunk, chunk), float("-inf")).triu(1) if causal else None
        self.register_buffer("hidden", hidden, persistent=False)

    hidden: Tensor | None

    def memory(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b s w"]:
        """The context as the layers attend to it."""
        return self.project(context) + self.context_place

    def forward(self, steps: Float[Tensor, "b k w"], memory: Float[Tensor, "b m w"]) -> Float[Tensor, "b k w"]:
        """Embedded steps to decoded ones."""
        return self.layers(steps + self.place + self.start(memory[:, -1:]), memory, tgt_mask=self.hidden)


class TransformerDenoiser(nn.Module):
    """A noisy chunk, its noise level and the context to a chunk: Diffusion Policy's transformer (arXiv 2303.04137)."""

    def __init__(
        self,
        context: tuple[int, int],
        action: tuple[int, int],
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(width)
        self.into = nn.Linear(action[1], width)
        self.decoder = ContextDecoder(context, action[0], width, layers, heads, dropout, causal)
        self.out = nn.Linear(width, action[1])

    def prepare(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b s w"]:
        """What the context contributes, the same at every noise level."""
        return self.decoder.memory(context)

    def forward(
        self, noisy: Float[Tensor, "b k a"], moment: Float[Tensor, "b w"], prepared: Float[Tensor, "b s w"]
    ) -> Float[Tensor, "b k a"]:
        """As `denoiser.Denoiser`; the noise level is one more step of context."""
        return self.out(self.decoder(self.into(noisy), torch.cat([moment.unsqueeze(1), prepared], dim=1)))
