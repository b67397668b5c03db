"""Dense supervision by what the simulator knows for free; the head is linear and thrown away.

Every token predicts, for 4 x 4 cells of its patch: what is there (background, table, robot, object), the offset to the
object's centre (on the robot: to its grip site), the object's colour before light, and depth. So position, extent and
colour have to stand in the tokens. Objects win a cell that they share: a 1 cm cube is one or two pixels.

Dims: b batch, n tokens (g x g), c channels, k cells per side (4 per token), o outputs of a cell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.pipeline.pretrain.crops import CELLS, FAR_CELLS, ROBOT, CropBatch

CLASSES = 4  # background, table, robot, object
OUTPUTS = CLASSES + 2 + 3 + 1  # + centre offset, albedo, log depth
CLASS_WEIGHTS = (1.0, 1.0, 1.5, 6.0)  # objects fill about 2 % of the cells
ALBEDO_WEIGHT = 4.0  # brings its error to the size of the others'


class DenseLabels(nn.Module):
    """The linear head and its loss."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, OUTPUTS * CELLS * CELLS)

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b k k o"]:
        """What each cell of each token's patch is said to be."""
        g = int(tokens.shape[1] ** 0.5)
        cells = self.head(tokens).view(len(tokens), g, g, CELLS, CELLS, OUTPUTS)
        return cells.permute(0, 1, 3, 2, 4, 5).reshape(len(tokens), g * CELLS, g * CELLS, OUTPUTS)

    def terms(self, tokens: Float[Tensor, "b n c"], batch: CropBatch) -> dict[str, Tensor]:
        """The five losses."""
        logits, offset, albedo, log_depth = self(tokens).float().split([CLASSES, 2, 3, 1], dim=-1)
        weight = torch.tensor(CLASS_WEIGHTS, device=logits.device)
        robot = (batch.label == ROBOT).unsqueeze(-1)
        # Apart: the robot fills ten times as many cells, most of them far from its grip site.
        to_centre, to_grip = batch.offset.masked_fill(robot, torch.nan), batch.offset.masked_fill(~robot, torch.nan)
        return {
            "class": F.cross_entropy(logits.flatten(0, 2), batch.label.flatten(), weight=weight),
            "offset": mean_where_known(F.smooth_l1_loss, offset, to_centre),
            "grip": mean_where_known(F.smooth_l1_loss, offset, to_grip) / FAR_CELLS,
            "albedo": ALBEDO_WEIGHT * mean_where_known(F.l1_loss, albedo, batch.albedo),
            "depth": F.smooth_l1_loss(log_depth.squeeze(-1), batch.log_depth),
        }


def mean_where_known(loss: Callable[..., Tensor], guess: Tensor, target: Tensor) -> Tensor:
    """Mean of `loss` over the entries of `target` that are not NaN; 0 where all are."""
    known = ~target.isnan()
    errors = loss(guess, target.nan_to_num(), reduction="none") * known
    return errors.sum() / known.sum().clamp(min=1)
