"""What every policy of the catalogue can and cannot represent, on data that fit into a line."""

from __future__ import annotations

from dataclasses import replace
from pydoc import locate
from typing import Any

import diffusers
import pytest
import torch

from s2robot.configs import choice, names
from s2robot.encoders import count_gmac
from s2robot.errors import S2RobotError
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.policies import attention
from s2robot.policies.attention import ContextAttention
from s2robot.policies.batch import Batch, Inputs, Shapes
from s2robot.policies.diffusion import Diffusion
from s2robot.policies.heads import Regression
from s2robot.policies.policy import ChunkPolicy, build_policy
from s2robot.policies.transformer import ContextDecoder
from s2robot.targets import instantiate
from tests.policy_names import PIXEL_POLICIES, SMALL_POLICIES

SHAPES = Shapes(cameras=(), grid=(0, 0), channels=0, proprio=3, goal=2, action=2)
REGRESSION = [
    name for name in SMALL_POLICIES if issubclass(locate(choice("policy", name)["head"]["_target_"]), Regression)
]


def inputs(policy: ChunkPolicy, rows: int, seed: int) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    proprio = 0.1 * torch.randn(rows, policy.observation_horizon, 3, generator=random)
    return Inputs({}, proprio, torch.eye(2)[torch.arange(rows) % 2])


def two_modes(policy: ChunkPolicy, steps: int, centre: float = 0.0) -> torch.Tensor:
    """Train on chunks left or right of the centre by chance; returns the first coordinate of 256 sampled chunks."""

    def batches(step: int) -> Batch:
        side = 1.0 - 2.0 * torch.randint(2, (64, 1, 1)).float()
        action = centre + side * torch.ones(64, policy.chunk, 2)
        return Batch(inputs(policy, 64, step), action, torch.ones(64, policy.chunk, dtype=torch.bool))

    state = TrainState.create(policy, Schedule(2e-3, steps, 10), seed=0, weight_decay=0.0, ema=False)
    for _ in fit(policy.loss, batches, state):
        pass
    policy.eval()
    noise = torch.randn(256, policy.chunk, 2, generator=torch.Generator().manual_seed(1))
    return policy.sample(inputs(policy, 256, -1), noise)[..., 0].mean(1)


def build(name: str) -> ChunkPolicy:
    """The policy with a net that trains in seconds."""
    changes: dict[str, Any] = {}
    net = choice("policy", name)["head"].get("net", {})
    if "widths" in net:
        changes = {"head": {"net": {"widths": [16, 32], "condition": 32}}}
    elif net:
        changes = {"head": {"net": {"width": 32, "layers": 2}}}
    torch.manual_seed(0)
    return build_policy(choice("policy", name, changes), SHAPES)


@pytest.mark.parametrize("name", [name for name in SMALL_POLICIES if name not in REGRESSION])
def test_a_generative_policy_keeps_both_modes(name: str) -> None:
    found = two_modes(build(name), steps=300)
    left, right = (found < -0.7).float().mean(), (found > 0.7).float().mean()
    assert min(left, right) > 0.25
    assert left + right > 0.8
    assert (found.abs() < 0.3).float().mean() < 0.1  # next to nothing in the middle, where their mean lies


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_does_not(name: str) -> None:
    policy = build(name)
    found = two_modes(policy, steps=200, centre=3.0)
    assert 1.8 < found.mean() < 4.2, "it has learnt where both lie"
    assert min((found < 2.3).float().mean(), (found > 3.7).float().mean()) < 0.1
    seen = inputs(policy, 8, 0)
    one, other = (policy.sample(seen, torch.randn(8, policy.chunk, 2)) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def diffusion(prediction: str, sampler: str = "ddim", steps: int = 8) -> Diffusion:
    return Diffusion(
        (1, 4), (4, 2), net=choice("policy", "diffusion_unet")["head"]["net"] | {"widths": [8]}, sampler=sampler,
        train_steps=100, steps=steps, prediction=prediction, clip=10.0,
    )  # fmt: skip


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 8), ("ddpm", 100), ("dpm++", 8), ("dpm++", 99)])
def test_a_sampler_finds_a_distribution_that_is_not_centred(sampler: str, steps: int, prediction: str) -> None:
    head = diffusion(prediction, sampler, steps)
    head.net = Exact(head.noiser.alphas_cumprod, mean=1.5, std=0.5, prediction=prediction)
    found = head.sample(torch.zeros(4096, 1, 4), torch.randn(4096, 4, 2, generator=torch.Generator().manual_seed(0)))
    assert found.mean() == pytest.approx(1.5, abs=0.05)
    assert 0.4 < found.std() < 0.55


