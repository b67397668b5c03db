"""The end-to-end line: a ResNet-18 trained from pixels with the policy, which frozen features are measured against.

For the encoder `pixels`. As in Diffusion Policy (arXiv 2303.04137, section III-B): group norm instead of batch norm,
random crops in training and the middle one afterwards, spatial softmax; one network per camera.

Dims: b batch, o observation horizon, n tokens (here pixels), h w side of the crop (px), e width of the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError
from s2robot.policies.batch import Inputs, Shapes
from s2robot.policies.observation import ObservationEncoder
from s2robot.targets import instantiate

CHANNELS_PER_GROUP = 16
STRIDE = 32  # of a ResNet


class PixelObservation(ObservationEncoder):
    """One vector per time step: every camera's crop through its own ResNet and pool, proprioception and the goal.

    Args:
        shapes: of dataset and encoder, whose tokens are pixels.
        horizon: time steps of observation.
        crop: side of the crops (px).
        pool: configuration of one of `pools`, on the network's last map.
        common: as for every observation encoder.
    """

    def __init__(self, shapes: Shapes, horizon: int, *, crop: int, pool: Mapping[str, Any], **common: Any) -> None:
        super().__init__(shapes, horizon, per_scale=False, **common)
        side = shapes.grid[0]
        if shapes.channels != 3 or not STRIDE <= crop <= side:
            raise S2RobotError(
                f"crop={crop} of tokens of {shapes.channels} channels on a grid of {side}: this policy is trained from "
                f"pixels; give encoder=pixels and a crop of {STRIDE} to encoder.size"
            )
        self.crop, self.side = crop, side
        cells = -(-crop // STRIDE)
        width = 512
        self.nets = nn.ModuleDict({camera: _resnet18() for camera in shapes.cameras})
        pools = {camera: instantiate(pool, (cells, cells), width, shapes.goal) for camera in shapes.cameras}
        self.pools = nn.ModuleDict(pools)
        views = sum(int(made.dim) for made in pools.values())
        self.shape = (horizon, views + shapes.proprio + shapes.goal)

    def set_statistics(self, camera: str, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Pixels have the same range everywhere: nothing is kept."""

    def forward(self, inputs: Inputs) -> Float[Tensor, "b s e"]:
        """A vector per time step, oldest first."""
        views = []
        for stream, tokens, kept in self.read(inputs):
            camera = stream.rsplit("_", 1)[0]
            frames = tokens.unflatten(2, (self.side, self.side)).permute(0, 1, 4, 2, 3)
            maps = self.nets[camera](pixel_values=self._cropped(frames)).last_hidden_state
            cells = maps.flatten(2).transpose(1, 2).unflatten(0, tokens.shape[:2])
            views.append(self.pools[camera](cells, inputs.goal) * kept[:, None, None])
        goal = inputs.goal.unsqueeze(1).expand(-1, self.horizon, -1)
        return torch.cat([*views, self.proprio(inputs), goal], dim=-1)

    def _cropped(self, frames: Float[Tensor, "b o 3 side side"]) -> Float[Tensor, "bo 3 h w"]:
        """A crop per sample in training, the same at all its time steps; the middle one otherwise."""
        spare = self.side - self.crop
        if not self.training:
            top = left = spare // 2
            return frames[..., top : top + self.crop, left : left + self.crop].flatten(0, 1)
        rows = len(frames)
        corner = torch.randint(spare + 1, (rows, 2), device=frames.device)
        reach = torch.arange(self.crop, device=frames.device)
        y, x = (corner[:, i, None] + reach for i in range(2))
        sample = torch.arange(rows, device=frames.device)[:, None, None]
        cropped = frames.permute(0, 3, 4, 1, 2)[sample, y[:, :, None], x[:, None, :]]  # (b, h, w, o, 3)
        return cropped.permute(0, 3, 4, 1, 2).flatten(0, 1)


def _resnet18() -> nn.Module:
    """Hugging Face's ResNet-18 from scratch, group norm in place of batch norm."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    net = ResNetModel(config)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(child.num_features // CHANNELS_PER_GROUP, child.num_features))
    return net
