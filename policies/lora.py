"""Low-rank adapters in the vision backbone (LoRA, arXiv 2106.09685), trained with the policy from pixels.

An upper line beside frozen features: the backbone's own weights stay as they are, what is added to its linear layers
is trained. So nothing is frozen in the sense of this project, no feature can be cached (the encoder is `pixels`), and
every step runs the backbone forwards and backwards. The adapters are those of the peft library.

Dims: b batch, o observation horizon, n tokens (pixels on the way in, patches on the way out), c channels, s context
steps, e their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from s2robot.encoders import load_encoder
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.multiscale import area_pool
from s2robot.encoders.vision_model import VisionTokens
from s2robot.errors import S2RobotError
from s2robot.policies.batch import Inputs, Shapes
from s2robot.policies.observation import PooledObservation


class LoraObservation(PooledObservation):
    """`PooledObservation` on the tokens of an adapted encoder, at all of its scales.

    Args:
        shapes: of dataset and of the encoder `pixels`.
        horizon: time steps of observation.
        encoder: name of the encoder whose backbone is adapted, or its configuration.
        rank: of the adapters in every linear layer of the backbone.
        alpha: their output is scaled by alpha / rank.
        adapter_dropout: on their input, in training.
        pooled: as for `PooledObservation`.

    Raises S2RobotError for tokens that are not pixels or too few for the encoder's largest scale, and for an encoder
    that is no transformer.
    """

    def __init__(
        self,
        shapes: Shapes,
        horizon: int,
        *,
        encoder: str | Mapping[str, Any],
        rank: int,
        alpha: float,
        adapter_dropout: float,
        **pooled: Any,
    ) -> None:
        import peft

        base = load_encoder(encoder, device="cpu", dtype="float32")
        if not isinstance(base, MultiscaleEncoder) or not isinstance(base.backbone.model, VisionTokens):
            raise S2RobotError(f"encoder {base.name!r} has no transformer that adapters could be added to")
        if shapes.channels != 3 or shapes.grid[0] < base.sizes[-1]:
            raise S2RobotError(
                f"tokens of {shapes.channels} channels on a grid of {shapes.grid[0]}: this policy adapts {base.name} "
                f"from pixels; give encoder=pixels encoder.size={base.sizes[-1]}"
            )
        seen = replace(shapes, grid=base.grid, channels=base.channels, scales=len(base.sizes))
        super().__init__(seen, horizon, **pooled)
        self.side = shapes.grid[0]
        self.multiscale = base.multiscale
        self.mean, self.std = base.backbone.mean, base.backbone.std
        self.vision = base.backbone.model
        adapters = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=adapter_dropout, target_modules="all-linear")
        peft.inject_adapter_in_model(adapters, self.vision.model)

    def set_statistics(self, camera: str, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """The training tokens are pixels, whose statistics say nothing of the adapted tokens: nothing is kept."""

    def forward(self, inputs: Inputs) -> Float[Tensor, "b s e"]:
        """A vector per time step, oldest first."""
        return super().forward(replace(inputs, tokens={c: self._adapted(x) for c, x in inputs.tokens.items()}))

    def _adapted(self, pixels: Float[Tensor, "b o n 3"]) -> Float[Tensor, "b o m c"]:
        """Pixels in [-1, 1] to tokens of all scales, with gradients."""
        rows = pixels.shape[:2]
        images = pixels.float().flatten(0, 1).transpose(1, 2).unflatten(2, (self.side, self.side))
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        images = ((images + 1) / 2 - mean) / std
        maps = self.multiscale(self.vision, images).map
        return area_pool(maps, self.shapes.grid).flatten(2).transpose(1, 2).unflatten(0, rows)
