"""Masked autoencoding (He et al., arXiv 2111.06377), the family that MVP belongs to: no labels at all.

The encoder sees a quarter of the patches; a small decoder, thrown away, has to paint the others from its tokens.

Dims: b batch, s crop side (px), n patches, m visible ones, c channels, d width of the decoder, p values of a patch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

PATCH = 16
MASKED = 0.75  # share of the patches that the encoder does not see
WIDTH, DEPTH, HEADS = 128, 2, 4  # of the decoder


class MaskedReconstruction(nn.Module):
    """Decoder and loss over a ViT backbone of transformers, whose class token comes first."""

    def __init__(self, backbone: Any, masked: float = MASKED) -> None:
        super().__init__()
        config = backbone.config
        self.masked = masked
        self.embed = nn.Linear(config.hidden_size, WIDTH)
        self.hidden = nn.Parameter(torch.zeros(WIDTH))
        self.place = nn.Parameter(0.02 * torch.randn((config.image_size // PATCH) ** 2, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.paint = nn.Linear(WIDTH, 3 * PATCH**2)

    def terms(self, backbone: Any, images: Float[Tensor, "b 3 s s"], order: Int64[Tensor, "b n"]) -> dict[str, Tensor]:
        """Mean squared error on the masked patches, each normalised to mean 0 and variance 1 as in the paper.

        The first quarter of `order` is what the encoder sees.
        """
        kept = order[:, : round(len(self.place) * (1 - self.masked))]
        painted = self.paint(self.decoder(self._with_hidden(_visible_tokens(backbone, images, kept), kept)))
        target = _patches(images)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(target.shape[:2], device=images.device).scatter(1, kept, 0.0)
        errors = (painted.float() - target).square().mean(-1)
        return {"mae": (errors * hidden).sum() / hidden.sum()}

    def _with_hidden(self, visible: Float[Tensor, "b m c"], kept: Int64[Tensor, "b m"]) -> Float[Tensor, "b n d"]:
        """The visible tokens back in their places, the mask token in the others."""
        known = self.embed(visible)
        everywhere = self.hidden.to(known.dtype).expand(len(known), len(self.place), -1)
        filled = everywhere.scatter(1, kept[..., None].expand(-1, -1, WIDTH), known)
        return filled + self.place


def _visible_tokens(backbone: Any, images: Tensor, kept: Int64[Tensor, "b m"]) -> Float[Tensor, "b m c"]:
    """The encoder on the class token and the kept patches alone, which is what makes MAE cheap."""
    embedded = backbone.embeddings(images)
    chosen = embedded[:, 1:].gather(1, kept[..., None].expand(-1, -1, embedded.shape[-1]))
    tokens = torch.cat([embedded[:, :1], chosen], dim=1)
    for layer in backbone.layers:
        tokens = layer(tokens, None)
    return backbone.layernorm(tokens)[:, 1:]


def _patches(images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n p"]:
    """The pixels of every patch, rows of patches first."""
    return F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
