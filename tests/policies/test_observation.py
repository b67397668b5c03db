"""How tokens are read: pools look where the goal says, or say that they do not; cameras are never all left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s2robot.configs import choice
from s2robot.errors import S2RobotError
from s2robot.policies.batch import Batch, Inputs, Shapes
from s2robot.policies.observation import PooledObservation
from s2robot.policies.policy import build_policy
from s2robot.targets import instantiate

POOLS: dict[str, dict[str, Any]] = {
    "KeypointPool": {"hidden": 8, "keypoints": 3, "value_dim": 4, "dim": 16},
    "AttentionPool": {"width": 16, "heads": 2, "queries": 2, "dim": 16},
    "GridPool": {"rank": 2, "dim": 16},
    "MeanPool": {"dim": 16},
}
SHAPES = Shapes(cameras=("front", "wrist"), grid=(3, 3), channels=12, proprio=5, goal=2, action=7, scales=2)


def pool(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = {"_target_": f"s2robot.policies.pools.{name}", **POOLS[name], **changes}
    return instantiate(config, SHAPES.grid, SHAPES.channels, SHAPES.goal)


@pytest.mark.parametrize("name", POOLS)
def test_what_a_pool_makes_of_a_frame_depends_on_the_frame_alone_and_on_the_goal_if_it_says_so(name: str) -> None:
    made, tokens = pool(name), torch.randn(4, 2, 9, 12)
    red, blue = torch.eye(2)[0].expand(4, 2), torch.eye(2)[1].expand(4, 2)
    found = made(tokens, red)
    assert found.shape == (4, 2, made.dim)
    torch.testing.assert_close(made(tokens[2:3, 1:], red[:1]), found[2:3, 1:])
    asked = not torch.allclose(made(tokens, blue), found, atol=1e-4)
    assert asked == (name in ("KeypointPool", "AttentionPool"))


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_knows_where_in_the_grid_a_thing_is_but_for_the_mean(name: str) -> None:
    made, tokens = pool(name), torch.zeros(1, 1, 9, 12)
    tokens[0, 0, 2] = torch.randn(12)
    moved = tokens.roll(3, dims=2)
    goal = torch.eye(2)[:1]
    assert torch.allclose(made(tokens, goal), made(moved, goal), atol=1e-5) == (name == "MeanPool")


def observation(**changes: Any) -> PooledObservation:
    torch.manual_seed(0)
    config = choice("policy", "bc_mlp", {"observation": {"token_dropout": 0.0, "proprio_noise": 0.0} | changes})
    policy = build_policy(config, SHAPES)
    assert isinstance(policy.observation, PooledObservation)
    return policy.observation


def seen(rows: int = 64) -> Inputs:
    tokens = {camera: torch.randn(rows, 1, 9, 12) for camera in SHAPES.cameras}
    return Inputs(tokens, torch.zeros(rows, 1, 5), torch.eye(2)[:1].expand(rows, 2))


def test_scales_read_apart_see_their_own_channels_alone() -> None:
    made, inputs = observation(per_scale=True).eval(), seen(2)
    assert made.streams() == ["front_0", "front_1", "wrist_0", "wrist_1"]
    before = made(inputs)
    inputs.tokens["wrist"][..., :6] += 1.0
    changed = (made(inputs) - before).abs().amax((0, 1)) > 1e-6
    views = made.pools["front_0"].dim
    assert [bool(changed[i * views : (i + 1) * views].any()) for i in range(4)] == [False, False, True, False]


def test_fusion_by_attention_lets_one_camera_change_what_is_read_of_another() -> None:
    inputs = seen(2)
    views = None
    for fusion, mixes in (("concat", False), ("attention", True)):
        made = observation(fusion=fusion).eval()
        views = made.pools["front_0"].dim
        before = made(inputs)[..., :views]
        inputs.tokens["wrist"][:] += 1.0
        assert (not torch.allclose(made(inputs)[..., :views], before, atol=1e-6)) == mixes
    with pytest.raises(S2RobotError, match="fusion='sum'; allowed: concat, attention"):
        observation(fusion="sum")


def test_cameras_are_left_out_in_training_alone_and_never_all() -> None:
    made = observation(camera_dropout=0.6)
    kept = torch.stack([part for _, _, part in made.read(seen(4000))], dim=1)
    assert kept.sum(1).min() == 1
    assert kept.mean().item() == pytest.approx(0.4 + 0.36 / 2, abs=0.03)
    assert torch.stack([part for _, _, part in made.eval().read(seen(8))], dim=1).min() == 1


def test_a_camera_whose_name_no_layer_may_have_is_one_line() -> None:
    with pytest.raises(S2RobotError, match=r"policy bc_mlp cannot be built: .*got: cam\.left"):
        build_policy(choice("policy", "bc_mlp"), Shapes(("cam.left",), (2, 2), 4, proprio=3, goal=0, action=2))


def test_a_head_that_attends_soon_finds_what_the_goal_names() -> None:
    """Two kinds of token among noise on a grid of 5 x 5; where the named one lies is what to do. A context of tokens
    alone is at 0.5 or more after these steps, nobody's guess at 0.6.
    """
    side, rows, generator = 5, 64, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    small = {"chunk": 2, "execute": 2, "observation": {"width": 32}, "head": {"width": 32, "layers": 2}}
    shapes = Shapes(cameras=("front",), grid=(side, side), channels=8, proprio=3, goal=2, action=2, scales=1)
    policy = build_policy(choice("policy", "bc_transformer", small), shapes)
    optimizer, losses = torch.optim.AdamW(policy.parameters(), 3e-3), []
    for _ in range(80):
        tokens = 0.3 * torch.randn(rows, 1, side * side, shapes.channels, generator=generator)
        cells = torch.rand(rows, side * side, generator=generator).topk(2).indices
        for kind in range(2):
            tokens[torch.arange(rows), 0, cells[:, kind], kind] += 3
        goal = torch.randint(2, (rows,), generator=generator)
        named = cells[torch.arange(rows), goal]
        place = torch.stack([named % side, named // side], dim=-1) / (side - 1) * 2 - 1
        inputs = Inputs({"front": tokens}, torch.zeros(rows, 1, 3), torch.eye(2)[goal])
        loss = policy.loss(Batch(inputs, place[:, None].expand(-1, 2, -1), torch.ones(rows, 2, dtype=torch.bool)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.35
