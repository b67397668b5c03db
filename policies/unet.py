"""The 1-D conditional U-Net over the action chunk (Diffusion Policy, arXiv 2303.04137, section III-A and appendix).

Steps lie before features, and convolutions are matrix products over gathered steps: on chunks this short they are
quicker than convolution kernels on a CPU, and a row's result does not depend on its place in the batch.

Dims: b batch, s context steps, e their width, k chunk, a action, d features, c condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError
from s2robot.policies.denoiser import TimeEmbedding


class UnetDenoiser(nn.Module):
    """A noisy chunk, its noise level and the context to a chunk: convolutions over time, halved once per width but the
    last; context and noise level modulate every block (FiLM, arXiv 1709.07871).

    `blocks` are those of every level and of the middle, two as published. `condition` is the width that the flat
    context is brought to first, which the published net does not do: an elementwise function of an odd width may round
    differently from row to row, and the blocks' layers stay small.
    """

    def __init__(
        self,
        context: tuple[int, int],
        action: tuple[int, int],
        *,
        widths: Sequence[int],
        blocks: int,
        condition: int,
        kernel: int,
        groups: int,
    ) -> None:
        super().__init__()
        step = 2 ** (len(widths) - 1)
        if action[0] % step:
            raise S2RobotError(f"chunk={action[0]} cannot be halved {len(widths) - 1} times; give a multiple of {step}")
        if kernel % 2 == 0:
            raise S2RobotError(f"kernel={kernel}; a chunk keeps its length with an odd one alone")
        self.time = TimeEmbedding(condition)
        self.context = nn.Linear(context[0] * context[1], condition)

        def chain(inputs: int, outputs: int) -> Chain:
            sizes = [inputs] + [outputs] * blocks
            return Chain(FilmBlock(i, o, condition, kernel, groups) for i, o in pairwise(sizes))

        pairs = list(pairwise([action[1], *widths]))
        self.down = nn.ModuleList([chain(i, o) for i, o in pairs])
        self.shrink = nn.ModuleList([Convolution(w, w, 3, stride=2) for w in widths[:-1]])
        self.middle = chain(widths[-1], widths[-1])
        ups = [(2 * o, i) for i, o in reversed(pairs[1:])]
        self.up = nn.ModuleList([chain(i, o) for i, o in ups])
        self.grow = nn.ModuleList([Doubling(o) for _, o in ups])
        self.out = nn.Sequential(_layer(widths[0], widths[0], kernel, groups), nn.Linear(widths[0], action[1]))

    def prepare(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b c"]:
        """What the context contributes, the same at every noise level."""
        return self.context(context.flatten(1))

    def forward(
        self, noisy: Float[Tensor, "b k a"], moment: Float[Tensor, "b c"], prepared: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b k a"]:
        """As `denoiser.Denoiser`."""
        condition = moment + prepared
        x = noisy
        skips = []
        for level, chain in enumerate(self.down):
            x = chain(x, condition)
            skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        x = self.middle(x, condition)
        for chain, grow in zip(self.up, self.grow, strict=True):
            x = grow(chain(torch.cat([x, skips.pop()], dim=-1), condition))
        return self.out(x)


class Chain(nn.ModuleList):
    """Blocks one after another under one condition."""

    def forward(self, x: Float[Tensor, "b k d"], condition: Float[Tensor, "b c"]) -> Float[Tensor, "b k d2"]:
        """All of them."""
        for block in self:
            x = block(x, condition)
        return x


class FilmBlock(nn.Module):
    """Two convolutions with group norm and Mish, the first scaled and shifted by the condition; residual."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = _layer(inputs, outputs, kernel, groups)
        self.second = _layer(outputs, outputs, kernel, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outputs))
        self.skip = nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b k d"], condition: Float[Tensor, "b c"]) -> Float[Tensor, "b k d2"]:
        """One block."""
        scale, shift = self.film(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.second(torch.addcmul(shift, self.first(x), 1 + scale)) + self.skip(x)


class Convolution(nn.Module):
    """A convolution over steps with zeros around them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.linear = nn.Linear(kernel * inputs, outputs)

    def forward(self, x: Float[Tensor, "b k d"]) -> Float[Tensor, "b k2 d2"]:
        """k / stride steps."""
        padded = F.pad(x, (0, 0, self.kernel // 2, self.kernel // 2))
        return self.linear(padded.unfold(1, self.kernel, self.stride).flatten(2))


class Doubling(nn.Module):
    """Two steps out of each and its neighbours; a transposed convolution of kernel 4 and stride 2 is a special case."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = Convolution(width, 2 * width, 3)

    def forward(self, x: Float[Tensor, "b k d"]) -> Float[Tensor, "b k2 d"]:
        """2 k steps."""
        return self.convolution(x).unflatten(-1, (2, -1)).flatten(1, 2)


class StepNorm(nn.GroupNorm):
    """Group norm (arXiv 1803.08494) for steps that lie before features: over the steps and features of a group."""

    def forward(self, x: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """Mean 0 and variance 1, then the learned scale and shift per feature."""
        normed = super().forward(x.transpose(1, 2)).transpose(1, 2)
        return normed.contiguous()  # the gradient of Mish is eight times as slow on a transposed view


def _layer(inputs: int, outputs: int, kernel: int, groups: int) -> nn.Module:
    return nn.Sequential(Convolution(inputs, outputs, kernel), StepNorm(groups, outputs), nn.Mish())