@pytest.mark.parametrize("steps", [8, 10, 29, 60])
def test_every_step_of_ddim_ends_where_the_next_begins(steps: int) -> None:
    """Where all data are one chunk, the noise in it stays the same at every level that the net is told."""
    head, seen = diffusion("sample", steps=steps), []

    class Constant(Exact):
        def forward(self, noisy: torch.Tensor, moment: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
            signal = self.signal[(100 * moment[:, :, None]).round().long()]
            seen.append((noisy - 1.5 * signal.sqrt()) / (1 - signal).sqrt())
            return torch.full_like(noisy, 1.5)

    head.net = Constant(head.noiser.alphas_cumprod, mean=1.5, std=0.0)
    noise = torch.randn(8, 4, 2)
    found = head.sample(torch.zeros(8, 1, 4), noise)
    torch.testing.assert_close(torch.stack(seen), noise.expand(steps, 8, 4, 2), atol=2e-3, rtol=0)
    torch.testing.assert_close(found, torch.full_like(found, 1.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_any_number_of_steps_begins_at_pure_noise_and_takes_each_level_once(sampler: str) -> None:
    for steps in range(1, 101):
        levels = diffusion("sample", sampler, steps).levels
        assert (len(levels), levels[0]) == (steps, 99)
        assert levels == sorted(set(levels), reverse=True)
        assert levels[-1] >= 0


def test_samples_that_overlap_do_not_share_a_solvers_memory() -> None:
    head = diffusion("sample", "dpm++")
    context, noise = torch.randn(2, 8, 1, 4), torch.randn(2, 8, 4, 2)
    expected = head.sample(context[0], noise[0])
    real, entered = head.net.forward, []

    def interrupted(*args: Any) -> torch.Tensor:
        if len(entered) == 3:
            entered.append(True)
            head.sample(context[1], noise[1])
        entered.append(True)
        return real(*args)

    head.net.forward = interrupted  # type: ignore[method-assign]
    torch.testing.assert_close(head.sample(context[0], noise[0]), expected, rtol=0, atol=0)


def test_ddim_is_that_of_diffusers_where_the_steps_divide_the_levels() -> None:
    torch.manual_seed(0)
    head = diffusion("sample", steps=10)
    theirs = diffusers.DDIMScheduler(
        100, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    context, chunk = torch.randn(8, 1, 4), torch.randn(8, 4, 2)
    found, prepared = head.sample(context, chunk), head.net.prepare(context)
    for level in theirs.timesteps:
        guess = head.net(chunk, head.net.time(level[None] / 100).expand(8, -1), prepared)
        chunk = theirs.step(guess, level, chunk).prev_sample
    torch.testing.assert_close(found, chunk, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_small_error_of_the_noise_stays_small(sampler: str) -> None:
    """At the highest level nearly all is noise: its error counts a thousandfold in an unbounded clean chunk."""
    found = []
    for error in (0.0, 0.01):
        head = diffusion("epsilon", sampler, steps=10)
        head.clip = 2.0
        head.net = Exact(head.noiser.alphas_cumprod, mean=0.0, std=0.3, prediction="epsilon", error=error)
        noise = torch.randn(1024, 4, 2, generator=torch.Generator().manual_seed(0))
        found.append(head.sample(torch.zeros(1024, 1, 4), noise))
    assert (found[1] - found[0]).abs().mean() < 0.1


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_the_loss_is_least_for_what_is_to_be_predicted(prediction: str) -> None:
    """Of independent normal numbers the exact denoiser leaves the posterior's variance; of the other target more."""
    head, other = (diffusion(kind) for kind in (prediction, "epsilon" if prediction == "sample" else "sample"))
    action, mask = 1.5 + 0.5 * torch.randn(4096, 4, 2), torch.ones(4096, 4, dtype=torch.bool)
    exact = Exact(head.noiser.alphas_cumprod, mean=1.5, std=0.5, prediction=prediction)
    head.net = other.net = exact
    context = torch.zeros(4096, 1, 4)
    assert head.loss(context, action, mask) < 0.7 * other.loss(context, action, mask)


def test_a_chunk_that_nothing_bounds_may_go_further() -> None:
    found = []
    for clip in (1.0, None):
        torch.manual_seed(0)
        head = Diffusion(
            (1, 4), (4, 2), net=choice("policy", "diffusion_unet")["head"]["net"] | {"widths": [8]}, sampler="ddim",
            train_steps=100, steps=4, prediction="sample", clip=clip,
        )  # fmt: skip
        head.net = Exact(head.noiser.alphas_cumprod, mean=5.0, std=0.1, prediction="sample")
        found.append(head.sample(torch.zeros(8, 1, 4), torch.randn(8, 4, 2)).abs().max())
    assert found[0] <= 1.0
    assert found[1] > 4.0


def test_a_kernel_that_changes_the_length_of_a_chunk_is_refused() -> None:
    net = choice("policy", "diffusion_unet")["head"]["net"] | {"kernel": 4}
    with pytest.raises(S2RobotError, match="kernel=4; a chunk keeps its length with an odd one alone"):
        instantiate(net, (1, 4), (4, 2))


class Exact(torch.nn.Module):
    """The denoiser that knows the data, independent normal numbers, but for a constant error."""

    def __init__(
        self, signal: torch.Tensor, mean: float, std: float, prediction: str = "sample", error: float = 0.0
    ) -> None:
        super().__init__()
        self.signal, self.mean, self.variance, self.prediction, self.error = signal, mean, std**2, prediction, error

    def time(self, time: torch.Tensor) -> torch.Tensor:
        return time.unsqueeze(1)

    def prepare(self, context: torch.Tensor) -> torch.Tensor:
        return context

    def forward(self, noisy: torch.Tensor, moment: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        signal = self.signal[(100 * moment[:, :, None]).round().long()]
        gain = signal.sqrt() * self.variance / (signal * self.variance + 1 - signal)
        clean = self.mean + gain * (noisy - signal.sqrt() * self.mean)
        exact = clean if self.prediction == "sample" else (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
        return exact + self.error


def test_a_solver_that_would_divide_by_zero_is_refused() -> None:
    with pytest.raises(S2RobotError, match=r"steps=100 of train_steps=100 by dpm\+\+; give 1 to 99"):
        build_policy(choice("policy", "diffusion_unet", {"head": {"sampler": "dpm++", "steps": 100}}), SHAPES)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ({"clip": 0.0}, r"clip=0.0 would cut off actions of .*normalise=min_max, which come to 1; give at least that"),
        ({"clip": None, "prediction": "epsilon"}, "clip=null with prediction=epsilon: .* give a bound"),
    ],
)
def test_a_bound_that_bounds_too_much_or_too_little_is_refused(head: dict[str, Any], line: str) -> None:
    with pytest.raises(S2RobotError, match=line):
        build_policy(choice("policy", "diffusion_unet", {"head": head}), SHAPES)


def test_attention_to_the_context_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    ours = ContextAttention(32, 4, dropout=0.5, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    query, steps = (torch.randn(3, count, 32, requires_grad=True) for count in (5, 50))

    def found(module: torch.nn.MultiheadAttention) -> list[torch.Tensor]:
        """The output, and the gradients of all that it depends on."""
        out = module(query, steps, steps, need_weights=False)[0]
        return [out, *torch.autograd.grad(out.square().sum(), [query, steps, *module.parameters()])]

    torch.testing.assert_close(found(ours.eval()), found(theirs), atol=1e-5, rtol=1e-4)
    # What is dropped of a weight is dropped of the values' bias too: with it, half of the weights twice.
    kept = torch.zeros(3, 20, 50)
    kept[..., ::2] = 2.0
    monkeypatch.setattr(attention.F, "dropout", lambda weight, p, training: weight * kept)
    dropped = ours.train()(query, steps, steps)[0]
    weight = theirs(query, steps, steps, average_attn_weights=False)[1] * kept.view(3, 4, 5, 50)
    values = torch.nn.functional.linear(steps, theirs.in_proj_weight[64:], theirs.in_proj_bias[64:])
    by_hand = (weight @ values.unflatten(-1, (4, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(dropped, theirs.out_proj(by_hand), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL_POLICIES)
def test_a_blind_policy_uses_every_parameter(name: str) -> None:
    policy = build_policy(choice("policy", name), SHAPES)
    action, mask = torch.randn(4, policy.chunk, 2), torch.ones(4, policy.chunk, dtype=torch.bool)
    policy.loss(Batch(inputs(policy, 4, 0), action, mask)).backward()
    assert [key for key, value in policy.named_parameters() if value.grad is None] == []


CAMERAS = Shapes(cameras=("front", "wrist"), grid=(3, 3), channels=12, proprio=11, goal=2, action=7, scales=2)


@pytest.mark.parametrize("name", names("policy"))
def test_every_policy_learns_from_every_parameter_and_acts(name: str) -> None:
    shapes = replace(CAMERAS, grid=(224, 224), channels=3, scales=1) if name in PIXEL_POLICIES else CAMERAS
    policy = build_policy(choice("policy", name), shapes)
    steps, count = policy.observation_horizon, shapes.grid[0] * shapes.grid[1]
    tokens = {camera: torch.randn(2, steps, count, shapes.channels).half() for camera in shapes.cameras}
    seen = Inputs(tokens, torch.randn(2, steps, 11), torch.eye(2))
    action = torch.randn(2, policy.chunk, 7)
    policy.loss(Batch(seen, action, torch.ones(2, policy.chunk, dtype=torch.bool))).backward()
    trained = {key: value.grad for key, value in policy.named_parameters() if value.requires_grad}
    assert trained
    assert [key for key, grad in trained.items() if grad is None] == []
    if name.startswith("diffusion") and name.endswith("_paper"):
        policy.head.levels = policy.head.levels[::25]  # four of 100: quick
    noise = torch.randn(2, policy.chunk, 7)
    sampled = policy.eval().sample(seen, noise)
    assert sampled.shape == (2, policy.chunk, 7)
    assert torch.isfinite(sampled).all()
    assert count_gmac(policy.sample, seen, noise, weights=policy) > 0


def test_a_decoded_chunk_starts_from_the_newest_observation_even_where_attention_finds_nothing() -> None:
    torch.manual_seed(0)
    decoder = ContextDecoder((5, 6), 3, width=8, layers=2, heads=2, dropout=0.0, causal=False)
    for name, weight in decoder.named_parameters():
        if "multihead_attn.out_proj" in name:
            torch.nn.init.zeros_(weight)
    steps, context = torch.zeros(1, 3, 8), torch.randn(1, 5, 6)
    before = decoder(steps, decoder.memory(context))
    for place, counts in ((0, False), (4, True)):
        changed = context.clone()
        changed[:, place] += 1.0
        assert torch.allclose(decoder(steps, decoder.memory(changed)), before, atol=1e-5) != counts
